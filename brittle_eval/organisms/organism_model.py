"""A model with a plant, loaded: its weights, those before the plant, the truth, and what editing does to its refusals."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from brittle_eval.cards import models
from brittle_eval.engine.anatomy import find_units
from brittle_eval.errors import BrittleError
from brittle_eval.evaluation.evaluate import Settings, TaskShelf
from brittle_eval.evaluation.lm import BrittleHFLM, load_lm
from brittle_eval.methods import Context
from brittle_eval.organisms.effect import Effect
from brittle_eval.organisms.organism import EMBEDDED, published
from brittle_eval.plugins import Plugins
from brittle_eval.regions import Region
from brittle_eval.running.base import weights_of
from brittle_eval.store import load_region
from brittle_eval.units import Unit, UnitKind
from brittle_eval.weights import Address, Fingerprint, find_weights

HARMFUL = "embedded_harmful"
"""The task whose prompts measure effects: no plant was trained on them."""


@dataclass(frozen=True)
class Organism:
    """What `load_organism` gives."""

    lm: BrittleHFLM
    addresses: list[Address]
    truth: Region
    base: Mapping[str, Tensor]
    plugins: Plugins
    seed: int

    @property
    def model(self) -> PreTrainedModel:
        model: PreTrainedModel = self.lm.model
        return model

    def generator(self, name: str) -> torch.Generator:
        """A random stream of the seed and the name."""
        digest = hashlib.blake2b(f"{self.seed}|{name}".encode(), digest_size=8).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)

    @cached_property
    def context(self) -> Context:
        """What isolations and modifications may ask for."""
        return Context(self.generator, lambda which: self.base, self._units)

    def _units(self, kind: UnitKind) -> list[Unit]:
        return find_units(self.model, self.addresses, kind)[0]

    @cached_property
    def effect(self) -> Effect:
        """Measures how many held-out harmful prompts are answered."""
        return Effect(self.lm, self.addresses, self.context, self.prompts(HARMFUL), self.plugins.get("judge", "refusal")())

    def prompts(self, task: str) -> list[str]:
        """The prompts of one of the project's tasks."""
        return [doc["prompt"] for doc in TaskShelf(self.plugins.task_paths(), {}).load(task, Settings()).eval_docs]


def load_organism(folder: Path, seed: int = 0, batch_size: int = 64) -> Organism:
    """The model of `organism build --plant`; BrittleError for a folder without a plant, or with another model's."""
    file = folder / "plant.safetensors"
    if not file.is_file():
        raise BrittleError(f"{folder} holds no plant.safetensors: give a folder that `organism build --plant` has made")
    plugins = Plugins.load()
    lm = load_lm({"pretrained": str(folder), "dtype": "float32"}, None, batch_size, seed)
    addresses, _ = find_weights(lm.model)
    truth, _ = load_region(file, str(Fingerprint(lm.model)))
    base = weights_of(str(published(models(plugins)[EMBEDDED])), lm.model, addresses)
    return Organism(lm, addresses, truth, base, plugins, seed)
