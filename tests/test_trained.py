"""Chains with a training: undone bit for bit, kept as a Delta, and gone on with where they were interrupted."""

from __future__ import annotations

import math
import stat
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel

from brittle_eval.errors import BrittleError
from brittle_eval.methods import Context, Modification, Tuning, Weight
from brittle_eval.progress import bar
from brittle_eval.regions import Part, Region
from brittle_eval.tuning.snapshot import Snapshot
from brittle_eval.tuning.trained import applied
from brittle_eval.weights import Fingerprint, find_weights
from brittle_plugins.ablate import Ablate
from tests.editing import unchanged
from tests.models import PAD, context, examples, gpt2, in_dtype, llama, random_region, tokenizer

Work = Callable[[PreTrainedModel, Region, Context], Any]


@dataclass(frozen=True)
class Training(Modification):
    """`apply` is the function; `name` stands in what is kept."""

    work: Work = field(repr=False)
    name: str = "training"
    asks: bool = True

    @property
    def asks_region(self) -> bool:
        return self.asks

    def apply(self, model: PreTrainedModel, region: Region, context: Context) -> Mapping[str, Any]:
        self.work(model, region, context)
        return {"did": self.name}


def shift(model: PreTrainedModel, region: Region, context: Context) -> None:
    """Every parameter moves, norms and embeddings too."""
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.5)


def given(folder: Path, memory: int = 2**30, said: list[str] | None = None) -> Context:
    say = (said if said is not None else []).append
    tuning = Tuning(tokenizer(), PAD, 0, lambda *_: examples([(3, 4), (5, 2)]), bar, say, memory, folder)
    return replace(context(), tuning=tuning)


def apply(model: PreTrainedModel, region: Region, chain: list[Modification], given: Context) -> AbstractContextManager[list[str]]:
    return applied(model, find_weights(model)[0], region, chain, given, Fingerprint(model))


@pytest.mark.parametrize("make", [llama, gpt2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("memory", [2**30, 0])
def test_a_training_is_undone_bit_for_bit(
    tmp_path: Path, make: Callable[[], PreTrainedModel], dtype: torch.dtype, memory: int
) -> None:
    """In float32 while it trains; with no memory to spare the old bytes are in a file of which nothing is left."""
    model, seen = in_dtype(make(), dtype), set[torch.dtype]()

    def work(model: PreTrainedModel, region: Region, context: Context) -> None:
        seen.update(value.dtype for value in model.parameters())
        shift(model, region, context)

    with unchanged(model), apply(model, random_region(model, 0.3), [Training(work)], given(tmp_path, memory)) as touched:
        assert seen == {torch.float32} and {value.dtype for value in model.parameters()} == {dtype}
        assert sorted(touched) == sorted(name for name, _ in model.named_parameters())
    (delta,) = tmp_path.iterdir()
    assert stat.S_IMODE(delta.stat().st_mode) == 0o600
    assert not any(value.requires_grad is False or value.grad is not None for value in model.parameters())


def test_a_snapshot_lies_on_disk_only_above_the_memory(tmp_path: Path) -> None:
    model = llama()
    size = sum(value.nbytes for value in model.parameters())
    assert not Snapshot(model, 2 * size, tmp_path).on_disk and Snapshot(model, size // 2, tmp_path).on_disk
    assert all(torch.equal(value, model.get_parameter(name)) for name, value in Snapshot(model, 0, tmp_path).items())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, BrittleError])
def test_an_error_in_a_training_leaves_nothing_of_it(tmp_path: Path, error: type[BaseException]) -> None:
    """Weights, a module that was put in, flags and gradients."""
    model = llama()
    for name, value in model.named_parameters():
        value.requires_grad_("norm" in name)
    flags, modules = [value.requires_grad for value in model.parameters()], list(model.modules())

    def work(model: PreTrainedModel, region: Region, context: Context) -> None:
        assert context.tuning is not None and all(value.requires_grad for value in model.parameters())
        context.tuning.folder.mkdir(parents=True)
        shift(model, region, context)
        model.get_submodule("model.layers.0.mlp").register_module("up_proj", nn.Identity())
        model.get_parameter("model.norm.weight").grad = torch.ones(32)
        raise error("in the middle")

    raised = error if error is not RuntimeError else BrittleError
    chain: list[Modification] = [Ablate(), Training(work)]
    with (
        unchanged(model),
        pytest.raises(raised, match="in the middle"),
        apply(model, random_region(model, 0.3), chain, given(tmp_path)),
    ):
        pytest.fail("the body must not run")
    assert list(model.modules()) == modules and [value.requires_grad for value in model.parameters()] == flags
    assert all(value.grad is None for value in model.parameters())
    assert len(list(tmp_path.iterdir())) == (1 if error is KeyboardInterrupt else 0), "a checkpoint to go on from"


def test_an_error_inside_a_trained_chain_restores_all(tmp_path: Path) -> None:
    model = llama()
    with unchanged(model), pytest.raises(ZeroDivisionError), apply(model, Region({}), [Training(shift)], given(tmp_path)):
        raise ZeroDivisionError


class Before(Modification):
    """`W_before − W`: what the chain did so far, negative."""

    needs = frozenset({"before"})

    def edit(self, weight: Weight, part: Part, context: Context) -> torch.Tensor:
        return context.weights("before")[weight.name].float() - weight.value.float()


def test_a_training_stands_between_edits(tmp_path: Path) -> None:
    """It sees what an edit before it made, and its start is that; an edit behind it sees the model from before the chain."""
    model, region = llama(), random_region(llama(), 0.3)
    old = {address.name: address.view(model).clone() for address in find_weights(model)[0]}
    seen: dict[str, bool] = {}

    def work(model: PreTrainedModel, region: Region, context: Context) -> None:
        assert context.tuning is not None
        for address in find_weights(model)[0]:
            edited = torch.where(region.masks()[address.name].dense(), 0, old[address.name])
            start = context.tuning.start[address.name]
            seen[address.name] = torch.equal(address.view(model), edited) and torch.equal(start, edited)
        shift(model, region, context)

    with unchanged(model), apply(model, region, [Ablate(), Training(work), Before()], given(tmp_path)):
        for address in find_weights(model)[0]:
            edited = torch.where(region.masks()[address.name].dense(), 0, old[address.name])
            torch.testing.assert_close(address.view(model), old[address.name] - (edited + 0.5))
    assert set(seen) == set(old) and all(seen.values())


def test_what_was_trained_is_kept_and_not_trained_again(tmp_path: Path) -> None:
    model, calls, said = llama(), list[int](), list[str]()

    def work(model: PreTrainedModel, region: Region, context: Context) -> None:
        calls.append(1)
        with torch.no_grad():
            model.get_parameter("model.norm.weight").mul_(2)

    region, other = random_region(model, 0.3), random_region(model, 0.2)
    fingerprints = []
    for chosen, chain in [(region, Training(work)), (region, Training(work)), (other, Training(work))]:
        tracked = Fingerprint(model)
        with applied(model, find_weights(model)[0], chosen, [chain], given(tmp_path, said=said), tracked) as touched:
            assert touched == ["model.norm.weight"]
            fingerprints.append(str(tracked))
    assert len(calls) == 2 and len(set(fingerprints)) == 1, "another region is another training"
    assert any("trained before" in line for line in said)
    with safe_open(next(tmp_path.iterdir()), framework="pt") as file:
        assert list(file.keys()) == ["model.norm.weight"]
        assert '"notes": {"did": "training"}' in file.metadata()["header"] and '"seed": 0' in file.metadata()["header"]


def test_a_training_that_asks_no_region_is_shared(tmp_path: Path) -> None:
    model, calls = llama(), list[int]()
    chain: list[Modification] = [Training(lambda *_: calls.append(1), asks=False)]
    for share in (0.1, 0.2):
        with apply(model, random_region(model, share), chain, given(tmp_path)):
            pass
    assert len(calls) == 1


@pytest.mark.parametrize(("damage", "said"), [("model", "fingerprint"), ("bytes", "remove the file to train again")])
def test_a_delta_that_does_not_fit_is_refused(tmp_path: Path, damage: str, said: str) -> None:
    model = llama()
    with apply(model, Region({}), [Training(shift)], given(tmp_path)):
        pass
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    if damage == "bytes":
        content[-1] ^= 1
    else:
        content = content.replace(str(Fingerprint(model)).encode(), b"0" * 32, 1)
    file.write_bytes(bytes(content))
    with unchanged(model), pytest.raises(BrittleError, match=said), apply(model, Region({}), [Training(shift)], given(tmp_path)):
        pytest.fail("the body must not run")


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    model = llama()

    def work(model: PreTrainedModel, region: Region, context: Context) -> None:
        with torch.no_grad():
            model.get_parameter("model.norm.weight")[0] = math.inf

    with (
        unchanged(model),
        pytest.raises(BrittleError, match="not finite"),
        apply(model, Region({}), [Training(work)], given(tmp_path)),
    ):
        pytest.fail("the body must not run")
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_may_train_it_says_so() -> None:
    model = llama()
    with pytest.raises(BrittleError, match="only a run"), apply(model, Region({}), [Training(shift)], context()):
        pytest.fail("the body must not run")
