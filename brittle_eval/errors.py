"""Errors that a user can mend. The command prints them in one line and exits with status 2; every other exception is a bug."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


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


@contextmanager
def blaming(method: object) -> Iterator[None]:
    """Around a call of a method: what a third party's raises is its author's mistake, in one line; ours keeps its traceback."""
    try:
        yield
    except BrittleError:
        raise
    except Exception as error:
        module = type(method).__module__
        if module.split(".")[0] == "brittle_plugins":
            raise
        message = " ".join(str(error).split())[:200]
        raise BrittleError(
            f"{type(method).__name__} of the plugin {module} raised {type(error).__name__}: {message}; mend or remove the plugin"
        ) from error
