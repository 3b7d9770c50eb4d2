"""How much of what an adaptation changed lies in a region, beside what chance would give."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import PreTrainedModel

from brittle_eval.cards import models
from brittle_eval.errors import BrittleError
from brittle_eval.evaluation.backbone import load_causal
from brittle_eval.organisms.organism import EMBEDDED, aligned
from brittle_eval.plugins import Plugins
from brittle_eval.regions import Part, Projector, Region
from brittle_eval.running.base import weights_of
from brittle_eval.running.table import terminal
from brittle_eval.store import load_region
from brittle_eval.tuning.hold import orthogonal
from brittle_eval.weights import Fingerprint, find_weights

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@dataclass(frozen=True)
class Displaced:
    """`inside = ‖P(ΔW)‖ / ‖ΔW‖` over all weights, P the orthogonal projector onto what the region acts on.

    `chance` is that of a random region of the same size in every weight: the root of its mean square.
    """

    path: str
    plan: str
    inside: float
    chance: float
    change: float
    """`‖ΔW‖ / ‖W‖` of all weights."""


def displacements(paths: Sequence[Path], after: str, before: str | None = None) -> list[Displaced]:
    """Of each region file, or all of a run's folder; `before` is the model that the regions were found on.

    BrittleError for a region of another model, for models of two shapes, and where nothing changed.
    """
    files = [file for path in paths for file in (sorted(path.glob("regions/*.safetensors")) if path.is_dir() else [path])]
    if not files:
        raise BrittleError(f"{', '.join(map(str, paths))}: no regions/*.safetensors; give a region file or the folder of a run")
    read = [(file, *load_region(file)) for file in files]
    model = _before(
        before or str(read[0][2].get("model", "")), {str(header.get("fingerprint")) for _, _, header in read}, files[0]
    )
    addresses = find_weights(model)[0]
    new = weights_of(after, model, addresses, "donor")
    old = {address.name: address.view(model) for address in addresses}
    change = {name: (new[name].float() - value.float()).cpu() for name, value in old.items()}
    return [_displaced(str(file), str(header.get("plan", "")), region, change, old) for file, region, header in read]


def _before(path: str, fingerprints: set[str], file: Path) -> PreTrainedModel:
    """The model of the regions, in the dtype that they were found in."""
    folder = str(aligned(models(Plugins.load())[EMBEDDED])) if path == EMBEDDED else path
    model = load_causal(folder, dtype="auto")
    for dtype in (model.dtype, *DTYPES):
        cast = model if model.dtype == dtype else load_causal(folder, dtype=dtype)
        if fingerprints == {str(Fingerprint(cast))}:
            return cast
    raise BrittleError(f"{file} was not found on {path}: give that model with --before, and regions of one model")


def _displaced(path: str, plan: str, region: Region, change: Mapping[str, Tensor], old: Mapping[str, Tensor]) -> Displaced:
    squares = {name: float(value.double().square().sum()) for name, value in change.items()}
    if (total := sum(squares.values())) == 0:
        raise BrittleError("the adapted model has the very weights of the one before: give another --after")
    inside = sum(float(orthogonal(part).apply(change[name]).double().square().sum()) for name, part in region.items())
    chance = sum(_share(part) * squares[name] for name, part in region.items())
    size = sum(float(value.double().square().sum()) for value in old.values())
    return Displaced(path, plan, *(math.sqrt(one) for one in (inside / total, chance / total, total / size)))


def _share(part: Part) -> float:
    """The mean of `‖P(ΔW)‖² / ‖ΔW‖²` over random places of the part's size."""
    if isinstance(part, Projector):
        projector = orthogonal(part)
        assert isinstance(projector, Projector)
        return projector.basis().shape[1] / part.shape[0]
    return part.count / math.prod(part.shape)


def show(found: Sequence[Displaced], console: Console | None = None) -> None:
    """Print a line for each region."""
    console = console or terminal()
    console.print(f"\n‖ΔW‖ / ‖W‖ = {found[0].change:.3g}", highlight=False)
    table = Table(show_edge=False, pad_edge=False, box=SIMPLE_HEAD)
    table.add_column("region", overflow="fold")
    for name in ("‖P(ΔW)‖ / ‖ΔW‖", "by chance"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in found:
        table.add_row(one.plan or one.path, f"{one.inside:.4f}", f"{one.chance:.4f}")
    console.print(table)
