"""ActSVD against the singular value decomposition of W X itself, on random tensors and on tiny models; shared states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from brittle_eval import Attribution, BrittleError, Directions, Seen, Weight
from brittle_eval.behaviour.calibration import Example
from brittle_eval.engine.attribute import Pass, accumulate
from brittle_eval.engine.sharing import readers
from brittle_eval.weights import find_weights
from brittle_plugins.actsvd import ActSVD
from tests.models import MODELS, PAD, attribute, biased, directions, examples, in_dtype, llama, weights_of

DATA = examples([(7, 25), (3, 29), (12, 11), (5, 25), (4, 31), (9, 2)])
SHAPES = [(6, 9), (9, 6), (7, 7), (1, 5), (5, 1)]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def weight(value: Tensor) -> Weight:
    return Weight("blocks.0.w", 0, value, None, torch.Generator())


def run(value: Tensor, batches: list[Tensor], *beside: Tensor) -> Directions:
    """What ActSVD finds of a weight whose input the weights `beside` read too."""
    method = ActSVD()
    state = method.start(weight(value), *map(weight, beside))
    for batch in batches:
        state = method.update(state, Seen(batch, batch @ value.T, torch.zeros(len(batch)), None))
    return method.finish(state, weight(value))


def agrees(found: Directions, value: Tensor, inputs: Tensor) -> bool:
    """Energies, and the projector onto every leading span, within 1e-5 of the decomposition of W X in float64."""
    u, sizes, _ = torch.linalg.svd(value.double() @ inputs.double().T, full_matrices=False)
    energies = sizes.square()
    if not torch.allclose(found.energies, energies[: len(found.energies)], rtol=1e-5, atol=1e-8 * float(energies[0])):
        return False
    for count in range(1, len(found.energies) + 1):
        mine, theirs = found.vectors[:, :count], u[:, :count]
        apart = 1.0 if count == len(sizes) else float(1 - sizes[count] / sizes[count - 1])
        if (mine @ mine.T - theirs @ theirs.T).norm() > 1e-5 * theirs.norm() and apart > 1e-3:
            return False
    return True


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("beside", [False, True])
def test_directions_are_the_left_singular_vectors_of_the_outputs(shape: tuple[int, int], beside: bool) -> None:
    value, batches = normal(*shape), [normal(tokens, shape[1], seed=tokens) for tokens in (4, 0, 23)]
    kept = [batch.clone() for batch in batches]
    found = run(value, batches, *([normal(2, shape[1])] if beside else []))
    assert (found.shape, found.tokens, found.ranks) == (shape, 27, min(shape))
    assert found.vectors.shape == (shape[0], min(shape)) and found.vectors.dtype == found.energies.dtype == torch.float64
    assert agrees(found, value, torch.cat(batches))
    assert torch.allclose(found.vectors.T @ found.vectors, torch.eye(min(shape), dtype=torch.float64), atol=1e-12)
    assert all(torch.equal(batch, copy) for batch, copy in zip(batches, kept, strict=True))


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (7, 7)])
def test_only_real_directions_are_given(shape: tuple[int, int]) -> None:
    """Fewer tokens than ranks; tokens that repeat; a weight of low rank; one of zeros."""
    value, three = normal(*shape), normal(3, shape[1], seed=1)
    for inputs in (three, three.repeat(9, 1), torch.cat([three, three * 1e-8])):
        found = run(value, [inputs])
        assert len(found.energies) == 3 and found.vectors.shape[1] == 3
        assert agrees(found, value, inputs)
        others = torch.eye(shape[0], dtype=torch.float64) - found.vectors @ found.vectors.T
        strongest = torch.linalg.svd(others @ value.double(), full_matrices=False).U
        for count in range(1, min(shape) - 2):
            mine, theirs = found.unseen[:, :count], strongest[:, :count]
            assert torch.allclose(mine @ mine.T, theirs @ theirs.T, atol=1e-5)
    low = normal(shape[0], 2) @ normal(2, shape[1])
    assert len(run(low, [normal(40, shape[1])]).energies) in (2, 3)  # the product is rounded to float32
    assert len(run(value * 0, [three]).energies) == 0


def test_weak_directions_survive_beside_a_strong_one() -> None:
    """Energies from 1 down to 1e-8: in float32 the Gram matrix would lose the last ones."""
    own, scale = torch.linalg.qr(normal(8, 8).double()).Q, torch.logspace(0, -4, 8, dtype=torch.float64)
    inputs = normal(500, 8, seed=2).double() * scale @ own
    found = run(torch.eye(8), [inputs.float()])
    assert agrees(found, torch.eye(8), inputs.float())


def test_no_overflow_in_float16_and_an_error_for_what_is_not_finite() -> None:
    inputs = torch.full((1000, 4), 60000.0, dtype=torch.float16)
    found = run(torch.eye(4, dtype=torch.float16), [inputs])
    assert found.energies.tolist() == pytest.approx([1000 * 4 * float(inputs[0, 0]) ** 2])
    with pytest.raises(BrittleError, match=r"what enters or leaves blocks\.0\.w is not finite: use dtype=float32"):
        run(normal(3, 3), [torch.full((2, 3), torch.inf)])


def inputs_of(model: PreTrainedModel, module: str, data: list[Example]) -> Tensor:
    """What enters a module at response tokens, in a plain pass over each example."""
    caught: list[Tensor] = []
    handle = model.get_submodule(module).register_forward_pre_hook(lambda _, args: caught.append(args[0].detach()))
    rows = []
    for example in data:
        model(input_ids=torch.tensor([example.ids]))
        rows.append(caught.pop().reshape(len(example.ids), -1)[example.start :])
    handle.remove()
    return torch.cat(rows)


@pytest.mark.parametrize("name", MODELS)
def test_on_tiny_models_it_is_the_decomposition_of_all_outputs(name: str) -> None:
    model = MODELS[name]()
    found = directions(model, ActSVD(), DATA, size=4)
    addresses = find_weights(model)[0]
    assert list(found) == [address.name for address in addresses]
    for address in addresses:
        one = found[address.name]
        assert one.name == address.name and one.tokens == sum(len(e.ids) - e.start for e in DATA)
        assert agrees(one, address.view(model), inputs_of(model, address.module, DATA))


def test_runs_repeat_and_batch_sizes_change_rounding_only() -> None:
    model = llama()
    one, again, singly = (directions(model, ActSVD(), DATA, size) for size in (4, 4, 1))
    for name, found in one.items():
        assert torch.equal(found.vectors, again[name].vectors)
        kept = min(5, len(found.energies))
        mine, theirs = found.vectors[:, :kept], singly[name].vectors[:, :kept]
        assert (mine @ mine.T - theirs @ theirs.T).norm() <= 1e-5 * kept**0.5


def test_bfloat16_gives_nearly_the_same_span() -> None:
    exact, coarse = directions(llama(), ActSVD(), DATA), directions(in_dtype(llama(), torch.bfloat16), ActSVD(), DATA)
    for name, found in exact.items():
        mine, theirs = found.vectors[:, :4], coarse[name].vectors[:, :4]
        assert float((mine.T @ theirs).square().sum()) / 4 > 0.95


SITES = {
    "llama": [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]],
    "gpt2": [["c_attn"], ["c_proj"], ["c_fc"], ["c_proj"]],
    "opt": [["k_proj", "v_proj", "q_proj"], ["out_proj"], ["fc1"], ["fc2"]],
}


@pytest.mark.parametrize("name", SITES)
def test_weights_that_read_one_input_are_found(name: str) -> None:
    model = MODELS[name]()
    groups = readers(model, find_weights(model)[0], DATA[0], PAD)
    found = [[address.module.rpartition(".")[2] for address in group] for group in groups]
    assert found == SITES[name] * 2
    assert all(len({address.block for address in group}) == 1 for group in groups)


@pytest.mark.parametrize("change", [torch.clone, lambda x: x.mul_(2)], ids=["copied", "in-place"])
def test_what_was_copied_or_changed_in_between_is_another_input(change: Callable[[Tensor], Tensor]) -> None:
    model = llama(layers=1)
    model.model.layers[0].self_attn.v_proj.register_forward_pre_hook(lambda _, args: (change(args[0]),))
    groups = readers(model, find_weights(model)[0], DATA[0], PAD)
    found = [[address.module.rpartition(".")[2] for address in group] for group in groups]
    assert found == [["q_proj", "k_proj"], ["v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]]


class Counting(Attribution):
    """Sums what it sees, and counts how often it is called."""

    needs = frozenset({"inputs"})
    shares = True

    def __init__(self) -> None:
        self.calls: list[str] = []

    def start(self, weight: Weight, *beside: Weight) -> Tensor:
        self.calls.append("start " + " ".join(one.name.split(".")[-2] for one in (weight, *beside)))
        return torch.zeros(weight.value.shape[1])

    def update(self, state: Tensor, seen: Seen) -> Tensor:
        self.calls.append("update")
        return state + seen.inputs.sum(0)

    def finish(self, state: Tensor, weight: Weight) -> Tensor:
        return state.expand(weight.value.shape)


def test_a_shared_state_is_begun_and_updated_once_and_finished_for_each() -> None:
    model, method = llama(layers=1), Counting()
    found = attribute(model, method, DATA, size=3)
    expected = ["start q_proj k_proj v_proj", "start o_proj", "start gate_proj up_proj", "start down_proj", *["update"] * 8]
    assert method.calls == expected
    method.shares = False  # type: ignore[misc]  # the same method, every weight alone
    alone = attribute(model, method, DATA, size=3)
    assert all(torch.equal(value, alone[name]) for name, value in found.items()) and len(found) == 7
    assert len(method.calls) - len(expected) == 7 + 14


def test_the_model_and_its_hooks_are_left_as_they_were() -> None:
    model = biased()
    accumulate(model, ActSVD(), weights_of(model), {"safety": DATA}, Pass(PAD))
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


class Given(Attribution):
    """Directions as they are given."""

    gives = "directions"

    def __init__(self, **changed: Any) -> None:
        self.changed = changed

    def finish(self, state: Any, weight: Weight) -> Directions:
        out, width = weight.value.shape
        plain: dict[str, Any] = {
            "shape": (out, width),
            "vectors": torch.eye(out)[:, :2],
            "energies": torch.tensor([2.0, 1.0]),
            "unseen": torch.eye(out)[:, 2 : min(out, width)],
            "tokens": 9,
        }
        return Directions(weight.name, **(plain | self.changed))


class Mistaken(Given):
    gives = "weight-scores"


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (
            Given(vectors=torch.eye(5)),
            r"directions \(5, 5\), \(32, 30\) unseen, of a weight \(32, 32\) with 2 energies for .*q_proj",
        ),
        (Given(shape=(4, 4)), r"of a weight \(4, 4\) .* expected \(32, k\) .* of \(32, 32\) with k up to 9 energies"),
        (Given(unseen=torch.eye(32)), r"\(32, 32\) unseen, .* and all others unseen"),
        (Given(tokens=1), "with k up to 1 energies"),
        (Given(energies=torch.tensor([1.0, 2.0])), "infinite or not by falling energy"),
        (Given(energies=torch.tensor([torch.inf, 2.0])), "infinite or not by falling energy"),
        (Given(vectors=torch.full((32, 2), torch.nan)), "infinite or not by falling energy"),
        (Mistaken(), "Mistaken says that it gives weight-scores, but gave Directions"),
    ],
)
def test_directions_that_are_none_are_refused(method: Attribution, said: str) -> None:
    with pytest.raises(BrittleError, match=said):
        directions(llama(), method, [])
