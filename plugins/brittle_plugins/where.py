"""Where a modification puts the new values: in the region, outside of it, or everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from brittle_eval import Part

Where = Literal["region", "complement", "all"]
"""The type of the option; `complement` is the rest of the weights that the region names, `all` the whole of these."""


def replaced(part: Part, old: Tensor, new: Tensor, where: Where) -> Tensor:
    """`W − R(W) + R(W')` with W `old` and W' `new`, both float32; `W' − R(W') + R(W)` for the complement; `W'` for all."""
    if where == "all":
        return new
    inside, outside = (new, old) if where == "region" else (old, new)
    return outside - part.apply(outside) + part.apply(inside)
