"""The grid of a sweep: options of `run`, of which some have several values; every combination is a cell.

A list is an axis. `0.01..0.05/5` are five numbers from the first to the last at equal distances, `0.001..0.1/5log` at equal
ratios.
In a plan's options `|` stands between values: `wanda-diff:p=0.01|0.03,q=0.01..0.05/5`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # has no types

from brittle_eval.errors import BrittleError, UnknownName

RANGE = re.compile(r"\s*(-?\d+(?:\.\d+)?)\.\.(-?\d+(?:\.\d+)?)/(\d+)(log)?\s*")
REPEATED = frozenset({"behaviour", "data", "plugin", "include-path", "stop-when"})
"""Options that `run` takes several times: a list of them is one value, not an axis."""
MODIFY = "modify"
MANY = 10_000
"""More cells than these must be asked for."""
DIGITS = 4
"""Significant digits of the numbers between the ends of a range of equal ratios."""


@dataclass(frozen=True)
class Grid:
    """The values of every option that was given, by its name with hyphens; a value is what `run` reads, a tuple if repeated."""

    axes: Mapping[str, Sequence[Any]]

    @property
    def count(self) -> int:
        """How many cells it has, without making them."""
        return math.prod(
            sum(_many_plans(value) if key == MODIFY else _many(value) for value in values) for key, values in self.axes.items()
        )

    def groups(self) -> Iterator[tuple[dict[str, Any], list[str]]]:
        """Every combination of the options but the plan, with all plans."""
        others = {key: [one for value in values for one in numbers(value)] for key, values in self.axes.items() if key != MODIFY}
        every = list(dict.fromkeys(text for plan in self.axes.get(MODIFY, ()) for text in plans(plan)))
        for chosen in product(*others.values()):
            yield dict(zip(others, chosen, strict=True)), every


def read(path: Path, what: str = "grid") -> dict[str, Any]:
    """The mapping that a YAML file holds, by keys with hyphens; BrittleError for another file and a key that stands twice."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        first = " ".join(str(error).split())[:200]
        raise BrittleError(f"cannot read the {what} {path}: {first}; expected YAML of options, such as modify: […]") from None
    if found is not None and not isinstance(found, dict):
        raise BrittleError(f"the {what} {path} holds a {type(found).__name__}: expected options, such as modify: […]")
    made: dict[str, Any] = {}
    for key, value in (found or {}).items():
        if (name := str(key).replace("_", "-")) in made:
            raise BrittleError(f"the {what} {path} has {name} twice, with a hyphen and with an underscore: leave one out")
        made[name] = value
    return made


def grid(given: Mapping[str, Any], known: Iterable[str], *, yes: bool = False) -> Grid:
    """The axes of what was given; BrittleError for an unknown key, an empty axis or grid, and many cells without `yes`."""
    names = {name.replace("_", "-") for name in known}
    axes: dict[str, Sequence[Any]] = {}
    for key, value in given.items():
        name = key.replace("_", "-")
        if name not in names:
            raise UnknownName("key of the grid", key, names)
        axes[name] = _axis(name, value)
        if not axes[name]:
            raise BrittleError(f"the grid's key '{key}' has no value: give one, or leave the key out")
    if MODIFY not in axes:
        raise BrittleError("the grid is empty: expected at least a plan, such as modify: ['wanda-diff:p=0.01..0.05/5']")
    made = Grid(axes)
    if made.count > MANY and not yes:
        raise BrittleError(f"the grid has {made.count:,} cells, more than {MANY:,}: give --yes if that is meant")
    return made


def _axis(name: str, value: Any) -> Sequence[Any]:
    values = value if isinstance(value, list | tuple) else [value]
    if name in REPEATED:
        return [tuple(map(str, values))] if values else []
    if name == MODIFY:
        return [_plan(one) for one in values]
    for one in values:
        if not isinstance(one, str | int | float | bool) or one == "":
            raise BrittleError(f"the grid's key '{name}' has {one!r}, expected a text or a number as `run --{name}` takes it")
    return [one if isinstance(one, bool) else str(one) for one in values]


def _plan(value: Any) -> str:
    """A plan's text; `{wanda-diff: {p: [0.01, 0.03]}}` is `wanda-diff:p=0.01|0.03`."""
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, dict) and len(value) == 1:
        ((name, options),) = value.items()
        if isinstance(options, dict) and options:
            lists = {key: one if isinstance(one, list) else [one] for key, one in options.items()}
            if all(lists.values()):
                return f"{name}:" + ",".join(f"{key}={'|'.join(map(str, one))}" for key, one in lists.items())
    raise BrittleError(f"the grid has the plan {value!r}: expected PLAN[:key=value,…] or {{PLAN: {{key: [value, …]}}}}")


def plans(text: str) -> list[str]:
    """The plans of a text whose options have several values."""
    plan, colon, options = text.partition(":")
    items = [item.partition("=") for item in options.split(",")] if colon else []
    choices = [[one for value in values.split("|") for one in numbers(value)] for _, _, values in items]
    joined = (",".join(f"{items[at][0]}{items[at][1]}{one}" for at, one in enumerate(row)) for row in product(*choices))
    return [f"{plan}{colon}{chosen}" for chosen in joined]


def _many_plans(text: str) -> int:
    items = text.partition(":")[2].split(",")
    return math.prod(sum(map(_many, item.partition("=")[2].split("|"))) for item in items)


def _many(value: Any) -> int:
    found = RANGE.fullmatch(value) if isinstance(value, str) else None
    return int(found[3]) if found else 1


def numbers(value: Any) -> list[Any]:
    """`0.01..0.05/5` as its decimals, each as one would type it; any other value alone. BrittleError for no range."""
    found = RANGE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return [value.strip() if isinstance(value, str) else value]
    first, last, count = Decimal(found[1]), Decimal(found[2]), int(found[3])
    if count < 2 or first == last or (found[4] and (first <= 0 or last <= 0)):
        raise BrittleError(f"'{value}' is no range: expected FIRST..LAST/COUNT with two values or more, above 0 for …log")
    if found[4]:
        ratios = (float(last / first) ** (step / (count - 1)) for step in range(1, count - 1))
        between = [Decimal(f"{float(first) * ratio:.{DIGITS}g}") for ratio in ratios]
    else:
        between = [(first + (last - first) * step / (count - 1)).quantize(Decimal(1).scaleb(-12)) for step in range(1, count - 1)]
    return [f"{one.normalize():f}" for one in (first, *between, last)]
