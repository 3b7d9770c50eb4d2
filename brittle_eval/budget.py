"""How much an attribution holds at once: measured before it starts, and cut into groups of whole blocks that fit `--memory`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal

from torch import Tensor, nn

from brittle_eval.attribute import own
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
    model: nn.Module, method: Attribution, addresses: Sequence[Address], weigh: Callable[[Address], Weight]
) -> dict[str, int]:
    """Bytes of one behaviour's state by weight name: of what `start` makes of one weight of each shape."""
    known: dict[tuple[int, ...], int] = {}
    sizes = {}
    for address in addresses:
        shape = tuple(address.view(model).shape)
        if shape not in known:
            with blaming(method):
                known[shape] = held(method.start(own(weigh(address))))
        sizes[address.name] = known[shape]
    return sizes


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
    """Of what the isolation must see together, for all behaviours, float32."""
    groups: int
    memory: int

    def __str__(self) -> str:
        number = f"{self.groups} groups of blocks" if self.groups != 1 else "one group of blocks"
        over = "" if self.states + self.scores <= self.memory else "; more than that, and less is not possible"
        return (
            f"memory beside the model: {in_words(self.states)} of states in {number}, {in_words(self.scores)} of scores "
            f"(--memory {in_words(self.memory)}{over})"
        )


def estimate(
    model: nn.Module, made: Sequence[Sequence[Address]], sizes: Mapping[str, int], behaviours: int, memory: int, reach: Reach
) -> Estimate:
    """Of an attribution by these groups, for an isolation of this reach."""
    states = max((sum(sizes[address.name] for address in group) for group in made), default=0)
    together: dict[object, int] = {}
    for address in (address for group in made for address in group):
        key = {"weight": address.name, "block": address.block, "model": None}[reach]
        together[key] = together.get(key, 0) + 4 * address.view(model).numel()
    return Estimate(states * behaviours, max(together.values(), default=0) * behaviours, len(made), memory)
