"""Kept verdicts: what a judge need not be asked again, and what it must."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from brittle_eval import BrittleError, Record, Verdict
from brittle_eval.judgement.verdicts import Verdicts, answer_key

SAME = {"method": "m", "version": "1", "options": {"a": (1, 2)}}
RECORDS = [Record("p", f"answer {n}\n") for n in range(4)]


def test_verdicts_come_back_and_the_unscored_are_asked_again(tmp_path: Path) -> None:
    file = tmp_path / "verdicts" / "judge.jsonl"
    kept = Verdicts(file, SAME)
    assert kept.missing([*RECORDS, *RECORDS]) == RECORDS, "an answer that was given twice is asked once"
    kept.add(RECORDS[:3], [Verdict(True, "ä"), Verdict(False), Verdict(None, "crashed")])
    again = Verdicts(file, SAME)
    assert not again.replaced
    assert again.missing(RECORDS) == RECORDS[2:]
    again.add(RECORDS[2:], [Verdict(True), Verdict(False)])
    third = Verdicts(file, SAME)
    assert third.missing(RECORDS) == []
    assert [third.of(record) for record in RECORDS] == [Verdict(True, "ä"), Verdict(False), Verdict(True), Verdict(False)]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not list(tmp_path.rglob("*.part"))


def test_another_version_or_option_is_asked_anew(tmp_path: Path) -> None:
    file = tmp_path / "judge.jsonl"
    Verdicts(file, SAME).add(RECORDS, [Verdict(True)] * 4)
    other = Verdicts(file, SAME | {"version": "2"})
    assert other.replaced and other.missing(RECORDS) == RECORDS
    assert not Verdicts(file, SAME | {"version": "2"}).replaced


@pytest.mark.parametrize("kept", range(1, 60, 7))
def test_a_line_that_was_not_written_whole_is_as_if_it_were_not_there(tmp_path: Path, kept: int) -> None:
    file = tmp_path / "judge.jsonl"
    Verdicts(file, SAME).add(RECORDS[:2], [Verdict(True)] * 2)
    *whole, last = file.read_text().splitlines(keepends=True)
    file.write_text("".join(whole) + last[:kept])
    again = Verdicts(file, SAME)
    assert again.missing(RECORDS[:2]) == RECORDS[1:2]
    again.add(RECORDS[1:2], [Verdict(False)])
    assert Verdicts(file, SAME).of(RECORDS[1]) == Verdict(False)


@pytest.mark.parametrize("line", ["{", "[]", '{"answer": "x"}'])
def test_other_damage_is_an_error_with_the_line(tmp_path: Path, line: str) -> None:
    file = tmp_path / "judge.jsonl"
    Verdicts(file, SAME).add(RECORDS[:1], [Verdict(True)])
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(BrittleError, match=r"line 3 is damaged: remove the file"):
        Verdicts(file, SAME)


def test_an_answers_key_depends_on_all_of_it() -> None:
    assert answer_key(Record("p", "r")) == answer_key(Record("p", "r"))
    keys = {answer_key(record) for record in (Record("p", "r"), Record("pr", ""), Record("", "pr"), Record("p", "r", cut=True))}
    assert len(keys) == 4
    assert json.dumps(answer_key(Record("ä", "\x00"))).isascii()
