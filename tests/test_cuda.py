"""Attribution on a CUDA device, against the same on the processor. Skipped where there is none: this has not run there yet."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from accelerate import dispatch_model
from torch import nn
from transformers import PreTrainedModel

from brittle_eval.engine.attribute import Pass
from brittle_eval.engine.isolate import find_region
from brittle_eval.engine.sequential import find_region_in_order
from brittle_eval.methods import Attribution
from brittle_eval.regions import Region
from brittle_eval.weights import Fingerprint, find_weights
from brittle_plugins.ablate import Ablate
from brittle_plugins.set_difference import SetDifference
from brittle_plugins.snip import Snip
from brittle_plugins.wanda import Wanda
from tests.models import PAD, attribute, context, examples, in_dtype, llama

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
BEHAVIOURS = {"safety": examples([(4, 6), (7, 3), (5, 5)], 1), "utility": examples([(3, 8), (6, 2), (2, 4)], 2)}
METHODS = pytest.mark.parametrize("method", [Wanda(), Snip()], ids=["wanda", "snip"])


def on_one(model: PreTrainedModel) -> PreTrainedModel:
    nn.Module.to(model, "cuda")
    return model


def on_two(model: PreTrainedModel) -> PreTrainedModel:
    """The first block and what is around the blocks on one device, the second block on another."""
    if torch.cuda.device_count() < 2:
        pytest.skip("torch sees one CUDA device, and a device map over several needs two")
    places = {"model.embed_tokens": 0, "model.layers.0": 0, "model.layers.1": 1, "model.norm": 1, "model.rotary_emb": 0}
    placed: PreTrainedModel = dispatch_model(model, {**places, "lm_head": 0})
    return placed


PLACES = pytest.mark.parametrize("place", [on_one, on_two])
Place = Callable[[PreTrainedModel], PreTrainedModel]


@METHODS
@PLACES
def test_scores_are_those_of_the_processor(method: Attribution, place: Place) -> None:
    expected, found = attribute(llama(), method, BEHAVIOURS["safety"]), attribute(place(llama()), method, BEHAVIOURS["safety"])
    for name, value in expected.items():
        assert found[name].device.type == "cuda"
        assert float((found[name].cpu() - value).norm() / value.norm()) <= 1e-4


@METHODS
@PLACES
@pytest.mark.parametrize("order", ["parallel", "sequential"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_regions_in_both_orders_and_the_model_is_as_it_was(
    method: Attribution, place: Place, order: str, dtype: torch.dtype
) -> None:
    model = place(in_dtype(llama(), dtype))
    before, isolation = str(Fingerprint(model)), SetDifference(p=0.1, q=0.3)
    given = (BEHAVIOURS, find_weights(model)[0], context())

    def region(memory: int) -> Region:
        how = Pass(PAD, 2, memory)
        if order == "parallel":
            return find_region(model, method, isolation, *given, how)
        return find_region_in_order(model, method, isolation, [Ablate()], *given, Fingerprint(model), how)

    assert region(1).masks() == region(1 << 30).masks()
    assert str(Fingerprint(model)) == before
