"""Edits of tiny models, and the proof that every byte came back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from brittle_eval.engine.edit import edited
from brittle_eval.methods import Context, Modification, Weight
from brittle_eval.regions import Part, Region
from brittle_eval.weights import Fingerprint, find_weights
from tests.models import context


def content(model: PreTrainedModel) -> dict[str, bytes]:
    """Raw bytes of every parameter."""
    return {name: bytes(value.detach().flatten().view(torch.uint8).tolist()) for name, value in model.named_parameters()}


def edit(
    model: PreTrainedModel, region: Region, *chain: Modification, given: Context | None = None
) -> AbstractContextManager[list[str]]:
    return edited(model, find_weights(model)[0], region, chain, given or context(), Fingerprint(model))


@dataclass(frozen=True)
class Doing(Modification):
    """`edit` is the function."""

    what: Callable[[Tensor, Context, str], Tensor]

    def edit(self, weight: Weight, part: Part, context: Context) -> Tensor:
        return self.what(weight.value, context, weight.name)


def doing(what: Callable[[Tensor], Tensor]) -> Doing:
    return Doing(lambda value, context, name: what(value))


@contextmanager
def unchanged(model: PreTrainedModel) -> Iterator[None]:
    before = content(model)
    yield
    assert content(model) == before
