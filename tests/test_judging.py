"""Judges that behave, crash and miscount; and what of an answer is judged."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brittle_eval import BrittleError, Judge, Record, Verdict
from brittle_eval.judgement.judging import final_answer, judge_records

RECORDS = [Record("p", "fine"), Record("p", "trap"), Record("p", "good")]
TAGS = ("<think>", "</think>")


class Length(Judge):
    """Positive: an answer of four characters and more."""

    calls: list[int]

    def __init__(self) -> None:
        self.calls = []

    def judge(self, records: Sequence[Record]) -> list[Verdict]:
        self.calls.append(len(records))
        return [Verdict(len(record.response) >= 4) for record in records]


class Crashing(Length):
    """Raises wherever "trap" is among the answers."""

    error: Exception = KeyError("no\nkey")

    def judge(self, records: Sequence[Record]) -> list[Verdict]:
        verdicts = super().judge(records)
        if any("trap" in record.response for record in records):
            raise self.error
        return verdicts


class Missing(Judge):
    """Gives a verdict too few."""

    def judge(self, records: Sequence[Record]) -> list[Verdict]:
        return [Verdict(True) for _ in records[1:]]


class Wrong(Judge):
    """Gives bare booleans."""

    def judge(self, records: Sequence[Record]) -> list[Verdict]:
        return [True for _ in records]  # type: ignore[misc]


class Hanging(Length):
    """Never comes back where "trap" is among the answers, whatever is raised inside that it can catch."""

    time_limit = 0.2

    def judge(self, records: Sequence[Record]) -> list[Verdict]:
        verdicts = super().judge(records)
        while any("trap" in record.response for record in records):
            with suppress(Exception):
                time.sleep(0.01)
        return verdicts


class Slow(Length):
    """Takes its time before the first call."""

    time_limit = 0.2

    def ready(self) -> None:
        time.sleep(0.4)


def test_a_judge_that_hangs_leaves_the_record_unscored_and_judges_the_others() -> None:
    judge, before = Hanging(), signal.getsignal(signal.SIGALRM)
    verdicts = judge_records({"a": judge}, RECORDS)["a"]
    assert verdicts == [Verdict(True), Verdict(None, "the judge took longer than 0.2 s"), Verdict(True)]
    assert judge.calls == [3, 1, 1, 1]
    assert signal.getsignal(signal.SIGALRM) is before and signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_the_clock_does_not_run_while_a_judge_loads() -> None:
    judge = Slow()
    assert judge_records({"a": judge}, RECORDS)["a"] == [Verdict(True)] * 3
    assert judge.calls == [3]


def test_no_limit_where_no_alarm_can_come() -> None:
    found: list[Verdict] = []

    class Patient(Length):
        time_limit = 0.01

        def judge(self, records: Sequence[Record]) -> list[Verdict]:
            time.sleep(0.1)
            return super().judge(records)

    thread = threading.Thread(target=lambda: found.extend(judge_records({"a": Patient()}, RECORDS)["a"]))
    thread.start()
    thread.join()
    assert found == [Verdict(True)] * 3


def test_every_judge_sees_every_record_in_one_batch() -> None:
    first, second = Length(), Length()
    assert judge_records({"a": first, "b": second}, RECORDS) == {"a": [Verdict(True)] * 3, "b": [Verdict(True)] * 3}
    assert first.calls == second.calls == [3]


def test_no_records_ask_nobody() -> None:
    judge = Crashing()
    assert judge_records({"a": judge}, []) == {"a": []}
    assert judge.calls == []


def test_a_crash_unscores_its_own_record_only() -> None:
    judge = Crashing()
    verdicts = judge_records({"a": judge}, RECORDS)["a"]
    assert [verdict.positive for verdict in verdicts] == [True, None, True]
    assert verdicts[1].reason == r"the judge raised KeyError: 'no\nkey'"
    assert judge.calls == [3, 1, 1, 1]


def test_a_crash_without_words_is_named_and_a_long_one_cut() -> None:
    judge = Crashing()
    judge.error = ValueError()
    assert judge_records({"a": judge}, RECORDS[1:2])["a"][0].reason == "the judge raised ValueError"
    judge.error = ValueError("a  b\n" * 200)
    reason = judge_records({"a": judge}, RECORDS[1:2])["a"][0].reason
    assert "\n" not in reason
    assert len(reason) < 250


def test_what_the_user_can_mend_is_no_crash() -> None:
    judge = Crashing()
    judge.error = BrittleError("no key given")
    with pytest.raises(BrittleError, match="no key given"):
        judge_records({"a": judge}, RECORDS)


def test_an_interrupt_passes() -> None:
    class Interrupted(Judge):
        def judge(self, records: Sequence[Record]) -> list[Verdict]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judge_records({"a": Interrupted()}, RECORDS)


@pytest.mark.parametrize(("judge", "said"), [(Missing(), "2 verdicts for 3 records"), (Wrong(), "list of Verdict")])
def test_a_judge_that_breaks_its_contract_is_named(judge: Judge, said: str) -> None:
    with pytest.raises(BrittleError, match=f"judge 'bad'.*{said}"):
        judge_records({"good": Length(), "bad": judge}, RECORDS)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Paris.", "Paris."),
        ("<think>hm</think>Paris.", "Paris."),
        ("\n<think>\nhm\n</think>\n\nParis.", "Paris."),
        ("<think>a</think>\n<think>b</think> Paris.", "Paris."),
        ("hm, France</think> Paris.", "Paris."),
        ("<think></think>", ""),
        ("<think>hm, Fra", None),
        ("<think>a</think><think>b", None),
        ("The tag <think> opens a trace.", "The tag <think> opens a trace."),
        ("<think>a</think>Close it with </think>.", "Close it with </think>."),
    ],
)
def test_only_the_final_answer_is_judged(text: str, answer: str | None) -> None:
    assert final_answer(text, TAGS) == answer


def test_a_trace_that_the_prompt_opened_must_end() -> None:
    assert final_answer("hm, France", ("", "</think>")) is None
    assert final_answer("hm</think>Paris.", ("", "</think>")) == "Paris."


@given(st.text(alphabet="abc \n", max_size=30), st.text(alphabet="abc <>", max_size=30))
def test_a_finished_trace_leaves_the_answer(trace: str, answer: str) -> None:
    assert final_answer(f"<think>{trace}</think>{answer}", TAGS) == answer.lstrip()
    assert final_answer(f"<think>{trace}", TAGS) is None
    assert final_answer(trace) == trace
