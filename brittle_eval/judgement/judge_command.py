"""What `brittle-eval judge` does: judges over a run's folder or over labelled texts, and what the labels say of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from brittle_eval.errors import BrittleError
from brittle_eval.judgement.judges import Chosen, check_hosts, choose
from brittle_eval.judgement.judging import judge_records
from brittle_eval.judgement.labels import Label, Place, read_labels, scores
from brittle_eval.judgement.rejudge import finished, judge_run, stored_answers
from brittle_eval.judgement.verdicts import answer_key
from brittle_eval.methods import Verdict
from brittle_eval.plugins import Plugins
from brittle_eval.running.record import Row, RunFolder

Say = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """The command's arguments."""

    run: Path | None
    judges: tuple[str, ...] = ()
    against: Path | None = None
    hosts: tuple[str, ...] = ()
    plugins: tuple[Path, ...] = ()


def start(asked: Asked, say: Say = print) -> tuple[list[Row], dict[str, Any] | None]:
    """The run's rows, counted anew, and what the labels say of its judges; all mistakes show before a judge is asked."""
    if not (asked.judges or (asked.run and asked.against)):
        raise BrittleError("nothing to do: give --judge A,B to judge the run's answers, or --against FILE with labels of them")
    if asked.run is None and asked.against is None:
        raise BrittleError("no run was given: brittle-eval judge RUN --judge A,B")
    judges = choose(asked.judges, Plugins.load(asked.plugins))
    check_hosts(judges, asked.hosts)
    labels = read_labels(asked.against) if asked.against else None
    if asked.run is None:
        assert labels is not None
        return [], _of_texts(labels, judges)
    folder = RunFolder.stored(asked.run)
    with folder.opened():
        names = list(judges)
        rows = judge_run(folder, judges, say) if judges else finished(folder)
        return rows, None if labels is None else _of_run(folder, rows, labels, names)


def _of_texts(labels: Mapping[Place, Label], judges: Mapping[str, Chosen]) -> dict[str, Any]:
    """Judges on the labels' own texts."""
    if any(label.record is None for label in labels.values()):
        raise BrittleError("labels without prompt and response need the run that has them: brittle-eval judge RUN --against FILE")
    records = [label.record for label in labels.values() if label.record is not None]
    said = judge_records({name: chosen.judge for name, chosen in judges.items()}, records)
    verdicts = {place: {name: said[name][index] for name in said} for index, place in enumerate(labels)}
    return scores(labels, verdicts, list(judges))


def _of_run(folder: RunFolder, rows: list[Row], labels: Mapping[Place, Label], names: list[str]) -> dict[str, Any]:
    """The verdicts that the run has, of the judges just asked or of all that every answer was judged by."""
    verdicts: dict[Place, Mapping[str, Verdict]] = {}
    for row in rows:
        for found in stored_answers(folder, row):
            for line, number, attempt, record in found.each():
                verdicts[row.name, found.result.task, found.lines[line]["doc_id"], number] = attempt.verdicts
                if record is not None:
                    verdicts[answer_key(replace(record, cut=False))] = attempt.verdicts
    everywhere = [name for name in rows[0].judges if all(name in said for said in verdicts.values())]
    return scores(labels, verdicts, names or everywhere)
