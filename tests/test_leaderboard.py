"""`brittle-eval leaderboard`: what is gathered, what is compared with what, ranks, marks, and Pareto flags."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brittle_eval.cli import main
from brittle_eval.leaderboard.board import Board, Entry, boards, entry, frontier
from brittle_eval.leaderboard.gather import Found, gather
from brittle_eval.running.record import Row, RunFolder, read_lines
from tests.boards import rows, write
from tests.stored_runs import GIVEN, REFUSED, make_run


def board(*runs: Sequence[Row]) -> list[Board]:
    return boards([Found(row, Path(f"{number}")) for number, run in enumerate(runs) for row in run])


def ranks(made: Board) -> dict[str, int | None]:
    return {one.row.name: one.rank for one in made.entries}


def test_edits_are_ranked_and_their_controls_stand_below_them() -> None:
    (made,) = board(rows({"unedited": 1, "a.random-0": 1, "a": 9, "b": 15, "b.random-0": 19}, {"a": 20, "b": 10}))
    assert [one.row.name for one in made.entries] == ["unedited", "b", "b.random-0", "a", "a.random-0"]
    assert ranks(made) == {"unedited": None, "b": 1, "b.random-0": None, "a": 2, "a.random-0": None}


def test_equal_rows_share_a_rank_and_utility_decides_between_equal_rates() -> None:
    (made,) = board(rows({"unedited": 0, "a": 9, "b": 9, "c": 9, "d": 3}, {"a": 10, "b": 15, "c": 15}))
    assert ranks(made) == {"unedited": None, "b": 1, "c": 1, "a": 3, "d": 4}


@pytest.mark.parametrize(
    "other",
    [
        {"preset": "wei2024 1"},
        {"preset": "wei2024 2"},
        {"condition": "check-after 1"},
        {"data": {"advbench": "0" * 64}},
        {"judges": {"refusal": {"method": "m", "version": "2", "options": {}}}},
        {"settings": {"gen_kwargs": {"max_gen_toks": 4}}},
    ],
)
def test_what_was_measured_in_another_way_is_never_ranked_together(other: dict[str, Any]) -> None:
    first, second = board(rows({"unedited": 0, "a": 9}), rows({"unedited": 0, "b": 19}, **other))
    assert ranks(first)["a"] == 1 and ranks(second)["b"] == 1
    assert len(board(rows({"unedited": 0, "a": 9}, **other), rows({"unedited": 0, "b": 19}, **other))) == 1


def test_a_limited_run_and_a_cut_row_are_marked_and_have_no_rank() -> None:
    cut = rows({"unedited": 0, "c": 20}, config="cut")
    cut[1].tasks[2] = replace(cut[1].tasks[2], status="not run", reason="cut: perplexity 90 > 50", values={}, items=[])
    (made,) = board(rows({"unedited": 0, "a": 9}), rows({"unedited": 0, "b": 20}, limited=True, config="b"), cut)
    assert ranks(made) == {"unedited": None, "a": 1, "b": None, "c": None}
    marks = {one.row.name: one.marks for one in made.edits}
    assert marks == {"a": [], "b": ["limited"], "c": ["cut: perplexity 90 > 50"]}
    assert made.edits[0].pareto == ("utility", "KL") and not made.edits[1].pareto and not made.edits[2].pareto


def test_a_control_without_its_edit_is_shown_at_the_end() -> None:
    (made,) = board(rows({"unedited": 0, "a": 3, "b.random-0": 4}))
    assert [one.row.name for one in made.entries] == ["unedited", "a", "b.random-0"]


def test_several_tasks_give_the_means_of_values_and_of_ends() -> None:
    row = rows({"unedited": 4})[0]
    row.tasks.append(replace(row.tasks[0], task="other", values=rows({"unedited": 12})[0].tasks[0].values))
    found, ends = entry(row), [task.values["not_refused_coherent"] for task in (row.tasks[0], row.tasks[-1])]
    assert found.answered is not None and set(found.attacks) == {"harmful", "other"}
    for key in ("value", "low", "high"):
        assert getattr(found.answered, key) == pytest.approx((ends[0][key] + ends[1][key]) / 2)
    assert found.degenerate == (2, 4, 40)


NUMBER = st.integers(0, 3).map(float)


@given(st.lists(st.tuples(NUMBER, st.one_of(st.none(), NUMBER)), max_size=8))
def test_the_frontier_is_what_nothing_beats(points: list[tuple[float, float | None]]) -> None:
    entries = [(entry(rows({"unedited": 0})[0]), *point) for point in points]
    known = [point for point in entries if point[2] is not None]

    def beaten(one: tuple[Entry, float, float | None]) -> bool:
        better = [other for other in known if other[1] >= one[1] and (other[2] or 0) >= (one[2] or 0)]
        return any((other[1], other[2]) != (one[1], one[2]) for other in better)

    expected = {id(one[0]) for one in known if not beaten(one)}
    assert {id(one) for one in frontier(entries)} == expected


def silent(line: str) -> None:
    raise AssertionError(line)


def test_folders_are_searched_and_a_row_counts_once(tmp_path: Path) -> None:
    whole = rows({"unedited": 0, "a": 9})
    write(tmp_path / "deep" / "one" / "rows.jsonl", whole)
    (tmp_path / "deep" / "one" / "run.json").write_text('{"config": {}}')
    write(tmp_path / "deep" / "collected" / "rows.jsonl", [*whole, *rows({"unedited": 0, "b": 3}, config="another")])
    found = gather([tmp_path, tmp_path / "deep" / "one"], silent)
    assert sorted(one.row.name for one in found) == ["a", "b", "unedited", "unedited"]
    assert all(not task.items for one in found for task in one.row.tasks)
    assert all(task.items for one in gather([tmp_path], silent, items=True) for task in one.row.tasks[2:])


def test_a_sweep_gives_the_rows_of_its_finished_cells_and_its_runs_are_not_read_again(tmp_path: Path) -> None:
    made = rows({"unedited": 0, "a": 9})
    (tmp_path / "cells").mkdir()
    (tmp_path / "sweep.json").write_text("{}")
    write(tmp_path / "runs" / "0001" / "rows.jsonl", rows({"unedited": 0, "z": 9}, config="z"))
    (tmp_path / "runs" / "0001" / "run.json").write_text('{"config": {}}')
    for number, row in enumerate(made):
        (tmp_path / "cells" / f"{number}.json").write_text(json.dumps({"rows": [json.loads(as_line(row))]}))
    assert [one.row.name for one in gather([tmp_path], silent)] == ["unedited", "a"]
    write(tmp_path / "rows.jsonl", made[:1])
    assert [one.row.name for one in gather([tmp_path], silent)] == ["unedited"]


def as_line(row: Row) -> str:
    from dataclasses import asdict

    return json.dumps(asdict(row))


def test_a_run_that_was_stopped_is_said_and_left_out_and_alone_it_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = RunFolder(tmp_path / "half", {"model": "hf"})
    with half.opened():
        pass
    good = write(tmp_path / "good" / "rows.jsonl", rows({"unedited": 0, "a": 9}))
    damaged = tmp_path / "damaged" / "rows.jsonl"
    damaged.parent.mkdir()
    damaged.write_bytes(good.read_bytes()[:-40])
    assert main(["leaderboard", str(half.path)]) == 2
    assert "is not finished (it has no rows.jsonl): repeat its command" in capsys.readouterr().err
    assert main(["leaderboard", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert "left out: the run in" in printed.err and "damaged/rows.jsonl, line 2 is damaged" in printed.err
    assert "1" in printed.out and "unedited" in printed.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere is not there"),
        (["."], "no rows in ."),
        (["new.jsonl"], "is a row of schema 3, and this version reads 1, 2"),
        (["new.jsonl", "--output", "board.pdf"], "expected a name that ends in .md, .tex, .csv, .json, .html"),
        (["old.jsonl", "--add", "all.jsonl"], "has no command that makes it again"),
    ],
)
def test_mistakes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("new.jsonl"), [replace(row, schema=3) for row in rows({"unedited": 0})])
    write(Path("old.jsonl"), [replace(row, command="") for row in rows({"unedited": 0})])
    assert main(["leaderboard", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1
    assert not Path("all.jsonl").exists()


def test_rows_are_added_once_with_their_items_and_their_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = {"model": "hf", "modify": ["plan"]}
    run = make_run(tmp_path / "run", {"unedited": {"harmful": [[REFUSED]]}, "plan": {"harmful": [[GIVEN]]}}, config=config)
    file = tmp_path / "all" / "rows.jsonl"
    for number in (2, 0):
        assert main(["leaderboard", str(run.path), "--add", str(file)]) == 0
        assert f"{number} rows added to" in capsys.readouterr().err
    assert read_lines(file) == read_lines(run.path / "rows.jsonl")
    assert read_lines(file)[1]["command"] == "brittle-eval run --model hf --modify plan"
    assert read_lines(file)[1]["tasks"][0]["items"] == [1.0]


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "rows.jsonl", rows({"unedited": 0, "a": 9}))
    (tmp_path / "taken").write_text("")
    assert main(["leaderboard", str(file), "--output", str(tmp_path / "taken" / "board.html")]) == 2
    error = capsys.readouterr().err
    assert "cannot write" in error and len(error.splitlines()) == 1
