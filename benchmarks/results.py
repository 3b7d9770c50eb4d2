"""What benchmarks share: held against targets, and one flat JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from rich.table import Table

Targets = Mapping[str, tuple[float, str]]
"""What each number is held to: a limit, and `at most` or `at least`."""


def verdicts(found: Mapping[str, float], targets: Targets, title: str) -> Table:
    """Every number that has a target, and whether it meets it."""
    table = Table("key", "value", "target", "", title=title)
    for name, (limit, side) in targets.items():
        if name in found:
            met = found[name] <= limit if side == "at most" else found[name] >= limit
            table.add_row(name, f"{found[name]:.3g}", f"{side} {limit:g}", "met" if met else "missed")
    return table


def keep(output: Path, found: Mapping[str, float]) -> None:
    """Write the numbers into the file, beside those of other benchmarks."""
    known = json.loads(output.read_text()) if output.exists() else {}
    output.write_text(json.dumps(known | {name: round(value, 4) for name, value in found.items()}, indent=1) + "\n")
