"""The judges that a user names: `NAME[:key=value,...]`, of a method, a card, or a card's file; and what is on record of them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from brittle_eval.cards import JudgeCard, read
from brittle_eval.cards import judges as judge_cards
from brittle_eval.errors import BrittleError, UnknownName
from brittle_eval.methods import Judge
from brittle_eval.options import options_of
from brittle_eval.plugins import Plugins
from brittle_eval.recipe import NAME, Component, build

NAMED = re.compile(rf"({NAME.pattern}|[^,:=]+\.toml)(:.*)?")
"""An item of the list that names a judge; any other is a further option of the judge before it."""


@dataclass(frozen=True)
class Chosen:
    """A judge with its options read, and its card if it has one."""

    judge: Judge
    card: JudgeCard | None = None


def choose(texts: Sequence[str], plugins: Plugins) -> dict[str, Chosen]:
    """The judges of a list such as `refusal,endpoint:url=http://localhost:8000/v1,model=x`, by name.

    BrittleError for a name that nothing has, one named twice, and options that do not fit.
    """
    found: dict[str, Chosen] = {}
    for item in _items(",".join(texts)):
        named, _, options = item.partition(":")
        name, chosen = _chosen(named, options, plugins)
        if name in found:
            raise BrittleError(
                f"judge '{name}' is named twice: name it once, or give the second a card of its own (a .toml file)"
            )
        found[name] = chosen
    return found


def _items(text: str) -> list[str]:
    items: list[str] = []
    for piece in (piece.strip() for piece in text.split(",")):
        if NAMED.fullmatch(piece):
            items.append(piece)
        elif items and "=" in piece and ":" in items[-1]:
            items[-1] += f",{piece}"
        elif piece:
            raise BrittleError(f"--judge {text}: '{piece}' is no judge, expected NAME or NAME:key=value,key=value")
    return items


def _chosen(named: str, options: str, plugins: Plugins) -> tuple[str, Chosen]:
    cards = judge_cards(plugins)
    card = read(Path(named), JudgeCard) if named.endswith(".toml") else cards.get(named)
    if card is None and not any(entry.name == named for entry in plugins.entries("judge")):
        raise UnknownName("judge", named, [*plugins.names("judge"), *cards], plugins.hint)
    method, name = (card.method, card.name) if card else (named, named)
    cls: type[Judge] = plugins.get("judge", method)
    given = {key.replace("-", "_"): value for key, value in card.options.items()} if card else {}
    for option in options.split(",") if options else ():
        key, equals, value = option.partition("=")
        if not (key and equals):
            raise BrittleError(f"judge '{name}' has the option '{option}', expected key=value")
        given[key.strip().replace("-", "_")] = value
    if unknown := [key for key in given if key not in options_of(cls)]:
        raise UnknownName(f"option of judge '{name}'", unknown[0], [option.key for option in options_of(cls).values()])
    return name, Chosen(build(Component("judge", name, given), cls), card)


def described(judges: Mapping[str, Chosen]) -> dict[str, dict[str, Any]]:
    """For the record: each judge's identity, and of a card whether this project has ever run it."""
    return {
        name: identity(chosen.judge) | ({"verified": chosen.card.verified} if chosen.card else {})
        for name, chosen in judges.items()
    }


def identity(judge: Judge) -> dict[str, Any]:
    """What makes two judges give the same verdicts: class, version, and all options but those that change none."""
    options: dict[str, Any] = asdict(judge) if is_dataclass(judge) else {}
    return {
        "method": f"{type(judge).__module__}.{type(judge).__name__}",
        "version": judge.version,
        "counts": judge.counts,
        "options": {key: value for key, value in options.items() if key not in judge.free},
    }


def check_hosts(judges: Mapping[str, Chosen], allowed: Collection[str]) -> None:
    """BrittleError for a judge that would send answers to another machine which the user has not named."""
    for name, chosen in judges.items():
        host = chosen.judge.host
        if host is not None and not is_loopback(host) and host not in allowed:
            raise BrittleError(f"judge '{name}' would send prompts and answers to {host}: allow it with --send-answers-to {host}")


def is_loopback(host: str) -> bool:
    """Whether a host name is this machine by its own word; names are not looked up."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
