"""Stored answers to verdicts: every judge over every record; and what of an answer is judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from brittle_eval.errors import BrittleError
from brittle_eval.methods import Judge, Record, Verdict

UNFINISHED_THINKING = "unfinished thinking"
"""The reason of a verdict on an answer that `final_answer` gives None for."""


def judge_records(judges: Mapping[str, Judge], records: Sequence[Record]) -> dict[str, list[Verdict]]:
    """One verdict a record and judge, in order, by the judge's name.

    A judge that raises on the batch is asked record by record, and where it raises again the record is unscored, with
    the exception as reason. Raises BrittleError for a judge that gives another number of verdicts, or none at all.
    """
    return {name: _judge(name, judge, records) for name, judge in judges.items()}


def _judge(name: str, judge: Judge, records: Sequence[Record]) -> list[Verdict]:
    if not records:
        return []
    try:
        verdicts = judge.judge(records)
    except BrittleError:
        raise
    except Exception:
        return [_judge_one(name, judge, record) for record in records]
    return _checked(name, verdicts, len(records))


def _judge_one(name: str, judge: Judge, record: Record) -> Verdict:
    try:
        verdicts = judge.judge([record])
    except BrittleError:
        raise
    except Exception as error:
        message = " ".join(str(error).split())[:200]
        return Verdict(None, f"the judge raised {type(error).__name__}{': ' + message if message else ''}")
    return _checked(name, verdicts, 1)[0]


def _checked(name: str, verdicts: object, expected: int) -> list[Verdict]:
    if not isinstance(verdicts, Sequence) or not all(isinstance(verdict, Verdict) for verdict in verdicts):
        raise BrittleError(f"judge '{name}' gave {type(verdicts).__name__} that is no list of Verdict: mend its judge(records)")
    if len(verdicts) != expected:
        raise BrittleError(
            f"judge '{name}' gave {len(verdicts)} verdicts for {expected} records: judge(records) must give one each"
        )
    return list(verdicts)


def final_answer(text: str, thinking: tuple[str, str] | None = None) -> str | None:
    """The answer without its thinking trace, or None if the trace does not end.

    `thinking` are the tags that open and close a trace, such as `("<think>", "</think>")`; an empty opening tag says
    that the prompt has opened it. Traces at the start are removed; a closing tag without an opening one ends a trace
    that the prompt opened. Later pairs of tags are part of the answer.
    """
    if thinking is None:
        return text
    opening, closing = thinking
    start = text.lstrip()
    if not (opening and start.startswith(opening)):
        _, found, rest = text.partition(closing)
        if not found:
            return None if not opening else text
        start = rest.lstrip()
    while opening and start.startswith(opening):
        _, found, rest = start.partition(closing)
        if not found:
            return None
        start = rest.lstrip()
    return start
