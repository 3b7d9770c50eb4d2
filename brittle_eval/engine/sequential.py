"""Sequential order: every block is attributed and isolated on the edited blocks before it, edited, and gone through."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from transformers import PreTrainedModel

from brittle_eval.behaviour.calibration import Example
from brittle_eval.engine.attribute import DATA, Pass, accumulate
from brittle_eval.engine.budget import by_block, estimate, held, state_sizes
from brittle_eval.engine.edit import editing
from brittle_eval.engine.isolate import Search, StatesOf, Wanted, checked
from brittle_eval.engine.kept import Kept
from brittle_eval.engine.sharing import Sites, sites
from brittle_eval.engine.walk import Walk, begin_walk
from brittle_eval.errors import BrittleError
from brittle_eval.methods import Attribution, Context, Isolation, Modification
from brittle_eval.regions import Region
from brittle_eval.weights import Address, Fingerprint


def check_order(isolation: Isolation) -> None:
    """BrittleError for an isolation that must see all blocks' scores before the first block is edited."""
    if isolation.reach == "model":
        raise BrittleError(
            f"order=sequential edits a block before it scores the next, but {isolation} must see the whole model's scores: "
            "give compare=row, weight or block, or order=parallel"
        )


def find_region_in_order(
    model: PreTrainedModel,
    attribution: Attribution,
    isolation: Isolation,
    modifications: Sequence[Modification],
    behaviours: Mapping[str, Sequence[Example]],
    addresses: Sequence[Address],
    context: Context,
    fingerprint: Fingerprint,
    how: Pass,
    kept: Kept | None = None,
    on_unreached: Callable[[str, str], None] = lambda behaviour, weight: None,
) -> Region:
    """The region of which each block's parts come from the model with the blocks before it modified; an empty one is an error.

    The model is as it was afterwards. About two forward passes for a method without gradients; one with gradients takes
    a forward pass and a backward pass down to the block for every block. With `kept`, finished blocks' parts are kept
    on disk, and those that are there already are applied, not attributed again.
    """
    check_order(isolation)
    search = Search(model, attribution, [Wanted(isolation, addresses, context, on_unreached=on_unreached)], behaviours, context)
    blocks = by_block(addresses)
    together, made = sites(model, attribution, addresses, search.behaviours, how.pad_id), list(blocks.values())
    sizes = state_sizes(model, attribution, together, search.weigh, search.behaviours)
    walk = _walk(search, how, len(blocks), together)
    room = held(walk.kept) if walk else 0
    how.say(str(estimate(model, attribution, made, sizes, search.behaviours, how.memory, isolation.reach, room)))
    passes: StatesOf = partial(accumulate, model, attribution, behaviours=search.behaviours, how=how, sites=together)
    states_of = walk.observe if walk else passes
    parts = kept.load() if kept else {}
    with editing(model, context, fingerprint) as edit:
        for number, members in blocks.items():
            while walk and walk.at < number:
                walk.advance()
            if any(address.name not in parts for address in members):
                weights = search.weights(members)
                (found,) = search.take(weights, states_of(weights))
                if (error := search.takers[0].error) is not None:
                    raise error
                parts |= found
                if kept:
                    kept.add(found)
            for address in members:
                if address.name in parts:
                    edit(address, parts[address.name], modifications)
    return checked(parts, addresses, isolation)


def _walk(search: Search, how: Pass, blocks: int, together: Sites) -> Walk | None:
    """A walk for a method that can take one; what whole passes cost is said."""
    needs = search.attribution.needs
    walk = None
    if needs & DATA and "gradients" not in needs:
        walk = begin_walk(search.model, search.attribution, search.behaviours, how, together)
    if needs & DATA and walk is None:
        what = "a forward pass and a backward pass down to the block" if "gradients" in needs else "a whole pass"
        how.say(f"order=sequential: {what} for each of {blocks} blocks, over all examples")
    return walk
