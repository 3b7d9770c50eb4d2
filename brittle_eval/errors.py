"""Errors that a user can mend. The command prints them in one line and exits with status 2; every other exception is a bug."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BrittleError(Exception):
    """What was given, what was expected, what to do: one line."""


class UnknownName(BrittleError):
    """A name that nothing is registered under, with the nearest ones that are."""

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        advice = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names) or 'none'}"
        super().__init__(f"unknown {kind} '{name}': {advice}{' ' + hint if hint else ''}")


class CannotRun(BrittleError):
    """A task that cannot run here; inside a group it becomes a row `not run: reason`, named alone it is an error."""
