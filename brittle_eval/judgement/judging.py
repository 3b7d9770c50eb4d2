"""Stored answers to verdicts: every judge over every record; and what of an answer is judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from brittle_eval.errors import BrittleError
from brittle_eval.judgement.time_limit import OutOfTime, at_most
from brittle_eval.methods import Judge, Record, Verdict

UNFINISHED_THINKING = "unfinished thinking"
"""The reason of a verdict on an answer that `final_answer` gives None for."""
CUT = "the answer was cut when other judges had decided: run again without --stop-when-decided"
"""The reason of a judge that needs more of a cut answer than is there."""


def judge_records(judges: Mapping[str, Judge], records: Sequence[Record]) -> dict[str, list[Verdict]]:
    """One verdict a record and judge, in order, by the judge's name.

    Of a record that was cut, a judge is asked for its final verdict only, and the record is unscored if it has none.
    A judge that raises on the batch, or takes longer than its limit, is asked record by record, and where it does so again
    the record is unscored, with the reason. A judge is made ready before the clock runs.

    Raises BrittleError for a judge that gives another number of verdicts, or none at all.
    """
    return {name: _judge(name, judge, records) for name, judge in judges.items()}


def decided(judges: Mapping[str, Judge], text: str, thinking: tuple[str, str] | None = None, thinks: bool = False) -> bool:
    """Whether no continuation of an answer's text can change any judge's verdict.

    A model that `thinks` decides nothing before its trace has ended: what comes before is not judged.
    """
    if thinks and thinking and thinking[1] not in text:
        return False
    answer = final_answer(text, thinking)
    return answer is not None and all(_final(judge, answer) is not None for judge in judges.values())


def _final(judge: Judge, text: str) -> Verdict | None:
    """The judge's final verdict; one that raises has none, so that the answer goes on and `judge` says what is wrong."""
    try:
        return judge.final(text)
    except BrittleError:
        raise
    except Exception:
        return None


def _judge(name: str, judge: Judge, records: Sequence[Record]) -> list[Verdict]:
    whole = iter(_judge_whole(name, judge, [record for record in records if not record.cut]))
    return [(_final(judge, record.response) or Verdict(None, CUT)) if record.cut else next(whole) for record in records]


def _judge_whole(name: str, judge: Judge, records: Sequence[Record]) -> list[Verdict]:
    if not records:
        return []
    judge.ready()
    try:
        with at_most(judge.time_limit):
            verdicts = judge.judge(records)
    except BrittleError:
        raise
    except (Exception, OutOfTime):
        return [_judge_one(name, judge, record) for record in records]
    return _checked(name, verdicts, len(records))


def _judge_one(name: str, judge: Judge, record: Record) -> Verdict:
    try:
        with at_most(judge.time_limit):
            verdicts = judge.judge([record])
    except BrittleError:
        raise
    except OutOfTime:
        return Verdict(None, f"the judge took longer than {judge.time_limit:g} s")
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
