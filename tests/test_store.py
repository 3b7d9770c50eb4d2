"""Regions on disk."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from brittle_eval import store
from brittle_eval.errors import BrittleError
from brittle_eval.regions import Mask, Projector, Region, Whole
from brittle_eval.store import load_region, save_region

MASKS = arrays.arrays(bool, arrays.array_shapes(min_dims=2, max_dims=2, max_side=12))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.dictionaries(st.text(), inner), max_leaves=4
)
HEADER = {"plan": "wanda+top+ablate", "fingerprint": "abc", "size": {"count": 3}}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "region.safetensors"
    save_region(path, Region({"a": Mask.from_dense(torch.eye(9, 7).bool()), "b": Whole((3, 5))}), HEADER)
    return path


@given(st.dictionaries(st.text("abc.1", min_size=1), MASKS, max_size=4), st.dictionaries(st.text(), JSON, max_size=3))
def test_regions_come_back_bit_for_bit(dense: dict[str, np.ndarray], header: dict[str, object]) -> None:
    region = Region({name: Mask.from_dense(torch.from_numpy(value)) for name, value in dense.items()})
    with TemporaryDirectory() as folder:
        path = Path(folder) / "region.safetensors"
        save_region(path, region, header)
        found, read = load_region(path)
        assert [child.name for child in Path(folder).iterdir()] == [path.name]
    assert found.masks() == region.masks()
    assert read == header


def test_a_whole_weight_comes_back_as_a_full_mask(saved: Path) -> None:
    region, header = load_region(saved, "abc")
    assert header == HEADER
    assert region.masks()["b"] == Mask.from_dense(torch.ones(3, 5).bool())
    assert region.count == 7 + 15


def test_a_bit_of_the_region_takes_a_bit(tmp_path: Path) -> None:
    path = tmp_path / "region.safetensors"
    save_region(path, Region({"a": Mask.from_dense(torch.ones(512, 256).bool())}), {})
    assert 512 * 256 / 8 <= path.stat().st_size < 512 * 256 / 8 + 1000


def test_a_region_of_another_model_is_refused(saved: Path) -> None:
    with pytest.raises(BrittleError, match=r"was found on another model \(fingerprint abc\)"):
        load_region(saved, "abd")


@pytest.mark.parametrize("content", [b"", b"\0" * 40, b"not a region at all, only text that is long enough"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "region.safetensors"
    path.write_bytes(content)
    with pytest.raises(BrittleError, match=r"cannot read region file .*; remove it to compute the region again"):
        load_region(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BrittleError, match="cannot read region file"):
        load_region(tmp_path / "none.safetensors")


def test_other_safetensors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"a": torch.zeros(2)}, path, metadata={"format": "pt"})
    with pytest.raises(BrittleError, match=r"is no region file .*: it says 'pt'"):
        load_region(path)


def test_a_cut_file_is_refused(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes()[:-1])
    with pytest.raises(BrittleError, match="cannot read region file"):
        load_region(saved)


def test_every_flipped_bit_of_the_masks_is_noticed(saved: Path) -> None:
    content = saved.read_bytes()
    size = sum(value.numel() for value in load_file(saved).values())
    for position in range(len(content) - size, len(content)):
        saved.write_bytes(content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :])
        with pytest.raises(BrittleError, match="its content does not fit its digest"):
            load_region(saved)


def test_changed_shapes_and_ranks_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "region.safetensors"
    save_region(path, Region({"a": Projector.onto((4, 5), torch.eye(4)[:, :2])}), {})
    with safe_open(path, framework="pt") as file:
        metadata = json.loads(file.metadata()["region"])
    for change in ('"rank": 2', '"rank": 3'), ("[4, 5]", "[4, 6]"), ('"complement": false', '"complement": true'):
        assert change[0] in metadata["parts"]
        changed = metadata | {"parts": metadata["parts"].replace(*change)}
        save_file(load_file(path), path, metadata={"region": json.dumps(changed)})
        with pytest.raises(BrittleError, match="its content does not fit its digest"):
            load_region(path)


@pytest.mark.parametrize("missing", ["header", "parts", "digest"])
def test_a_file_without_its_header_is_refused(tmp_path: Path, missing: str) -> None:
    path = tmp_path / "region.safetensors"
    metadata = {"format": store.FORMAT, "header": "{}", "parts": "{}", "digest": store._digest("{}", {})}
    del metadata[missing]
    save_file({}, path, metadata=metadata)
    with pytest.raises(BrittleError, match=f"cannot read region file .*{missing}"):
        load_region(path)


def test_a_failed_save_leaves_what_was_there(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half of it")
        raise OSError("no space left")

    monkeypatch.setattr(store, "save_file", full_disk)
    before = saved.read_bytes()
    with pytest.raises(BrittleError, match=r"cannot write region file .*: no space left"):
        save_region(saved, Region({"a": Whole((2, 2))}), {})
    assert [child.name for child in saved.parent.iterdir()] == [saved.name]
    assert saved.read_bytes() == before


def test_a_header_that_is_no_json_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        save_region(tmp_path / "region.safetensors", Region({"a": Whole((2, 2))}), {"path": tmp_path})
    assert not list(tmp_path.iterdir())


def test_the_same_region_is_the_same_bytes(tmp_path: Path) -> None:
    region = Region({"a": Projector.onto((4, 5), torch.eye(4)[:, :2]), "b": Mask.from_dense(torch.eye(4).bool())})
    for name in "123456":
        save_region(tmp_path / name, region, {"plan": "p", "seed": 1})
    assert len({file.read_bytes() for file in tmp_path.iterdir()}) == 1
