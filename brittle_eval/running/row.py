"""The row: what is on record of one model of a run; its JSON Schema, and lines of older schemas brought up to it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import from_json

from brittle_eval.errors import BrittleError
from brittle_eval.running.command import of_config

ALONE = "attack_alone"
"""The value of an attack task in rows of trainings: which row is the free attack, its gain, and whether that is enough."""
SCHEMA = 2
Role = Literal["attack", "harmless", "utility", "measure", "other"]
if TYPE_CHECKING:
    Items = list[float]
else:  # JSON has no NaN: a perplexity that is none is null in a file
    Items = list[float | None]


@dataclass
class TaskResult:
    """One task on one model. `values` are the numbers of the table; `items` pair this model's items with another's."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    task: str
    role: Role
    status: Literal["done", "not run"] = "done"
    reason: str = ""
    group: str | None = None
    n: int = 0
    values: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    items: Items = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class Row:
    """One model of a run with everything it takes to reproduce and compare it; never generated text."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: str
    kind: Literal["unedited", "edited", "control"]
    recipe: str
    """The plan as the user named it, or `none`."""
    plan: str
    model: str
    fingerprint: str
    region: dict[str, float] = field(default_factory=dict)
    tasks: list[TaskResult] = field(default_factory=list)
    data: dict[str, str] = field(default_factory=dict)
    """sha256 of every data set that was read."""
    judges: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Every judge of the row's answers: method, version, options, what it counts."""
    batch_size: int = 0
    limited: bool = False
    preset: str = ""
    """Name and version of the preset; rows of different presets are never ranked together."""
    numbers: dict[str, float | None] = field(default_factory=dict)
    """The preset's own numbers."""
    backend: str = ""
    """What answered on a checkpoint of the model, and whether this project has run it; empty: the model itself, in memory."""
    unverified: list[str] = field(default_factory=list)
    """Options of the plan whose defaults nobody has verified, with their values."""
    condition: str = ""
    """What was put around every request, and the version of its texts."""
    config: str = ""
    seconds: float = 0.0
    schema: int = SCHEMA
    seed: int = 0
    command: str = ""
    """The command that makes the run again, with the paths as they were typed; it names no folder for the results."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Options of the evaluation that were not the default; rows of other settings are never ranked together."""
    versions: dict[str, str] = field(default_factory=dict)
    """Python's and the packages' versions."""
    files: dict[str, str] = field(default_factory=dict)
    """sha256 of the files that the row rests on: samples and region, by their place in the run's folder."""
    training: dict[str, Any] = field(default_factory=dict)
    """Of a plan that trains: its modifications with their options, the bare attack that it is held against, what was noted."""

    @property
    def folder(self) -> str:
        """Where the plan's files lie in the run's folder."""
        return as_file(self.recipe)


def as_file(name: str) -> str:
    """A name that is safe as a file's on every system."""
    return re.sub(r"[^A-Za-z0-9.=_+-]", "_", name)


ITEMS = re.compile(rb'"items": ?\[[-+0-9.eE, nul]*\]')
"""The items of a task as a line has them. Inside a text the quotes would be escaped."""


@cache
def _adapter() -> TypeAdapter[Row]:
    return TypeAdapter(Row)


def row_schema() -> dict[str, Any]:
    """The JSON Schema of a line of rows.jsonl."""
    found = _adapter().json_schema()
    found["properties"]["schema"] |= {"const": SCHEMA}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found, "title": f"brittle-eval row, schema {SCHEMA}"}


def read_row(line: bytes, where: str, known: Mapping[str, Any] | None = None, *, items: bool = True) -> Row:
    """A line of rows.jsonl as a row of the present schema; without `items`, which are most of it, far faster.

    `known` is the content of the run's run.json, from which a row of an older schema gets what it lacks. BrittleError, which
    names `where`: no row, a row that does not fit the schema, and one of a schema that this version does not know.
    """
    try:
        row = _adapter().validate_json(line if items else ITEMS.sub(b'"items": []', line))
        if row.schema == SCHEMA:
            return row
    except ValidationError as error:
        row, first = None, error.errors()[0]
    content = _content(line, where)
    schema: Any = content.get("schema")
    if schema == SCHEMA and row is None:
        place = ".".join(map(str, first["loc"])) or "the line"
        raise BrittleError(f"{where} is no row of schema {SCHEMA}: {place}: {first['msg']}; make it again with its command")
    if schema not in MIGRATIONS:
        raise BrittleError(
            f"{where} is a row of schema {schema!r}, and this version reads {', '.join(map(str, [*MIGRATIONS, SCHEMA]))}: "
            "use the version of brittle-eval that wrote it, or run its command again"
        )
    try:
        return _adapter().validate_python(MIGRATIONS[schema](content, known or {}) | {"schema": SCHEMA})
    except ValidationError as error:
        raise BrittleError(f"{where} is no row of schema {schema}: {error.errors()[0]['msg']}; run it again") from None


def _content(line: bytes, where: str) -> dict[str, Any]:
    try:
        content = from_json(line)
    except ValueError as error:
        raise BrittleError(f"{where} is damaged ({error}): repeat the run's command in a new folder") from None
    if not isinstance(content, dict):
        raise BrittleError(f"{where} is no row, which is a JSON object: give files that runs have written")
    return content


def _from_1(content: dict[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Schema 1 had no seed, command, settings, versions and files; the first four are in the run's run.json."""
    return content | of_config(known.get("config", {})) | {"versions": dict(known.get("versions", {}))}


MIGRATIONS: Mapping[int, Callable[[dict[str, Any], Mapping[str, Any]], dict[str, Any]]] = {1: _from_1}
"""By the schema of a line, what makes it one of the present schema."""
