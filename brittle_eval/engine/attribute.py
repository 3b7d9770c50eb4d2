"""The driver of attributions: runs a behaviour's examples through the model and hands each weight what the method needs.

Forward-only methods see the decoder's own pass through hooks (no mask or rotary embedding is rebuilt here); gradients come from
one forward and backward a batch, taken weight by weight and example by example as the backward pass produces them, and the
backward pass ends at the first block that is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from brittle_eval.behaviour.calibration import Example, collate, input_device, logits_at, predicting
from brittle_eval.engine.observe import Observer, observing
from brittle_eval.engine.sharing import Sites
from brittle_eval.errors import BrittleError, blaming
from brittle_eval.methods import Attribution, Weight
from brittle_eval.pages import paged
from brittle_eval.scores import Directions, ExampleInputs, Scored
from brittle_eval.weights import Address

States = dict[str, dict[str, Any]]
"""State by behaviour and weight name: one object for weights that share it, none for a weight that no example reached."""


def _no_tokenizer(text: str) -> Sequence[int]:
    raise TypeError(f"no tokenizer was given that could read {text!r}")


@dataclass(frozen=True)
class Pass:
    """How examples run: batch size in examples, padding token, memory for the state of one group of blocks in bytes."""

    pad_id: int
    batch_size: int = 8
    memory: int = 4 << 30
    on_batch: Callable[[int], None] = lambda steps: None
    """Told examples × blocks looked at, after every batch: over a whole attribution that sums to all examples × all blocks."""
    say: Callable[[str], None] = lambda line: None
    """Told how the attribution will run, before it starts."""
    tokens: Callable[[str], Sequence[int]] = _no_tokenizer
    """The ids of a text without special tokens."""


GIVEN: Mapping[str, type] = {"directions": Directions, "example-inputs": ExampleInputs}
"""What `finish` must give where it is no tensor."""
DATA: frozenset[str] = frozenset({"inputs", "outputs", "gradients"})
"""What a method may need that takes passes over the examples."""


def accumulate(
    model: PreTrainedModel,
    method: Attribution,
    weights: Mapping[Address, Weight],
    behaviours: Mapping[str, Sequence[Example]],
    how: Pass,
    sites: Sites = (),
) -> States:
    """The method's state for every behaviour and given weight, after all examples, from passes of the whole model.

    Weights of one of the `sites` keep one state; without any, every weight has its own.
    """
    blocks = len({address.block for address in weights})
    run = _backward if "gradients" in method.needs else _forward

    def passes(examples: Sequence[Example], observer: Observer) -> None:
        for batch, first in batches(examples, how.batch_size):
            observer.begin(*collate(batch, how.pad_id, input_device(model)), first)
            run(model, observer)
            how.on_batch(len(batch) * blocks)

    return {
        behaviour: observed(model, method, weights, behaviour, examples, sites, partial(passes, examples))
        for behaviour, examples in behaviours.items()
    }


def observed(
    model: PreTrainedModel,
    method: Attribution,
    weights: Mapping[Address, Weight],
    behaviour: str,
    examples: Sequence[Example],
    sites: Sites,
    run: Callable[[Observer], None],
) -> dict[str, Any]:
    """The state of every weight after `run` has taken all batches past the observer."""
    if method.at != "responses" and "gradients" in method.needs:
        raise BrittleError(f"{type(method).__name__} looks at {method.at}, where there are no gradients: mend it")
    if method.needs & DATA and not examples:
        raise BrittleError(f"{type(method).__name__} needs examples of '{behaviour}', but there are none: give pairs of it")
    inside = ([address for address in site if address in weights] for site in sites or [[address] for address in weights])
    together = [group for group in inside if group]
    with blaming(method):
        state = {group[0].name: method.start(*(own(weights[address]) for address in group)) for group in together}
    if method.needs & DATA:
        with observing(model, method, [group[0] for group in together], state) as observer:
            run(observer)
        state = {name: value for name, value in state.items() if name in observer.reached}
    return {address.name: state[group[0].name] for group in together if group[0].name in state for address in group}


def scores(method: Attribution, weight: Weight, state: Any) -> Scored:
    """Checked scores of one weight: float32 (out, in), or what else the method gives."""
    with blaming(method):
        value = method.finish(state, own(weight))
    if not isinstance(value, GIVEN.get(method.gives, Tensor)):
        raise BrittleError(f"{type(method).__name__} says that it gives {method.gives}, but gave {type(value).__name__}: mend it")
    if isinstance(value, Directions):
        return _directions(method, weight, value)
    if isinstance(value, ExampleInputs):
        return _inputs(method, weight, value)
    return _entries(method, weight, value.float())


def _inputs(method: Attribution, weight: Weight, found: ExampleInputs) -> ExampleInputs:
    name, width, given = type(method).__name__, weight.value.shape[1], tuple(found.values.shape)
    if len(given) != 2 or given[1] != width:
        raise BrittleError(f"{name} gave inputs of shape {given} for {weight.name}, expected (examples, {width})")
    return replace(found, values=_finite(method, weight, found.values.float()))


def _directions(method: Attribution, weight: Weight, found: Directions) -> Directions:
    """Directions as their docstring has them: one energy a direction, falling, and no more than there can be."""
    out, count = weight.value.shape[0], len(found.energies)
    most = min(*weight.value.shape, found.tokens)
    rest = (out, min(weight.value.shape) - count)
    if found.vectors.shape != (out, count) or count > most or found.shape != weight.value.shape or found.unseen.shape != rest:
        given = (
            f"{tuple(found.vectors.shape)}, {tuple(found.unseen.shape)} unseen, of a weight {found.shape} with {count} energies"
        )
        wanted = f"({out}, k) and all others unseen, of {tuple(weight.value.shape)} with k up to {most} energies"
        raise BrittleError(f"{type(method).__name__} gave directions {given} for {weight.name}, expected {wanted}")
    finite = all(bool(part.isfinite().all()) for part in (found.vectors, found.energies, found.unseen))
    if not finite or not bool((found.energies.diff() <= 0).all()):
        raise BrittleError(
            f"{type(method).__name__} gave directions for {weight.name} that are infinite or not by falling energy"
        )
    return found


def _entries(method: Attribution, weight: Weight, value: Tensor) -> Tensor:
    if value.shape != weight.value.shape:
        given, wanted = tuple(value.shape), tuple(weight.value.shape)
        raise BrittleError(f"{type(method).__name__} gave scores of shape {given} for {weight.name}, expected {wanted}")
    return _finite(method, weight, value)


def _finite(method: Attribution, weight: Weight, value: Tensor) -> Tensor:
    if not bool(torch.stack(value.aminmax()).isfinite().all()):  # NaN is its own extreme
        raise BrittleError(
            f"{type(method).__name__} gave NaN or infinite scores for {weight.name}: "
            "use dtype=float32 or bfloat16 and check the weights"
        )
    return value


def own(weight: Weight) -> Weight:
    """A copy for the method: arithmetic in place on it must not reach the model."""
    return replace(weight, value=paged(weight.value))


def batches(examples: Sequence[Example], size: int) -> Iterator[tuple[list[Example], int]]:
    """Examples of like length together, and the number of the first of them."""
    order = sorted(examples, key=lambda example: len(example.ids))
    for start in range(0, len(order), size):
        yield order[start : start + size], start


def _forward(model: PreTrainedModel, observer: Observer) -> None:
    with torch.no_grad():  # not inference_mode: what a method keeps must stay an ordinary tensor
        model.get_decoder()(input_ids=observer.ids, attention_mask=observer.mask, use_cache=False)


def _backward(model: PreTrainedModel, observer: Observer) -> None:
    """Sum over the batch's examples of the mean over response tokens of `−log p`, backward."""
    with torch.enable_grad():
        where = predicting(observer.responses)
        logits = logits_at(model, observer.ids, observer.mask, where)
        labels = observer.ids.roll(-1, dims=1)[where].to(logits.device)
        losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        share = (1.0 / where.sum(dim=1, keepdim=True)).expand_as(where)[where].to(logits.device)
        (losses * share).sum().backward()
