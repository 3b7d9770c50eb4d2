"""Where a model's units are: which rows and columns of which weights are one query head, or one MLP channel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedModel

from brittle_eval.units import Member, Unit, UnitKind
from brittle_eval.weights import Address

FUSED = ("qkv_proj", "query_key_value", "c_attn", "Wqkv")
"""Names of a weight that holds queries, keys and values."""
OUTPUTS = ("o_proj", "out_proj", "dense", "c_proj")
"""Names of the weight after the heads."""
LAYOUTS: Mapping[str, Literal["stacked", "grouped"]] = {
    **dict.fromkeys(("gpt2", "mpt", "phi3", "phi4_multimodal"), "stacked"),
    **dict.fromkeys(("bloom", "falcon", "gpt_neox", "gpt_neox_japanese", "persimmon"), "grouped"),
}
"""Order of the rows of a fused weight, by model type: all queries, keys, values; or each group's queries, key and value."""
CHANNELS: Sequence[tuple[str, ...]] = (
    ("gate_proj", "up_proj", "down_proj"),
    ("up_proj", "down_proj"),
    ("w1", "w3", "w2"),
    ("fc1", "fc2"),
    ("fc_in", "fc_out"),
    ("c_fc", "c_proj"),
    ("dense_h_to_4h", "dense_4h_to_h"),
)
"""Names of the gate, if there is one, of the weight that widens, and last of the one that narrows."""
GATE_UP, DOWN = "gate_up_proj", "down_proj"
"""A fused weight: the gate's rows, then as many others."""


@dataclass(frozen=True)
class Linear:
    """A weight's name and its shape (out, in)."""

    name: str
    rows: int
    columns: int

    def of_rows(self, start: int, count: int = 1) -> Member:
        return Member(self.name, (self.rows, self.columns), 0, range(start, start + count))

    def of_columns(self, start: int, count: int = 1) -> Member:
        return Member(self.name, (self.rows, self.columns), 1, range(start, start + count))


def find_units(model: PreTrainedModel, addresses: Sequence[Address], kind: UnitKind) -> tuple[list[Unit], list[str]]:
    """The units of a kind in the model's order, and what of the blocks has none that are known, in words."""
    units: list[Unit] = []
    left_out: list[str] = []
    for block in dict.fromkeys(address.block for address in addresses):
        own = [address for address in addresses if address.block == block]
        found = (_heads if kind == "query-head" else _channels)(model, own)
        before = len(units)
        units += (Unit(kind, block, index, *parts) for index, parts in enumerate(found))
        if kind == "mlp-channel" and any(address.expert is not None for address in own):
            left_out.append(f"block {block}: its fused experts")
        elif len(units) == before:
            left_out.append(f"block {block}: no {kind} of a known layout")
    return units, left_out


def find_writers(model: PreTrainedModel, addresses: Sequence[Address]) -> list[Address]:
    """Those weights whose outputs join the residual stream, by name and width: after the heads, and where an MLP narrows."""
    width = model.config.get_text_config().hidden_size
    names = {*OUTPUTS, *(names[-1] for names in CHANNELS), DOWN}
    return [one for one in addresses if one.path.rpartition(".")[2] in names and one.view(model).shape[0] == width]


Parts = tuple[tuple[Member, ...], tuple[Member, ...], int, int]
"""Of a unit: its members, the shared ones, its group, and how many share."""


def _linears(model: PreTrainedModel, addresses: Sequence[Address]) -> Iterator[dict[str, Linear]]:
    """The linear weights by name, one module that holds some after the other."""
    found: dict[str, dict[str, Linear]] = {}
    for address in addresses:
        if address.expert is None:
            parent, _, name = address.module.rpartition(".")
            rows, columns = address.view(model).shape
            found.setdefault(parent, {})[name] = Linear(address.name, rows, columns)
    yield from found.values()


def _channels(model: PreTrainedModel, addresses: Sequence[Address]) -> Iterator[Parts]:
    for own in _linears(model, addresses):
        if (found := _widening(own)) is not None:
            weights, down = found
            for index in range(down.columns):
                yield (*(weight.of_rows(start + index) for weight, start in weights), down.of_columns(index)), (), index, 1


def _widening(own: Mapping[str, Linear]) -> tuple[list[tuple[Linear, int]], Linear] | None:
    """What widens, as weights with the row that their channels begin at, and the weight that narrows again."""
    if GATE_UP in own and DOWN in own and own[GATE_UP].rows == 2 * own[DOWN].columns:
        return [(own[GATE_UP], 0), (own[GATE_UP], own[DOWN].columns)], own[DOWN]
    for *names, narrow in CHANNELS:
        if own.keys() >= {*names, narrow} and all(own[name].rows == own[narrow].columns for name in names):
            return [(own[name], 0) for name in names], own[narrow]
    return None


def _heads(model: PreTrainedModel, addresses: Sequence[Address]) -> Iterator[Parts]:
    config = model.config.get_text_config()
    count: object = getattr(config, "num_attention_heads", None)
    if not isinstance(count, int):
        return
    before = 0
    for own in _linears(model, addresses):
        output = next((own[name] for name in OUTPUTS if name in own), None)
        if output is None or output.columns % count:
            continue
        width = output.columns // count
        queries, groups = _apart(own, count, width) or _fused(own, count, width, LAYOUTS.get(config.model_type)) or ([], [])
        for head, rows in enumerate(queries):
            sharing = count // len(groups)
            members, shared = (rows, output.of_columns(head * width, width)), groups[head // sharing]
            if sharing == 1:
                yield (*members, *shared), (), before + head, 1
            else:
                yield members, shared, before + head // sharing, sharing
        before += len(groups)


Attention = tuple[list[Member], list[tuple[Member, Member]]]
"""The query rows of every head, and the key and value rows of every group."""


def _apart(own: Mapping[str, Linear], heads: int, width: int) -> Attention | None:
    """Queries, keys and values in weights of their own. A head's query rows may be more than `width`: some models add a gate."""
    if not {"q_proj", "k_proj", "v_proj"} <= own.keys():
        return None
    query, key, value = own["q_proj"], own["k_proj"], own["v_proj"]
    groups = value.rows // width
    if not groups or value.rows % width or heads % groups or query.rows % heads or key.rows % groups:
        return None
    each, wide = query.rows // heads, key.rows // groups
    rows = [query.of_rows(head * each, each) for head in range(heads)]
    return rows, [(key.of_rows(group * wide, wide), value.of_rows(group * width, width)) for group in range(groups)]


def _fused(own: Mapping[str, Linear], heads: int, width: int, layout: str | None) -> Attention | None:
    """Queries, keys and values in one weight, in the order that is known of the model's type."""
    weight = next((own[name] for name in FUSED if name in own), None)
    if weight is None or weight.rows % width:
        return None
    groups, odd = divmod(weight.rows // width - heads, 2)
    if odd or groups < 1 or heads % groups or (layout is None and groups > 1):
        return None
    each = heads // groups
    if layout == "stacked":
        queries, keys, values = (
            list(range(heads)),
            [heads + g for g in range(groups)],
            [heads + groups + g for g in range(groups)],
        )
    else:
        starts = [group * (each + 2) for group in range(groups)]
        queries = [start + head for start in starts for head in range(each)]
        keys, values = [start + each for start in starts], [start + each + 1 for start in starts]
    shared = [(weight.of_rows(k * width, width), weight.of_rows(v * width, width)) for k, v in zip(keys, values, strict=True)]
    return [weight.of_rows(slot * width, width) for slot in queries], shared
