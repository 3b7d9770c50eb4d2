"""An attribution that was interrupted goes on behind the last finished group of blocks; a full disk leaves nothing broken."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from brittle_eval.engine.attribute import Pass
from brittle_eval.engine.isolate import find_region
from brittle_eval.engine.kept import Kept
from brittle_eval.engine.sequential import find_region_in_order
from brittle_eval.errors import BrittleError
from brittle_eval.methods import Attribution, Isolation
from brittle_eval.regions import Mask, Region
from brittle_eval.store import save_region
from brittle_eval.weights import Fingerprint, find_weights
from brittle_plugins.ablate import Ablate
from brittle_plugins.snip import Snip
from brittle_plugins.top import Top
from brittle_plugins.wanda import Wanda
from tests.models import PAD, context, examples, llama

BEHAVIOURS = {"safety": examples([(4, 6), (7, 3), (5, 5)], 1)}
HEADER = {"fingerprint": "abc", "plan": "some"}
Find = Callable[[Pass, Kept | None], Region]


def parallel(model: PreTrainedModel, method: Attribution, isolation: Isolation) -> Find:
    addresses = find_weights(model)[0]
    return lambda how, kept: find_region(model, method, isolation, BEHAVIOURS, addresses, context(), how, kept=kept)


def sequential(model: PreTrainedModel, method: Attribution, isolation: Isolation) -> Find:
    given = (BEHAVIOURS, find_weights(model)[0], context(), Fingerprint(model))
    return lambda how, kept: find_region_in_order(model, method, isolation, [Ablate()], *given, how, kept)


@pytest.mark.parametrize("order", [parallel, sequential])
@pytest.mark.parametrize("method", [Wanda(), Snip()], ids=["wanda", "snip"])
@pytest.mark.parametrize("isolation", [Top(q=0.1), Top(q=0.1, compare="block")], ids=["row", "block"])
def test_an_interrupted_attribution_goes_on(
    order: Callable[..., Find], method: Attribution, isolation: Isolation, tmp_path: Path
) -> None:
    """The third of four blocks is interrupted: the first two are not attributed again, and the region is the same."""
    find, kept = order(llama(layers=4), method, isolation), Kept(tmp_path / "parts", HEADER)
    expected = find(Pass(PAD, 4, 1), None)
    reported: list[int] = []

    def interrupt(steps: int) -> None:
        reported.append(steps)
        if len(reported) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find(Pass(PAD, 4, 1, on_batch=interrupt), kept)
    assert sorted(path.name for path in kept.folder.iterdir()) == ["0000.safetensors", "0001.safetensors"]
    assert {name.split(".")[2] for name in kept.load()} == {"0", "1"}
    rest: list[int] = []
    found = find(Pass(PAD, 4, 1, on_batch=rest.append), kept)
    assert sum(rest) == 2 * len(BEHAVIOURS["safety"])
    assert found.masks() == expected.masks() and list(found) == list(expected)
    assert all(kept.load()[name] == mask for name, mask in found.masks().items())
    kept.remove()
    assert not kept.folder.exists() and kept.load() == {}


def test_an_isolation_that_sees_the_whole_model_keeps_nothing_half_way(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "parts", HEADER)
    parallel(llama(), Wanda(), Top(q=0.1, compare="global"))(Pass(PAD, 4, 1), kept)
    assert not kept.folder.exists()


def test_parts_of_another_model_are_refused(tmp_path: Path) -> None:
    Kept(tmp_path, HEADER).add({"a": Mask.from_dense(torch.ones(3, 3).bool())})
    with pytest.raises(BrittleError, match=r"was found on another model \(fingerprint abc\)"):
        Kept(tmp_path, {"fingerprint": "xyz"}).load()


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file can grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_line_and_leaves_finished_groups_only(tmp_path: Path) -> None:
    find, kept = parallel(llama(layers=3), Wanda(), Top(q=0.1)), Kept(tmp_path / "parts", HEADER)
    plain = find(Pass(PAD, 4, 1), None)
    kept.add({name: part for name, part in plain.items() if ".layers.0." in name})
    with full_disk(700), pytest.raises(BrittleError, match=r"cannot write region file .*0001\.safetensors: .*free some space"):
        find(Pass(PAD, 4, 1), kept)
    assert [path.name for path in kept.folder.iterdir()] == ["0000.safetensors"]
    assert find(Pass(PAD, 4, 1), kept).masks() == plain.masks()


def test_a_full_disk_keeps_the_region_that_was_there(tmp_path: Path) -> None:
    save = partial(save_region, tmp_path / "region.safetensors", header={})
    save(Region({"a": Mask.from_dense(torch.eye(8).bool())}))
    before = (tmp_path / "region.safetensors").read_bytes()
    with full_disk(700), pytest.raises(BrittleError, match="cannot write region file"):
        save(Region({"a": Mask.from_dense(torch.ones(128, 128).bool())}))
    assert [path.name for path in tmp_path.iterdir()] == ["region.safetensors"]
    assert (tmp_path / "region.safetensors").read_bytes() == before
