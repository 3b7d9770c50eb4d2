"""Prompts and answers for the page that shows them: read once, line by line, in blocks that the page opens on demand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from brittle_eval.errors import BrittleError
from brittle_eval.evaluation.assess import Attempt, request
from brittle_eval.reporting.report_source import Source, read_checked
from brittle_eval.reporting.visible import embedded

CHUNK = 100
"""Prompts of a block."""


@dataclass(frozen=True)
class Answers:
    """The samples of one task by one model."""

    task: str
    model: str
    file: Path


class Samples:
    """Blocks of prompts and answers, then an index of them: `index` is complete after `blocks` has been read to its end."""

    def __init__(self, source: Source) -> None:
        """BrittleError for samples that are missing."""
        self._answers = list(_found(source))
        if not self._answers:
            raise BrittleError(f"{source.path} has no samples of answers: leave --with-samples out")
        self._index: dict[str, list[dict[str, Any]]] = {}

    def blocks(self) -> Iterator[Markup]:
        """Script elements with the JSON of a chunk of prompts each."""
        for number, answers in enumerate(self._answers):
            known = self._index.setdefault(answers.task, [])
            entry: dict[str, Any] = {"name": answers.model, "id": f"s{number}", "flags": ""}
            known.append(entry)
            chunk: list[dict[str, Any]] = []
            for place, line in read_checked(answers.file):
                item, flag = _item(line, answers.file, place, sent=len(known) == 1)
                chunk.append(item)
                entry["flags"] += flag
                if len(chunk) == CHUNK:
                    yield _script(f"s{number}-{(len(entry['flags']) - 1) // CHUNK}", chunk)
                    chunk = []
            if chunk:
                yield _script(f"s{number}-{(len(entry['flags']) - 1) // CHUNK}", chunk)

    def index(self) -> Markup:
        """Of every task its models, with a letter for what became of each prompt."""
        tasks = [{"name": name, "models": models} for name, models in self._index.items()]
        return _script("samples-index", {"chunk": CHUNK, "tasks": tasks})


def _found(source: Source) -> Iterator[Answers]:
    """The answered tasks of every row."""
    names = [row.name for row in source.rows]
    for row in source.rows:
        seed = f", seed {source.seed(row)}" if names.count(row.name) > 1 and source.seed(row) is not None else ""
        for task in row.tasks:
            if task.status == "done" and "attempts" in task.values:
                file = source.folder(row) / f"samples_{task.task}.jsonl"
                if not file.exists():
                    raise BrittleError(f"{file} is missing: leave --with-samples out, or repeat the run")
                yield Answers(task.task, f"{row.name}{seed}", file)


def _item(line: Mapping[str, Any], file: Path, place: int, sent: bool) -> tuple[dict[str, Any], str]:
    """A prompt as the page reads it, and its letter: answered, refused, degenerate, unscored, or another answer."""
    try:
        attempts = [Attempt.read(one) for one in line["attempts"]]
        item = {"q": request(line), "a": [_attempt(one) for one in attempts]}
        more = {"p": line.get("prefill") or None, "s": line["prompt"] if sent else None}
    except (KeyError, TypeError, AttributeError) as error:
        raise BrittleError(f"{file}, line {place}: no sample of a run ({error}); repeat the run in a new folder") from None
    return item | {key: value for key, value in more.items() if value}, _flag(attempts)


def _attempt(attempt: Attempt) -> dict[str, Any]:
    verdicts = {name: [said.positive, said.reason] for name, said in attempt.verdicts.items()}
    return {"t": attempt.text, "d": attempt.degenerate, "v": verdicts}


def _flag(attempts: list[Attempt]) -> str:
    if any(one.counts for one in attempts):
        return "a"
    if any(one.refused for one in attempts):
        return "r"
    return "d" if any(one.degenerate for one in attempts) else "u"


def _script(name: str, value: Any) -> Markup:
    return Markup('<script type="application/json" id="{}">').format(name) + embedded(value) + Markup("</script>\n")
