"""Orders and interruptions of an attribution, in whole runs of the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from brittle_eval.cli import main
from brittle_eval.engine.attribute import accumulate
from brittle_eval.store import load_region
from tests.test_run import arguments, checkpoint, rows

__all__ = ["arguments", "checkpoint"]  # fixtures


def headers(folder: Path) -> list[dict[str, Any]]:
    found = []
    for file in sorted((folder / "regions").glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            found.append(json.loads(json.loads(opened.metadata()["region"])["header"]))
    return found


def test_a_row_and_a_region_say_their_order(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The two orders are two regions; in sequential order also of two modifications."""
    plans = ["wanda+top+ablate:q=0.3", "wanda-top:q=0.3", "snip-bottom:q=0.3,order=parallel"]
    short = [*arguments, "--tasks", "embedded_choice", "--controls", "none"]
    assert main([*short, *(part for plan in plans for part in ("--modify", plan))]) == 0
    found = [row for row in rows(tmp_path / "run").values() if row["kind"] == "edited"]
    assert ["order=sequential" in row["plan"] for row in found] == [False, True, False]
    assert len({row["fingerprint"] for row in found}) == 3
    assert sorted(header["order"] for header in headers(tmp_path / "run")) == ["parallel", "parallel", "sequential"]
    assert not list((tmp_path / "run" / "regions").glob("*.parts"))
    assert capsys.readouterr().err.count("memory beside the model: ") == 3


def test_an_interrupted_attribution_goes_on_in_the_same_folder(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = [*arguments, "--tasks", "embedded_choice", "--controls", "none", "--modify", "snip-diff:p=0.3,q=0.3", "--memory", "0"]
    taken: list[set[int]] = []

    def interrupted(*given: Any, **named: Any) -> Any:
        taken.append({address.block for address in given[2]})
        if len(taken) == 2:
            raise KeyboardInterrupt
        return accumulate(*given, **named)

    monkeypatch.setattr("brittle_eval.engine.isolate.accumulate", interrupted)
    assert main(line) == 130
    (parts,) = (tmp_path / "run" / "regions").glob("*.parts")
    assert [file.name for file in parts.iterdir()] == ["0000.safetensors"]
    assert main(line) == 0
    assert taken == [{0}, {1}, {1}]
    assert not parts.exists()
    resumed = [load_region(file)[0].masks() for file in (tmp_path / "run" / "regions").iterdir()]
    fresh = [str(tmp_path / "fresh") if argument == str(tmp_path / "run") else argument for argument in line]
    assert main(fresh) == 0
    assert [load_region(file)[0].masks() for file in (tmp_path / "fresh" / "regions").iterdir()] == resumed
