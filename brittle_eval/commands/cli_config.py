"""`--config FILE.yaml`: options of a command from a file, beneath those that stand on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from brittle_eval.errors import BrittleError, UnknownName
from brittle_eval.sweeps.grid import read

FILE = click.Path(path_type=Path)
CONFIG = "config"
COMMAS = frozenset({"tasks", "judges"})
"""Options whose names stand with commas between them on a command line; in a file they may be a list."""


class Pairs(click.ParamType):  # type: ignore[type-arg]  # older versions of click have it plain
    """`key=value,key=value` as lm-eval reads it, or a mapping."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        if isinstance(value, Mapping):
            return {str(key): item for key, item in value.items()}
        from brittle_eval.evaluation.evaluate import parse_arguments

        return parse_arguments(value)


def _read(context: click.Context, parameter: click.Parameter, path: Path | None) -> None:
    """Put what the file says below the command line; BrittleError for an unknown key and for a value of another type."""
    if path is None:
        return
    known = {_key(one): one for one in context.command.params if isinstance(one, click.Option) and one.name != CONFIG}
    found: dict[str, Any] = {}
    for key, value in read(path, "configuration").items():
        if key not in known:
            raise UnknownName(f"key of {path}", key, known)
        if value is not None:  # as if the key were not there
            found[str(known[key].name)] = _checked(context, known[key], value, f"{path}: {key}")
    context.default_map = found


option = click.option(
    f"--{CONFIG}",
    type=FILE,
    is_eager=True,
    expose_value=False,
    callback=_read,
    metavar="FILE.yaml",
    help="Options by name; those on the command line replace them. A run leaves its own as config.yaml.",
)


def _key(parameter: click.Option) -> str:
    return parameter.opts[0].removeprefix("--").replace("_", "-")


def _checked(context: click.Context, parameter: click.Option, value: Any, where: str) -> Any:
    """The value as click takes it, once it is known that it will."""
    made = _as_typed(parameter, value, where)
    try:
        parameter.type_cast_value(context, made)
    except click.BadParameter as error:
        raise BrittleError(f"{where}: {error.message} Give what `{context.command.name} {parameter.opts[0]}` takes") from None
    return made


def _as_typed(parameter: click.Option, value: Any, where: str) -> Any:
    """A value of YAML as a command line would have it: texts, but for flags and mappings."""
    if parameter.is_flag or (isinstance(value, bool) and isinstance(parameter.flag_value, str)):
        if not isinstance(value, bool):
            raise BrittleError(f"{where}: {value!r} is given, expected true or false")
        return value if parameter.is_flag else parameter.flag_value if value else None
    if isinstance(parameter.type, Pairs) and isinstance(value, Mapping):
        return value
    if parameter.multiple:
        return [_text(one, where) for one in (value if isinstance(value, list) else [value])]
    if parameter.name in COMMAS and isinstance(value, list):
        return ",".join(_text(one, where) for one in value)
    return _text(value, where)


def _text(value: Any, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        what = "yes, no, on and off are true and false in YAML" if isinstance(value, bool) else "several values are a sweep"
        raise BrittleError(
            f"{where}: {value!r} is given, expected a text or a number ({what}): give one, between quotes if need be"
        )
    return str(value)
