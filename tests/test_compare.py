"""Regions side by side, against sets of entries; the command with its table, JSON, picture and mistakes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from brittle_eval.cli import main
from brittle_eval.comparing.compare import compare
from brittle_eval.comparing.compare_plot import draw
from brittle_eval.regions import Mask, Region
from brittle_eval.store import save_region

KINDS = ("self_attn.q_proj", "mlp.up_proj")
NAMES = [f"model.layers.{block}.{kind}.weight" for block in (0, 2, 10) for kind in KINDS]
Entries = set[tuple[str, int]]


def region(path: Path, seed: int, names: Iterable[str] = NAMES, shape: tuple[int, int] = (6, 9), model: str = "one") -> Entries:
    """A random region as a file; gives its entries."""
    generator = torch.Generator().manual_seed(seed)
    dense = {name: torch.rand(shape, generator=generator) < 0.4 for name in names}
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {"plan": f"random+top:seed={seed}", "model": "tiny", "fingerprint": model}
    save_region(path, Region({name: Mask.from_dense(value) for name, value in dense.items()}), header)
    return {(name, int(place)) for name, value in dense.items() for place in value.reshape(-1).nonzero()}


def iou(a: Entries, b: Entries) -> float:
    return len(a & b) / len(a | b)


def chance(a: Entries, b: Entries, entries: int = 54) -> float:
    sizes = [[sum(entry[0] == name for entry in side) for side in (a, b)] for name in NAMES]
    shared = sum(one * other / entries for one, other in sizes)
    return shared / (len(a) + len(b) - shared)


def within(entries: Entries, part: str) -> Entries:
    return {entry for entry in entries if part in entry[0]}


@pytest.fixture
def four(tmp_path: Path) -> dict[str, Entries]:
    """Two files, and a run with two regions; the last region misses a block."""
    return {
        str(tmp_path / "a.safetensors"): region(tmp_path / "a.safetensors", 0),
        str(tmp_path / "b.safetensors"): region(tmp_path / "b.safetensors", 1),
        f"{tmp_path / 'run'}-1": region(tmp_path / "run/regions/1.safetensors", 2),
        f"{tmp_path / 'run'}-2": region(tmp_path / "run/regions/2.safetensors", 3, NAMES[:4]),
    }


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["region", "compare", *arguments, "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def paths(tmp_path: Path) -> list[str]:
    return [str(tmp_path / name) for name in ("a.safetensors", "b.safetensors", "run")]


def test_every_pair_in_all_by_block_and_by_kind(
    four: dict[str, Entries], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = answer(capsys, *paths(tmp_path))
    assert {one["label"]: one["count"] for one in found["regions"]} == {label: len(own) for label, own in four.items()}
    assert [(pair["a"], pair["b"]) for pair in found["pairs"]] == list(combinations(four, 2))
    for pair in found["pairs"]:
        a, b = four[pair["a"]], four[pair["b"]]
        assert pair["measure"] == "IoU"
        assert pair["value"] == pytest.approx(iou(a, b))
        assert pair["chance"] == pytest.approx(chance(a, b))
        assert list(pair["by_block"]) == ["0", "2", "10"]
        for part, one in [*pair["by_block"].items(), *pair["by_kind"].items()]:
            x, y = (within(side, f".{part}.") for side in (a, b))
            assert one["value"] == pytest.approx(iou(x, y))
            assert one["chance"] == pytest.approx(chance(x, y))


def test_stability_is_mean_and_range_within_groups_between_them_and_over_all(
    four: dict[str, Entries], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b, run = paths(tmp_path)
    found = answer(capsys, f"seeds={a}", f"seeds={b}", f"data={run}")
    assert [one["label"] for one in found["regions"]] == ["seeds-1", "seeds-2", "data-1", "data-2"]
    one, two, three, four_ = four.values()
    groups = {
        "seeds": [(one, two)],
        "data": [(three, four_)],
        "between groups": [(one, three), (one, four_), (two, three), (two, four_)],
        "all regions": list(combinations(four.values(), 2)),
    }
    assert list(found["stability"]) == list(groups)
    for group, pairs in groups.items():
        for part in ("all", "0", "10"):
            kept = [(x, y) if part == "all" else (within(x, f".{part}."), within(y, f".{part}.")) for x, y in pairs]
            values = [iou(x, y) for x, y in kept]
            stability = found["stability"][group]
            shown = stability["all"] if part == "all" else stability["by_block"][part]
            assert shown["mean"] == pytest.approx(sum(values) / len(values))
            assert (shown["low"], shown["high"]) == pytest.approx((min(values), max(values)))
            assert shown["chance"] == pytest.approx(sum(chance(x, y) for x, y in kept) / len(kept))


def test_two_regions_have_no_stability(four: dict[str, Entries], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(capsys, *paths(tmp_path)[:2])["stability"] == {}
    assert answer(capsys, *(f"x={path}" for path in paths(tmp_path)[:2]))["stability"] == {}


def test_empty_parts_have_no_overlap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = Region({name: Mask.from_dense(torch.zeros(6, 9, dtype=torch.bool)) for name in NAMES})
    for name in ("a", "b"):
        save_region(tmp_path / f"{name}.safetensors", empty, {"plan": name})
    files = [str(tmp_path / f"{name}.safetensors") for name in ("a", "b", "a")]
    found = answer(capsys, *files)
    assert found["pairs"][0]["value"] is found["pairs"][0]["chance"] is None
    assert found["stability"]["all regions"]["all"] is None
    assert main(["region", "compare", *files]) == 0
    assert "–" in capsys.readouterr().out


def test_the_table_shows_what_the_json_says(four: dict[str, Entries], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b, run = paths(tmp_path)
    arguments = [f"[s]={a}", f"[s]={b}", f"data={run}"]
    found = answer(capsys, *arguments)
    assert main(["region", "compare", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    tables = "\n".join(lines)
    assert all(len(line) <= 130 for line in lines)
    assert "[s]-1" in tables and "random+top:seed=3" in tables
    for pair in found["pairs"]:
        for one in [pair, *pair["by_block"].values(), *pair["by_kind"].values()]:
            assert f"{one['value']:.3f} ({one['chance']:.3f})" in tables
    for stability in found["stability"].values():
        for one in [stability["all"], *stability["by_block"].values(), *stability["by_kind"].values()]:
            assert f"{one['mean']:.3f} [{one['low']:.3f}, {one['high']:.3f}] ({one['chance']:.3f})" in tables


def test_many_regions_are_shown_in_several_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / f"{seed}.safetensors" for seed in range(8)]
    for seed, file in enumerate(files):
        region(file, seed)
    assert main(["region", "compare", *map(str, files)]) == 0
    shown = capsys.readouterr().out
    assert "…" not in shown
    assert all(f"{one}–{other}" in shown for one, other in combinations(range(1, 9), 2))


def test_the_picture_has_a_line_a_pair_its_chance_and_the_groups(four: dict[str, Entries], tmp_path: Path) -> None:
    a, b, run = paths(tmp_path)
    found = compare([f"seeds={a}", f"seeds={b}", f"data={run}"])
    (axes,) = draw(found).axes
    lines = [dict(np.asarray(line.get_xydata()).tolist()) for line in axes.lines]
    for x, y in combinations(four.values(), 2):
        parts = {block: (within(x, f".{block}."), within(y, f".{block}.")) for block in (0, 2, 10)}
        for measure in (iou, chance):
            expected = {block: pytest.approx(measure(*part)) for block, part in parts.items()}
            assert any(line == expected for line in lines)
    assert len(lines) == 6 * 2 + 2
    assert len(axes.collections) == 2


@pytest.mark.parametrize(("suffix", "start"), [(".svg", b"<?xml"), (".png", b"\x89PNG")])
def test_the_picture_is_drawn(
    four: dict[str, Entries], tmp_path: Path, suffix: str, start: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    long = [(tmp_path / name).rename(tmp_path / f"{'long-' * 20}{name}") for name in ("a.safetensors", "b.safetensors", "run")]
    pictures = [tmp_path / f"{number}{suffix}" for number in range(2)]
    for picture in pictures:
        assert main(["region", "compare", *map(str, long), "--plot", str(picture)]) == 0
        assert f"plot: {picture}" in capsys.readouterr().err
    assert pictures[0].read_bytes().startswith(start)
    assert pictures[0].read_bytes() == pictures[1].read_bytes()


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["region", "compare", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("brittle-eval: error:") and error.count("\n") == 1
    return error


def test_regions_of_two_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / f"{name}.safetensors" for name in "ab"]
    entries = [region(file, seed, model=file.stem) for seed, file in enumerate(files)]
    assert "add --across-models" in refused(capsys, *map(str, files))
    found = answer(capsys, *map(str, files), "--across-models")
    assert found["pairs"][0]["value"] == pytest.approx(iou(*entries))
    region(files[1], 1, shape=(9, 6), model="b")
    assert "has the shape (9, 6)" in refused(capsys, *map(str, files), "--across-models")
    region(files[1], 1, ["model.layers.0.mlp.gate_proj.weight"], model="b")
    assert "no weight in common" in refused(capsys, *map(str, files), "--across-models")


def test_mistakes(four: dict[str, Entries], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b, _ = paths(tmp_path)
    assert "give two or more" in refused(capsys, a)
    assert "cannot read region file" in refused(capsys, a, str(tmp_path / "none.safetensors"))
    assert "cannot read region file" in refused(capsys, a, f"x={tmp_path / 'none.safetensors'}")
    (tmp_path / "empty").mkdir()
    assert "holds no regions/*.safetensors" in refused(capsys, a, str(tmp_path / "empty"))
    region(tmp_path / "c.safetensors", 1, shape=(9, 6))
    assert "has the shape (9, 6)" in refused(capsys, a, str(tmp_path / "c.safetensors"))
    assert "named .png or .svg" in refused(capsys, a, b, "--plot", str(tmp_path / "x.pdf"))
    assert "does not exist" in refused(capsys, a, b, "--plot", str(tmp_path / "nowhere" / "x.svg"))


def test_a_picture_without_matplotlib(
    four: dict[str, Entries], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    said = refused(capsys, *paths(tmp_path)[:2], "--plot", str(tmp_path / "x.svg"))
    assert "pip install 'brittle-eval[plots]'" in said
    assert main(["region", "compare", *paths(tmp_path)[:2]]) == 0
