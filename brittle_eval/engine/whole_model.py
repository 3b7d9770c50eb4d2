"""The driver of attributions of the whole model: what each behaviour shows, and the region that an isolation makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

from transformers import PreTrainedModel

from brittle_eval.behaviour.calibration import Example
from brittle_eval.engine.attribute import Pass
from brittle_eval.engine.budget import held, in_words
from brittle_eval.engine.edit import edited
from brittle_eval.engine.isolate import checked
from brittle_eval.engine.reader import ModelReader
from brittle_eval.errors import BrittleError, blaming
from brittle_eval.methods import Context, Isolation, ModelAttribution, Modification
from brittle_eval.regions import Part, Region
from brittle_eval.scores import HiddenStates
from brittle_eval.weights import Address, Fingerprint


def find_whole(
    model: PreTrainedModel,
    attribution: ModelAttribution,
    isolation: Isolation,
    behaviours: Mapping[str, Sequence[Example]],
    scope: Sequence[Address],
    addresses: Sequence[Address],
    context: Context,
    fingerprint: Fingerprint,
    how: Pass,
) -> Region:
    """The region that the isolation makes of what the attribution found in the model as it is; an empty one is an error.

    `scope` has the weights that may be in the region, `addresses` all.
    """
    reader = ModelReader(model, behaviours, scope, addresses, how)
    found = {behaviour: attributed(attribution, reader, behaviour, behaviours) for behaviour in isolation.behaviours}
    how.say(f"memory beside the model: {in_words(held(found))} of hidden states")

    def modified(parts: Mapping[str, Part], modification: Modification) -> AbstractContextManager[list[str]]:
        return edited(model, scope, Region(parts), [modification], context, fingerprint)

    with blaming(isolation):
        parts = isolation.isolate(found, replace(context, reader=lambda: reader, modified=modified))
    return checked(parts, scope, isolation)


def attributed(
    attribution: ModelAttribution, reader: ModelReader, behaviour: str, behaviours: Mapping[str, Sequence[Example]]
) -> HiddenStates:
    """Checked states of one behaviour."""
    name = type(attribution).__name__
    if not behaviours.get(behaviour):
        raise BrittleError(f"{name} needs examples of '{behaviour}', but there are none: give pairs of it")
    with blaming(attribution):
        found = attribution.attribute(reader, behaviour)
    if not isinstance(found, HiddenStates):
        raise BrittleError(f"{name} says that it gives {attribution.gives}, but gave {type(found).__name__}: mend it")
    if not bool(found.values.isfinite().all()):
        raise BrittleError(f"{name} found NaN or infinite states for '{behaviour}': use dtype=float32 or bfloat16")
    return found
