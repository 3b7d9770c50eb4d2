"""Structured methods (heads, N:M) and `keep`, against their definitions written out as loops."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from brittle_eval import BrittleError, Context, Mask, Unit, UnitKind, Whole, share, unit_mask
from brittle_eval.engine.anatomy import find_units
from brittle_eval.engine.attribute import Pass
from brittle_eval.engine.isolate import find_region
from brittle_eval.recipe import Component, build
from brittle_eval.scope import Scope
from brittle_eval.weights import find_weights
from brittle_plugins.ablate import Ablate
from brittle_plugins.heads import Heads
from brittle_plugins.keep import Keep
from brittle_plugins.magnitude import Magnitude
from brittle_plugins.n_m import NM
from tests.architectures import mixtral
from tests.editing import edit
from tests.models import PAD, gpt2, llama
from tests.test_builtin_methods import CONTEXT, DTYPES, generator, weight
from tests.test_units import entering, of, output_of

MODEL = llama()
ADDRESSES = find_weights(MODEL)[0]
HEADS = find_units(MODEL, ADDRESSES, "query-head")[0]


def heads_only(kind: UnitKind) -> list[Unit]:
    assert kind == "query-head"
    return HEADS


WITH_HEADS = Context(generator, lambda which: {}, heads_only)


def draw(seed: int) -> dict[str, Tensor]:
    """Scores of the model's weights, of few levels, so that ties abound."""
    random = generator(seed)
    return {a.name: torch.randint(0, 3, a.view(MODEL).shape, generator=random).float() for a in ADDRESSES}


def total(head: Unit, scores: Mapping[str, Tensor], how: str) -> float:
    """Sum or mean over the head's query rows and output columns, entry by entry."""
    entries: list[float] = []
    for member in head.members:
        for index in member.indices:
            line = scores[member.weight][index] if member.axis == 0 else scores[member.weight][:, index]
            entries += line.tolist()
    return sum(entries) / (len(entries) if how == "mean" else 1)


@given(st.integers(0, 50), st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0]), st.sampled_from(["sum", "mean"]))
def test_heads_are_those_with_the_highest_scores(seed: int, q: float, how: str) -> None:
    scores = draw(seed)
    order = sorted(HEADS, key=lambda head: (-total(head, scores, how), head.block, head.index))
    for method, count in ((Heads(q=q, score=how), share(q, 8)), (Heads(q=q, count=3, score=how), 3)):  # type: ignore[arg-type]
        parts = method.isolate({"safety": scores}, WITH_HEADS)
        expected = unit_mask(order[:count])
        assert {name for name, part in parts.items() if part.count} == set(expected)
        assert all(parts[name] == mask for name, mask in expected.items())
        assert set(parts) == {address.name for address in ADDRESSES if "self_attn" in address.name}


def test_heads_compete_over_the_whole_model() -> None:
    assert (Heads().reach, Heads(of="other").behaviours) == ("model", ("other",))
    region = find_region(MODEL, Magnitude(), Heads(count=2), {}, ADDRESSES, WITH_HEADS, Pass(PAD))
    scores = {address.name: address.view(MODEL).abs() for address in ADDRESSES}
    best = sorted(HEADS, key=lambda head: -total(head, scores, "sum"))[:2]
    assert {n: m for n, m in region.masks().items() if m.count} == unit_mask(best).masks()


def test_an_ablated_head_gives_nothing_and_the_others_stay() -> None:
    """What the released code does not do: the head's columns of the output projection and its queries become zero."""
    head = HEADS[2]
    before = entering(MODEL, output_of(MODEL, head))
    with edit(MODEL, unit_mask([head]), Ablate()):
        address = output_of(MODEL, head)
        columns = of(head, 1).masks()[address.name].dense()[0]
        assert not bool(address.view(MODEL)[:, columns].any())
        after = entering(MODEL, address)
    assert torch.equal(after[:, ~columns], before[:, ~columns])


def test_heads_in_a_scope_are_ranked_and_taken_there() -> None:
    scores = draw(3)
    last = {a.name: scores[a.name] for a in Scope(blocks="1").of(ADDRESSES)}
    parts = Heads(count=2).isolate({"safety": last}, WITH_HEADS)
    assert set(parts) == {name for name in last if "self_attn" in name}
    queries = {a.name: scores[a.name] for a in Scope(modules="q_proj").of(ADDRESSES)}
    parts = Heads(count=2).isolate({"safety": queries}, WITH_HEADS)
    assert set(parts) == set(queries) and sum(part.count for part in parts.values()) == 2 * 8 * 32


def test_a_model_without_known_heads_is_an_error() -> None:
    with pytest.raises(BrittleError, match="no attention head of a known layout in this plan's scope"):
        Heads().isolate({"safety": draw(0)}, CONTEXT)
    with pytest.raises(BrittleError, match="no attention head"):
        Heads().isolate({"safety": {a.name: draw(0)[a.name] for a in Scope(modules="mlp.*").of(ADDRESSES)}}, WITH_HEADS)


@given(st.integers(0, 50), st.sampled_from([(1, 2), (2, 4), (4, 8), (4, 4), (1, 1), (3, 16)]), st.booleans())
def test_n_of_every_m(seed: int, sizes: tuple[int, int], top: bool) -> None:
    (n, m), scores = sizes, torch.randint(0, 4, (3, 16), generator=generator(seed)).float()
    part = NM(n, m, top).isolate({"safety": {"w": scores}}, CONTEXT)["w"]
    assert isinstance(part, Mask)
    for row in range(3):
        for start in range(0, 16, m):
            places = range(start, start + m)
            ranked = sorted(places, key=lambda j: (-1 if top else 1) * float(scores[row, j]))
            assert {j for j in places if part.dense()[row, j]} == set(ranked[:n])


def test_n_m_says_what_does_not_fit() -> None:
    with pytest.raises(BrittleError, match=r"w has 6 inputs, no multiple of m=4: give another m"):
        NM().isolate({"safety": {"w": torch.ones(2, 6)}}, CONTEXT)
    with pytest.raises(BrittleError, match="the options of n-m do not fit: n=5 of every m=4"):
        build(Component("isolation", "n-m", {"n": "5"}), NM)
    assert (NM().reach, NM(of="utility").behaviours) == ("weight", ("utility",))


@pytest.mark.parametrize("make", [gpt2, mixtral])
def test_n_m_holds_in_every_weight_of_a_model(make: type) -> None:
    model = make()
    region = find_region(model, Magnitude(), NM(), {}, find_weights(model)[0], CONTEXT, Pass(PAD))
    assert all(bool((mask.dense().reshape(-1, 4).sum(1) == 2).all()) for mask in region.masks().values())
    assert len(region) == len(find_weights(model)[0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_keep_leaves_the_region_and_nothing_else(dtype: torch.dtype) -> None:
    given_weight = weight((4, 5), dtype)
    dense = torch.rand(4, 5, generator=generator(3)) < 0.4
    found = Keep().edit(given_weight, Mask.from_dense(dense), CONTEXT).to(dtype)
    for i in range(4):
        for j in range(5):
            assert float(found[i, j]) == (float(given_weight.value[i, j]) if dense[i, j] else 0.0)
    assert torch.equal(Keep().edit(given_weight, Whole((4, 5)), CONTEXT).to(dtype), given_weight.value)


def test_keep_and_ablate_share_a_weight_between_them() -> None:
    given_weight, part = weight((4, 5)), Mask.from_dense(torch.rand(4, 5, generator=generator(3)) < 0.4)
    kept, left = (method.edit(given_weight, part, CONTEXT) for method in (Keep(), Ablate()))
    assert torch.equal(kept + left, given_weight.value)
