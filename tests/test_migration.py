"""Which units change their kind in a training: the counts against a loop, whole commands on a tiny model, and what is refused."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from brittle_eval.cli import main
from brittle_eval.comparing.migration import counted
from brittle_eval.engine.anatomy import find_units
from brittle_eval.units import Unit, unit_mask
from brittle_eval.weights import find_weights
from tests.models import llama
from tests.test_run import arguments, checkpoint, pairs

__all__ = ["arguments", "checkpoint"]  # fixtures

KINDS = ["safety", "utility", "redundant", "complex"]


def units() -> list[Unit]:
    model = llama()
    addresses = find_weights(model)[0]
    return [*find_units(model, addresses, "mlp-channel")[0], *find_units(model, addresses, "query-head")[0]]


def test_every_unit_is_counted_where_it_was_and_where_it_is() -> None:
    every, drawn = units(), random.Random(0)
    before, after = ([drawn.choice(KINDS) for _ in every] for _ in range(2))
    masks = [
        {kind: unit_mask(unit for unit, own in zip(every, known, strict=True) if own == kind) for kind in KINDS}
        for known in (before, after)
    ]
    found = counted(every, *masks)
    expected = Counter(zip(before, after, strict=True))
    assert found["matrix"] == [[expected[one, two] for two in KINDS] for one in KINDS]
    assert found["share"][0][3] == expected["safety", "complex"] / before.count("safety")
    assert found["chance"] == pytest.approx([after.count(kind) / len(every) for kind in KINDS])


def asked(arguments: list[str], tmp_path: Path, *options: str) -> list[str]:
    limit, controls = arguments.index("--limit"), arguments.index("--controls")
    own = [word for at, word in enumerate(arguments) if at not in (limit, limit + 1, controls, controls + 1)]
    return ["region", "migration", *own, "--behaviour", f"harmful={pairs(tmp_path / 'harmful.jsonl', 'harm')}", *options]


@pytest.mark.parametrize(("rate", "moves"), [("1e-12", False), ("0.05", True)])
def test_from_command_to_matrix(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], rate: str, moves: bool
) -> None:
    """A training that changes nothing leaves every unit where it was."""
    kinds = "unit-variance+four-way:safety=0.1,utility=0.2,redundant=0.3"
    line = asked(arguments, tmp_path, "--modify", f"finetune:n=4,batch=2,epochs=2,lr={rate}", "--kinds", kinds)
    assert main(line) == 0
    found: dict[str, Any] = json.loads((tmp_path / "run" / "migration.json").read_text())
    assert found["parts"] == KINDS and sum(map(sum, found["matrix"])) == len(units())
    away = sum(count for row, line in enumerate(found["matrix"]) for column, count in enumerate(line) if row != column)
    assert (away > 0) is moves
    assert "before \\ after" in capsys.readouterr().out
    assert main(line) == 0, "what is finished is found again"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--modify", "wanda-diff"], "trains nothing"),
        (["--modify", "finetune", "--modify", "finetune:n=4"], "2 plans were given: expected one"),
        (["--modify", "finetune", "--kinds", "wanda+top"], "'top' has no option part that names kinds of units"),
        (["--modify", "finetune", "--kinds", "four-way"], "expected ATTRIBUTION+ISOLATION"),
    ],
)
def test_what_is_no_migration(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    assert main(asked(arguments, tmp_path, *options)) == 2
    assert said in capsys.readouterr().err
