"""A run's stored answers judged again: no model under test is loaded, and rows and results are written anew."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from brittle_eval.errors import BrittleError
from brittle_eval.evaluation.assess import Attempt, as_records, request
from brittle_eval.evaluation.conclude import as_samples, count
from brittle_eval.judgement.judges import Chosen, described, identity
from brittle_eval.judgement.judging import UNFINISHED_THINKING, judge_records
from brittle_eval.judgement.verdicts import Verdicts
from brittle_eval.methods import Judge, Record, Verdict
from brittle_eval.progress import bar
from brittle_eval.running.comparison import against_unedited
from brittle_eval.running.record import Row, RunFolder, TaskResult, read_lines

Say = Callable[[str], None]


@dataclass
class Answers:
    """What one task of one row left: its result, its stored lines, and every attempt as read and as judges see it."""

    row: str
    result: TaskResult
    lines: list[dict[str, Any]]
    attempts: list[list[Attempt]]
    records: list[list[Record | None]]

    def each(self) -> Iterator[tuple[int, int, Attempt, Record | None]]:
        """Every attempt with the number of its line and its own number in it."""
        for line, (attempts, records) in enumerate(zip(self.attempts, self.records, strict=True)):
            for number, (attempt, record) in enumerate(zip(attempts, records, strict=True)):
                yield line, number, attempt, record


def judge_run(folder: RunFolder, judges: dict[str, Chosen], say: Say) -> list[Row]:
    """Ask each judge about every stored answer, one judge after another, and count the run's rows anew.

    `judges` is emptied on the way, so that one judge's model is gone before the next is loaded. Every verdict is on disk
    before the next batch, so that an interrupted call goes on where it was; samples, rows and results are each replaced whole.
    """
    rows = finished(folder)
    answers = [found for row in rows for found in stored_answers(folder, row)]
    if not answers:
        raise BrittleError(f"{folder.path} holds no answers to judge: its tasks compare likelihoods")
    known = described(judges)
    for name in list(judges):
        _ask(folder, name, judges.pop(name).judge, answers, say)
        gc.collect()
    counted: dict[tuple[str, str], TaskResult] = {}
    for found in answers:
        names = [*dict.fromkeys([*_before(found), *known])]
        result = count(found.result, found.lines, found.attempts, names)
        folder.finish(found.row, result, as_samples(found.lines, found.attempts))
        counted[found.row, result.task] = result
    rows = against_unedited([_updated(folder, row, counted, known) for row in rows])
    folder.write_rows(rows)
    return rows


def finished(folder: RunFolder) -> list[Row]:
    """The rows of a run that is done; BrittleError for one that is not."""
    rows = folder.rows()
    if rows is None:
        raise BrittleError(f"the run in {folder.path} is not finished: repeat its command to finish it, then judge it")
    return rows


def stored_answers(folder: RunFolder, row: Row) -> Iterator[Answers]:
    """The stored answers of a row's tasks; BrittleError for a samples file that is missing or damaged."""
    for task in row.tasks:
        if task.status != "done" or "attempts" not in task.values:
            continue
        file = folder.path / row.name / f"samples_{task.task}.jsonl"
        try:
            lines = read_lines(file)
            attempts = [[Attempt.read(attempt) for attempt in line["attempts"]] for line in lines]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BrittleError(f"{file} cannot be read ({error}): its answers are needed; run again into a new folder") from None
        texts = [[attempt.text for attempt in of_line] for of_line in attempts]
        cut = [[attempt.cut for attempt in of_line] for of_line in attempts]
        yield Answers(row.name, task, lines, attempts, as_records([request(line) for line in lines], texts, cut))


def _ask(folder: RunFolder, name: str, judge: Judge, answers: Sequence[Answers], say: Say) -> None:
    kept = Verdicts(folder.path / "verdicts" / f"{name}.jsonl", identity(judge))
    if kept.replaced:
        say(f"{name}: its earlier verdicts were of another version or other options: asked again")
    records = [record for found in answers for _, _, _, record in found.each() if record is not None]
    waiting = kept.missing(records)
    say(f"{name}: {len(records)} answers, {len(waiting)} to judge")
    with bar(name, len(waiting)) as advance:
        for start in range(0, len(waiting), judge.at_once):
            batch = waiting[start : start + judge.at_once]
            kept.add(batch, judge_records({name: judge}, batch)[name])
            advance(len(batch))
    for found in answers:
        for line, number, attempt, record in found.each():
            said = Verdict(None, UNFINISHED_THINKING) if record is None else kept.of(record)
            found.attempts[line][number] = replace(attempt, verdicts={**attempt.verdicts, name: said})


def _before(found: Answers) -> list[str]:
    """The judges that every attempt already has a verdict of."""
    named = [list(attempt.verdicts) for _, _, attempt, _ in found.each()]
    return [name for name in (named[0] if named else []) if all(name in verdicts for verdicts in named)]


def _updated(
    folder: RunFolder, row: Row, counted: Mapping[tuple[str, str], TaskResult], known: Mapping[str, dict[str, Any]]
) -> Row:
    tasks = [counted.get((row.name, task.task), task) for task in row.tasks]
    return replace(row, tasks=tasks, judges={**row.judges, **known}, files=row.files | folder.files(row.name))
