"""The grammar of plans: from what a user types to components with options, and back to one canonical text.

PLAN    = none | [attribution+isolation+]modification{+modification}[:options] | RECIPE{+modification}[:options]
options = key=value,key=value              of a component, or of the plan's scope: modules, blocks, order
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypeVar, get_args

from brittle_eval.errors import BrittleError, UnknownName
from brittle_eval.options import Option, options_of
from brittle_eval.scope import SCOPE, Scope

Kind = Literal["attribution", "isolation", "modification"]
Method = TypeVar("Method")

NONE = "none"
"""The plan that modifies nothing."""
RESERVED = (NONE, SCOPE)
"""What no method may be called."""

NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
"""What a user types to name a method, a recipe or a card."""

OF_STREAM = " of the residual stream"

SHAPE = "[ATTRIBUTION+ISOLATION+]MODIFICATION{+MODIFICATION}[:key=value,...] or RECIPE{+MODIFICATION}[:key=value,...]"


@dataclass(frozen=True)
class Component:
    """One method of a plan, or its scope; `options` holds the values that were given, as typed, by field name."""

    kind: Kind | Literal["scope", "judge"]
    name: str
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What is done to a model. Two plans are equal when they do the same, however they were typed."""

    attribution: Component | None = None
    isolation: Component | None = None
    modifications: tuple[Component, ...] = ()
    scope: Component = Component("scope", SCOPE)
    text: str = field(default="", compare=False)
    """What the user typed."""
    recipe: str | None = field(default=None, compare=False)
    """The recipe that it began with."""

    @property
    def components(self) -> tuple[Component, ...]:
        """Every component, in the order of the chain."""
        return (*(part for part in (self.attribution, self.isolation) if part), *self.modifications)

    def __str__(self) -> str:
        """The canonical text, recipes written out: it parses back to an equal plan."""
        chain = "+".join(part.name for part in self.components) or NONE
        options = [
            f"{part.name}.{key.replace('_', '-')}={value}"
            for part in (*self.components, self.scope)
            for key, value in part.options.items()
        ]
        return f"{chain}:{','.join(options)}" if options else chain


class Names(Protocol):
    """What the grammar asks of the registered methods; `brittle_eval.plugins.Plugins` answers."""

    @property
    def hint(self) -> str:
        """A sentence on plugins that could not be loaded, or nothing."""
        ...

    def kinds(self, name: str) -> frozenset[str]:
        """The kinds of method registered under the name."""
        ...

    def names(self, kind: str) -> Sequence[str]:
        """The names registered under the kind."""
        ...

    def get(self, kind: str, name: str) -> type[Any]:
        """The class; UnknownName, or BrittleError where it cannot be imported."""
        ...


class RecipeLike(Protocol):
    """A named plan."""

    @property
    def plan(self) -> str:
        """Its text."""
        ...


def parse(text: str, names: Names, recipes: Mapping[str, RecipeLike]) -> Plan:
    """The plan that a user typed; every name and option key is checked, option values are not (`build` does).

    Raises UnknownName for a name or key that nothing has, BrittleError for what is not of the grammar.
    """
    return _parse(text, names, recipes, ())


def _parse(text: str, names: Names, recipes: Mapping[str, RecipeLike], inside: tuple[str, ...]) -> Plan:
    chain, colon, options = text.partition(":")
    if not chain.strip():
        raise BrittleError(f"an empty plan was given, expected {SHAPE}; '{NONE}' modifies nothing")
    words = [word.strip() for word in chain.split("+")]
    if "" in words:
        raise BrittleError(f"'{text}' has no name beside a '+', expected {SHAPE}")
    for word in words:
        _known(word, names, recipes)
    if words[0] == NONE or words[0] in recipes:
        base = _recipe(words[0], names, recipes, inside)
        rest = _modifications(words[1:], text, names, recipes) or base.modifications
        plan = replace(base, modifications=rest, text=text, recipe=words[0])
    else:
        plan = Plan(*_chain(words, text, names, recipes), text=text)
    typed = [part.name for part in plan.components]
    if repeated := next((name for name in typed if typed.count(name) > 1), None):
        raise BrittleError(f"'{text}' names '{repeated}' twice: its options could not be told apart; name it once")
    return _with_options(plan, options, names) if colon else plan


def _recipe(name: str, names: Names, recipes: Mapping[str, RecipeLike], inside: tuple[str, ...]) -> Plan:
    if name == NONE:
        return Plan()
    if name in inside:
        raise BrittleError(f"recipe '{name}' is made of itself ({' > '.join([*inside, name])}): mend its card")
    return _parse(recipes[name].plan, names, recipes, (*inside, name))


def _known(word: str, names: Names, recipes: Mapping[str, RecipeLike]) -> None:
    if word == NONE or word in recipes or names.kinds(word) & set(get_args(Kind)):
        return
    known = [NONE, *recipes, *(name for kind in get_args(Kind) for name in names.names(kind))]
    raise UnknownName("recipe or method", word, known, names.hint)


Chain = tuple[Component | None, Component | None, tuple[Component, ...]]


def _chain(words: Sequence[str], text: str, names: Names, recipes: Mapping[str, RecipeLike]) -> Chain:
    kinds = [names.kinds(word) for word in words[:2]]
    if len(words) > 2 and "attribution" in kinds[0] and "isolation" in kinds[1]:
        rest = _modifications(words[2:], text, names, recipes)
        return Component("attribution", words[0]), Component("isolation", words[1]), rest
    if "modification" in kinds[0]:
        return None, None, _modifications(words, text, names, recipes)
    if "isolation" in kinds[0]:
        raise BrittleError(f"'{text}' begins with the isolation '{words[0]}', which needs scores: write ATTRIBUTION+{text}")
    if len(words) == 1 or "isolation" not in kinds[1]:
        raise BrittleError(
            f"'{text}' has no isolation after the attribution '{words[0]}': "
            f"write {words[0]}+ISOLATION+MODIFICATION with one of {', '.join(names.names('isolation'))}"
        )
    raise BrittleError(
        f"'{text}' does nothing to its region: "
        f"write {words[0]}+{words[1]}+MODIFICATION with one of {', '.join(names.names('modification'))}"
    )


def _modifications(words: Sequence[str], text: str, names: Names, recipes: Mapping[str, RecipeLike]) -> tuple[Component, ...]:
    for word in words:
        if "modification" not in names.kinds(word):
            what = "recipe" if word == NONE or word in recipes else " and ".join(sorted(names.kinds(word)))
            raise BrittleError(f"'{text}' has the {what} '{word}' where a modification was expected: {SHAPE}")
    return tuple(Component("modification", word) for word in words)


def _with_options(plan: Plan, text: str, names: Names) -> Plan:
    given: dict[str, dict[str, str]] = {part.name: {} for part in (*plan.components, plan.scope)}
    for item in text.split(","):
        key, equals, value = (piece.strip() for piece in item.partition("="))
        if not equals or not key:
            raise BrittleError(f"'{plan.text}' has the option '{item.strip()}', expected key=value,key=value")
        owner, field_name = _route(key, plan, names)
        if field_name in given[owner]:
            raise BrittleError(f"'{plan.text}' gives the option '{key}' twice: give it once")
        given[owner][field_name] = value

    def complete(part: Component) -> Component:
        return replace(part, options={**part.options, **given[part.name]})

    return replace(
        plan,
        attribution=complete(plan.attribution) if plan.attribution else None,
        isolation=complete(plan.isolation) if plan.isolation else None,
        modifications=tuple(complete(part) for part in plan.modifications),
        scope=complete(plan.scope),
    )


def _route(key: str, plan: Plan, names: Names) -> tuple[str, str]:
    """The component and the field that an option key means."""
    fields: dict[str, dict[str, Option]] = {p.name: options_of(names.get(p.kind, p.name)) for p in plan.components}
    if fields:
        fields[SCOPE] = options_of(Scope)
    wanted, dot, rest = key.partition(".")
    if dot and wanted not in fields:
        raise UnknownName(f"component of '{plan.text}'", wanted, fields)
    field_name = (rest if dot else key).replace("-", "_")
    owners = [wanted] if dot else list(fields)
    owners = [name for name in owners if field_name in fields[name]]
    if len(owners) > 1:
        ways = " or ".join(f"{name}.{key}=..." for name in owners)
        raise BrittleError(f"option '{key}' belongs to {' and '.join(owners)}: write {ways}")
    if not owners:
        listing = "; ".join(f"{name}: {', '.join(o.key for o in own.values()) or 'none'}" for name, own in fields.items())
        keys = {option.key for name in ([wanted] if dot else fields) for option in fields[name].values()}
        raise UnknownName(f"option of '{plan.text}'", key, keys, f"(options of {listing or NONE + ': none'})")
    return owners[0], field_name


def check(plan: Plan, names: Names) -> None:
    """BrittleError where one component cannot take what another gives; it names those that can."""
    _check_changes(plan, names)
    if plan.attribution is None or plan.isolation is None:
        return
    gives = names.get("attribution", plan.attribution.name).gives
    takes = names.get("isolation", plan.isolation.name).takes
    if gives not in takes:
        fit = [name for name in names.names("isolation") if gives in names.get("isolation", name).takes]
        raise BrittleError(
            f"isolation '{plan.isolation.name}' takes {', '.join(sorted(takes))}, "
            f"but attribution '{plan.attribution.name}' gives {gives}: use one of {', '.join(fit) or '(none fits)'}"
        )


def _check_changes(plan: Plan, names: Names) -> None:
    """BrittleError for a modification whose region has nothing for it, and for one of weights behind one of activations."""
    gives = names.get("isolation", plan.isolation.name).gives if plan.isolation else frozenset({"weights"})
    steering = ""
    for part in plan.modifications:
        needed = "directions" if names.get("modification", part.name).changes == "activations" else "weights"
        if needed not in gives:
            fit = [name for name in names.names("isolation") if needed in names.get("isolation", name).gives]
            region = f"isolation '{plan.isolation.name}' gives" if plan.isolation else "a plan without an isolation has"
            raise BrittleError(
                f"modification '{part.name}' needs {needed}{OF_STREAM if needed == 'directions' else ''}, and {region} "
                f"{' and '.join(sorted(gives))}: use one of {', '.join(fit) or '(none fits)'}"
            )
        if steering and needed == "weights":
            raise BrittleError(
                f"'{plan.text or plan}' has '{part.name}', which changes weights, behind '{steering}', which acts while the "
                f"model runs: write {part.name}+{steering}"
            )
        steering = part.name if needed == "directions" else steering


def build(component: Component, cls: type[Method]) -> Method:
    """The method with its options read; BrittleError for a value of the wrong type, out of range, or missing."""
    options = options_of(cls)
    if unknown := [key for key in component.options if key not in options]:
        raise UnknownName(f"option of {component.name}", unknown[0], [option.key for option in options.values()])
    if missing := [o.key for o in options.values() if o.required and o.name not in component.options]:
        raise BrittleError(f"{component.name} needs the option {missing[0]}: write {component.name}.{missing[0]}=...")
    values = {key: options[key].read(text, component.name) for key, text in component.options.items()}
    try:
        return cls(**values)
    except ValueError as error:
        raise BrittleError(f"the options of {component.name} do not fit: {error}") from error
