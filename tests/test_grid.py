"""Grids: axes, ranges, and everything that can be wrong in them."""

from __future__ import annotations

import math
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brittle_eval.commands.cli_sweep import KEYS
from brittle_eval.errors import BrittleError
from brittle_eval.sweeps.grid import grid, numbers, plans, read


def made(content: dict[str, Any]) -> list[tuple[dict[str, Any], list[str]]]:
    return list(grid(content, KEYS).groups())


@given(st.integers(-500, 500), st.integers(-500, 500), st.integers(2, 30))
def test_a_range_has_equal_distances(first: int, last: int, count: int) -> None:
    if first != last:
        found = [Decimal(one) for one in numbers(f"{first / 100:.2f}..{last / 100:.2f}/{count}")]
        assert len(found) == count and found[0] == Decimal(first) / 100 and found[-1] == Decimal(last) / 100
        steps = [float(b - a) for a, b in pairwise(found)]
        assert all(step == pytest.approx((last - first) / 100 / (count - 1), abs=1e-10) for step in steps)


def test_ranges_are_what_one_would_type() -> None:
    assert numbers("0.01..0.05/5") == ["0.01", "0.02", "0.03", "0.04", "0.05"]
    assert numbers("0..4/5") == ["0", "1", "2", "3", "4"]
    assert numbers("10..30/3") == ["10", "20", "30"]
    assert numbers("0.001..0.1/3log") == ["0.001", "0.01", "0.1"]
    ratios = [float(one) for one in numbers("0.002..0.05/6log")]
    assert all(math.log(b / a) == pytest.approx(math.log(25) / 5, rel=1e-3) for a, b in pairwise(ratios))
    assert numbers("a..b/5") == ["a..b/5"]


@pytest.mark.parametrize("text", ["0.1..0.1/3", "0.1..0.2/1", "0..0.2/3log"])
def test_what_is_no_range(text: str) -> None:
    with pytest.raises(BrittleError, match=r"is no range: expected FIRST\.\.LAST/COUNT"):
        numbers(text)


def test_a_plan_with_several_values_is_every_combination() -> None:
    assert plans("wanda-diff:p=0.01|0.03,q=0.1..0.3/3") == [
        f"wanda-diff:p={p},q={q}" for p in ("0.01", "0.03") for q in ("0.1", "0.2", "0.3")
    ]
    assert plans("snip-diff") == ["snip-diff"]
    assert plans("wanda-diff:blocks=0-9+12") == ["wanda-diff:blocks=0-9+12"]


def test_lists_are_axes_and_repeated_options_are_not() -> None:
    content = {
        "modify": ["snip-diff", {"wanda-diff": {"p": [0.01, 0.03], "q": "0.1..0.2/2"}}],
        "seed": "0..1/2",
        "tasks": ["embedded", "embedded_harmful,embedded_choice"],
        "behaviour": ["safety=a", "utility=b"],
        "stop_when_decided": True,
        "model_args": "pretrained=some:where,dtype=float32",
    }
    groups = made(content)
    assert grid(content, KEYS).count == 5 * 2 * 2 == sum(len(plans) for _, plans in groups)
    assert [(chosen["seed"], chosen["tasks"]) for chosen, _ in groups] == [
        (seed, tasks) for seed in ("0", "1") for tasks in content["tasks"]
    ]
    assert groups[0][1] == ["snip-diff", *(f"wanda-diff:p={p},q={q}" for p in (0.01, 0.03) for q in (0.1, 0.2))]
    assert {chosen["behaviour"] for chosen, _ in groups} == {("safety=a", "utility=b")}
    assert groups[0][0]["model-args"] == content["model_args"] and groups[0][0]["stop-when-decided"] is True


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "the grid is empty"),
        ({"seed": [0, 1]}, "the grid is empty"),
        ({"modify": []}, "the grid's key 'modify' has no value"),
        ({"modify": ["wanda-diff"], "seed": []}, "the grid's key 'seed' has no value"),
        ({"modify": ["wanda-diff"], "sed": 1}, "unknown key of the grid 'sed': did you mean seed"),
        ({"modify": ["wanda-diff"], "output_path": "x"}, "unknown key of the grid 'output_path'"),
        ({"modify": [{"wanda-diff": {"p": []}}]}, "the grid has the plan"),
        ({"modify": [3]}, "the grid has the plan 3"),
        ({"modify": ["wanda-diff"], "seed": [{"a": 1}]}, "expected a text or a number"),
        (
            {"modify": ["wanda-diff:p=0.01..0.1/1000,q=0.01..0.1/1000"]},
            "the grid has 1,000,000 cells, more than 10,000: give --yes",
        ),
        ({"modify": ["wanda-diff:p=0..1/999999999999"]}, "more than 10,000: give --yes"),
    ],
)
def test_a_bad_grid_is_one_line(content: dict[str, Any], said: str) -> None:
    with pytest.raises(BrittleError) as error:
        grid(content, KEYS)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_many_cells_that_are_meant() -> None:
    assert grid({"modify": "wanda-diff:p=0.01..0.1/1000,q=0.01..0.1/1000"}, KEYS, yes=True).count == 10**6


@pytest.mark.parametrize(
    ("text", "said"), [("modify: [", "cannot read the grid"), ("- a", "holds a list"), ("\xff", "holds a str")]
)
def test_a_file_that_is_no_grid(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "grid.yaml").write_text(text)
    with pytest.raises(BrittleError, match=said):
        read(tmp_path / "grid.yaml")
    with pytest.raises(BrittleError, match="cannot read the grid"):
        read(tmp_path / "none.yaml")
