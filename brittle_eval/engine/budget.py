"""How much an attribution holds at once: measured before it starts, and cut into groups of whole blocks that fit `--memory`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from types import MappingProxyType
from typing import Any, Literal

from torch import Tensor, nn

from brittle_eval.behaviour.calibration import Example
from brittle_eval.engine.attribute import own
from brittle_eval.engine.sharing import Sites
from brittle_eval.errors import blaming
from brittle_eval.methods import Attribution, Weight
from brittle_eval.weights import Address

Reach = Literal["weight", "block", "model"]


def in_words(size: float) -> str:
    """`1.5 GiB`."""
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} GiB"


def held(state: Any) -> int:
    """Bytes of the tensors in a state, each memory counted once."""
    return sum({part.untyped_storage().data_ptr(): part.untyped_storage().nbytes() for part in _tensors(state)}.values())


def _tensors(state: Any) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, Mapping):
        yield from (tensor for value in state.values() for tensor in _tensors(value))
    elif isinstance(state, list | tuple | set):
        yield from (tensor for value in state for tensor in _tensors(value))
    elif is_dataclass(state):
        yield from (tensor for field in fields(state) for tensor in _tensors(getattr(state, field.name)))


def state_sizes(
    model: nn.Module,
    method: Attribution,
    sites: Sites,
    weigh: Callable[[Address], Weight],
    behaviours: Mapping[str, Sequence[Example]] = MappingProxyType({}),
) -> dict[str, int]:
    """Bytes of one behaviour's state by weight name: of what `start` makes of the weights of a site, once for equal shapes.

    A state that weights share counts for the first of them, and the others count nothing. One that holds what entered the weight
    in every example grows to that.
    """
    known: dict[tuple[tuple[int, ...], ...], int] = {}
    sizes: dict[str, int] = {}
    for site in sites:
        shapes = tuple(tuple(address.view(model).shape) for address in site)
        if shapes not in known:
            with blaming(method):
                known[shapes] = held(method.start(*(own(weigh(address)) for address in site)))
            if method.gives == "example-inputs":
                known[shapes] += scores_size(method, shapes[0], behaviours)
        sizes |= {address.name: known[shapes] if address is site[0] else 0 for address in site}
    return sizes


def scores_size(
    method: Attribution, shape: Sequence[int], behaviours: Mapping[str, Sequence[Example]] = MappingProxyType({})
) -> int:
    """Bytes of the largest behaviour's scores of a weight: float32, or all directions and their energies in float64."""
    out, width = shape
    if method.gives == "example-inputs":
        return 4 * width * max(map(len, behaviours.values()), default=0)
    return 8 * (out + 1) * min(out, width) if method.gives == "directions" else 4 * out * width


def by_block(addresses: Sequence[Address]) -> dict[int, list[Address]]:
    """The weights of each block, blocks in order."""
    blocks: dict[int, list[Address]] = {number: [] for number in sorted({address.block for address in addresses})}
    for address in addresses:
        blocks[address.block].append(address)
    return blocks


def groups(addresses: Sequence[Address], sizes: Mapping[str, int], behaviours: int, memory: int) -> list[list[Address]]:
    """Weights in runs of whole blocks whose states fit the memory; one block is the least."""
    out: list[list[Address]] = []
    used = 0
    for members in by_block(addresses).values():
        size = sum(sizes[address.name] for address in members) * behaviours
        if not out or used + size > memory:
            out.append([])
            used = 0
        out[-1].extend(members)
        used += size
    return out


@dataclass(frozen=True)
class Estimate:
    """Bytes that an attribution holds at once, beside the model and one batch."""

    states: int
    """Of the largest group, for all behaviours."""
    scores: int
    """Of what the isolation must see together, for all behaviours."""
    groups: int
    memory: int
    walk: int = 0
    """Of what a walk from block to block keeps of all examples."""

    def __str__(self) -> str:
        number = f"{self.groups} groups of blocks" if self.groups != 1 else "one group of blocks"
        over = "" if self.states + self.scores + self.walk <= self.memory else "; more than that, and less is not possible"
        walk = f", {in_words(self.walk)} of hidden states" if self.walk else ""
        return (
            f"memory beside the model: {in_words(self.states)} of states in {number}, {in_words(self.scores)} of scores{walk} "
            f"(--memory {in_words(self.memory)}{over})"
        )


def estimate(
    model: nn.Module,
    method: Attribution,
    made: Sequence[Sequence[Address]],
    sizes: Mapping[str, int],
    behaviours: Mapping[str, Sequence[Example]],
    memory: int,
    reach: Reach,
    walk: int = 0,
) -> Estimate:
    """Of an attribution by these groups, for an isolation of this reach; `walk` is what a walk holds."""
    states = max((sum(sizes[address.name] for address in group) for group in made), default=0)
    together: dict[object, int] = {}
    for address in (address for group in made for address in group):
        key = {"weight": address.name, "block": address.block, "model": None}[reach]
        together[key] = together.get(key, 0) + scores_size(method, address.view(model).shape, behaviours)
    many = len(behaviours)
    return Estimate(states * many, max(together.values(), default=0) * many, len(made), memory, walk)
