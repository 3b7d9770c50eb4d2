"""Weights of other models: the base (before its safety training), to compare with or restore from, and a donor."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedModel

from brittle_eval.errors import BrittleError
from brittle_eval.evaluation.backbone import load_causal
from brittle_eval.organisms.organism import published
from brittle_eval.running.prepare import Prepared
from brittle_eval.weights import Address


def stream(seed: int, name: str) -> torch.Generator:
    """The random stream of a run's seed and a name."""
    digest = hashlib.blake2b(f"{seed}|{name}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def base_weights(prepared: Prepared, model: PreTrainedModel, addresses: Sequence[Address]) -> Mapping[str, Tensor]:
    """The base model's weights as (out, in) by name: `--base`, or for the embedded model the model as published.

    BrittleError: no base given, one that does not load, or one of another shape.
    """
    path = prepared.options.base or (str(published(prepared.model_card)) if prepared.model_card else None)
    if path is None:
        raise BrittleError("a method of this plan needs the base model: give --base PATH_OR_HUB_ID")
    return weights_of(path, model, addresses)


def donor_weights(prepared: Prepared, model: PreTrainedModel, addresses: Sequence[Address]) -> Mapping[str, Tensor]:
    """The weights of `--donor` as (out, in) by name; BrittleError as for a base."""
    if prepared.options.donor is None:
        raise BrittleError("a method of this plan needs a donor: give --donor PATH_OR_HUB_ID, a model of the same shape")
    return weights_of(prepared.options.donor, model, addresses, "donor")


def weights_of(path: str, model: PreTrainedModel, addresses: Sequence[Address], what: str = "base") -> Mapping[str, Tensor]:
    """The weights of the model at `path` as (out, in) by name, on the devices of the model's own.

    Of a vision-language model they are those of its language side.
    """
    try:
        other = load_causal(path, dtype=model.dtype)
    except (OSError, ValueError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0][:200]
        raise BrittleError(f"cannot load the {what} model {path}: {first}") from error
    weights = {}
    for address in addresses:
        try:
            value = address.view(other)
        except (AttributeError, IndexError):
            raise BrittleError(
                f"the {what} model {path} has no weight {address.name}: give a {what} of the same architecture"
            ) from None
        own = address.view(model)
        if value.shape != own.shape:
            raise BrittleError(
                f"the {what} model {path} has {address.name} of shape {tuple(value.shape)}, the model {tuple(own.shape)}: "
                f"give a {what} of the same shape"
            )
        weights[address.name] = value.to(own.device)
    return weights
