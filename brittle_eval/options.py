"""Options of a method: the fields of its dataclass, read from and described in the words that users type."""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass
from typing import Any, Literal

from annotated_types import Interval
from pydantic import TypeAdapter, ValidationError

from brittle_eval.errors import BrittleError
from brittle_eval.methods import Unverified


@dataclass(frozen=True)
class Option:
    """One field of a method."""

    name: str
    annotation: Any
    """The resolved type, with its `Annotated` constraints."""
    default: Any
    """`dataclasses.MISSING` where a value must be given."""

    @property
    def key(self) -> str:
        """What users type: `n-samples` for the field `n_samples`."""
        return self.name.replace("_", "-")

    @property
    def type(self) -> str:
        """The type in words."""
        return type_in_words(self.annotation)

    @property
    def unverified(self) -> bool:
        """Whether its default is marked `UNVERIFIED`."""
        return any(isinstance(extra, Unverified) for extra in getattr(self.annotation, "__metadata__", ()))

    @property
    def required(self) -> bool:
        return self.default is dataclasses.MISSING

    def read(self, value: str, owner: str) -> Any:
        """The typed text as a value of the field's type; BrittleError naming `owner` where it is none."""
        try:
            return TypeAdapter(self.annotation).validate_strings(value)
        except ValidationError as error:
            reason = error.errors()[0]["msg"].lower()
            message = f"option {self.key} of {owner}: '{value}' was given, expected {self.type} ({reason})"
            raise BrittleError(message) from None


def options_of(cls: type) -> dict[str, Option]:
    """The options of a method class by field name, in order; a class that is no dataclass has none."""
    if not dataclasses.is_dataclass(cls):
        return {}
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except NameError as error:
        raise BrittleError(f"the option types of {cls.__module__}.{cls.__qualname__} cannot be read: {error}") from error
    found = {}
    for field in dataclasses.fields(cls):
        if field.init:
            make = field.default_factory
            default = field.default if make is dataclasses.MISSING else make()
            found[field.name] = Option(field.name, hints[field.name], default)
    return found


def unverified(method: object) -> list[str]:
    """`key=value` of a method's options whose defaults are unverified, whatever was given."""
    return [f"{one.key}={getattr(method, name)}" for name, one in options_of(type(method)).items() if one.unverified]


def type_in_words(annotation: Any) -> str:
    """`fraction in [0, 1]`, `row | weight | block | global`, `integer`, …; a text in `Annotated` says it in its own words."""
    plain = {float: "number", int: "integer", bool: "true or false", str: "text", type(None): "none"}
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in plain:
        return plain[annotation]
    if origin is Literal:
        return " | ".join(str(argument) for argument in arguments)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(type_in_words(argument) for argument in arguments)
    if origin is typing.Annotated:
        if words := [extra for extra in arguments[1:] if isinstance(extra, str)]:
            return words[0]
        bounds = [extra for extra in arguments[1:] if isinstance(extra, Interval)]
        if arguments[0] is float and bounds == [Interval(ge=0, le=1)]:
            return "fraction in [0, 1]"
        return " ".join([type_in_words(arguments[0]), *(_bounds(bound) for bound in bounds)])
    return getattr(annotation, "__name__", str(annotation))


def _bounds(interval: Interval) -> str:
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    given = {sign: getattr(interval, name) for name, sign in signs.items()}
    return " and ".join(f"{sign} {limit}" for sign, limit in given.items() if limit is not None)
