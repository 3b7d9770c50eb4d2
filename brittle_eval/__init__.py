"""brittle-eval: find, isolate and modify the weights that carry a model's safety behaviour, and evaluate what happens.

The public names, imported on first use: `import brittle_eval` itself is free of torch, transformers and lm-eval.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from brittle_eval.data import sources
    from brittle_eval.errors import BrittleError, CannotRun, UnknownName
    from brittle_eval.evaluation.compliance import compliant_start
    from brittle_eval.hooks import HookModification
    from brittle_eval.hookspecs import hookimpl
    from brittle_eval.methods import (
        UNVERIFIED,
        Attribution,
        Context,
        Isolation,
        Judge,
        ModelAttribution,
        Modification,
        Ranks,
        Record,
        Seen,
        Share,
        Tuning,
        Verdict,
        Weight,
    )
    from brittle_eval.reading import Reader, Steering
    from brittle_eval.regions import Mask, Part, Projector, Region, Whole, chance_overlap, overlap
    from brittle_eval.running.api import Evaluation, evaluate
    from brittle_eval.running.hosted import BrittleHF
    from brittle_eval.scores import Compare, Directions, ExampleInputs, HiddenStates, highest, select, share
    from brittle_eval.streams import Streams
    from brittle_eval.tuning.checkpoint import Checkpoint
    from brittle_eval.tuning.hold import Hold, Rule
    from brittle_eval.tuning.train import Training, fine_tune, response_losses
    from brittle_eval.units import Member, Unit, UnitKind, unit_mask

__version__ = "0.1.0"

__all__ = [
    "UNVERIFIED",
    "Attribution",
    "BrittleError",
    "BrittleHF",
    "CannotRun",
    "Checkpoint",
    "Compare",
    "Context",
    "Directions",
    "Evaluation",
    "ExampleInputs",
    "HiddenStates",
    "Hold",
    "HookModification",
    "Isolation",
    "Judge",
    "Mask",
    "Member",
    "ModelAttribution",
    "Modification",
    "Part",
    "Projector",
    "Ranks",
    "Reader",
    "Record",
    "Region",
    "Rule",
    "Seen",
    "Share",
    "Steering",
    "Streams",
    "Training",
    "Tuning",
    "Unit",
    "UnitKind",
    "UnknownName",
    "Verdict",
    "Weight",
    "Whole",
    "chance_overlap",
    "compliant_start",
    "evaluate",
    "fine_tune",
    "highest",
    "hookimpl",
    "overlap",
    "response_losses",
    "select",
    "share",
    "sources",
    "unit_mask",
]

_HOME = {
    "data": ("sources",),
    "evaluation.compliance": ("compliant_start",),
    "errors": ("BrittleError", "CannotRun", "UnknownName"),
    "hooks": ("HookModification",),
    "hookspecs": ("hookimpl",),
    "reading": ("Reader", "Steering"),
    "regions": ("Mask", "Part", "Projector", "Region", "Whole", "chance_overlap", "overlap"),
    "running.api": ("Evaluation", "evaluate"),
    "running.hosted": ("BrittleHF",),
    "scores": ("Compare", "Directions", "ExampleInputs", "HiddenStates", "highest", "select", "share"),
    "streams": ("Streams",),
    "tuning.checkpoint": ("Checkpoint",),
    "tuning.hold": ("Hold", "Rule"),
    "tuning.train": ("Training", "fine_tune", "response_losses"),
    "units": ("Member", "Unit", "UnitKind", "unit_mask"),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}
"""Where a public name lives; those not named here live in `methods`."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'brittle_eval' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"brittle_eval.{_MODULE.get(name, 'methods')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
