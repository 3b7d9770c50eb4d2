"""How much an isolation must see at once, by what competes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

REACH: Mapping[str, Literal["weight", "block", "model"]] = {
    "row": "weight",
    "weight": "weight",
    "block": "block",
    "global": "model",
}
