"""Simulated quantisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Interval

from brittle_eval import Modification
from brittle_plugins.where import Where, replaced

if TYPE_CHECKING:
    from torch import Tensor

    from brittle_eval import Context, Part, Weight


@dataclass(frozen=True)
class Quantize(Modification):
    """`Q(W)_ij = s_i · round(W_ij / s_i)`, `s_i = max_j |W_ij| / (2^(bits − 1) − 1)`: uniform, symmetric, one step for each row.

    `where=region` quantises the region, `complement` all but the region, which keeps its values: `Q(W) + R(W − Q(W))`. The step
    is that of the whole row in either case. Values stay in the model's dtype: what is simulated is the rounding, not the speed.
    A row of zeros stays zero. No calibration data; quantisers that use some round otherwise.
    """

    bits: Annotated[int, Interval(ge=2, le=16)] = 4
    where: Where = "region"

    def edit(self, weight: Weight, part: Part, context: Context) -> Tensor:
        value = weight.value.float()
        step = value.abs().amax(dim=1, keepdim=True) / (2 ** (self.bits - 1) - 1)
        rounded = (value / step.where(step > 0, 1.0)).round() * step
        return replaced(part, value, rounded, self.where)
