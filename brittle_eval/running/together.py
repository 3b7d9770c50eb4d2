"""A run started in several processes, as by `accelerate launch`: the first is the run, the others answer some of its requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from brittle_eval.evaluation.crew import dismiss, hear, join, processes, tell
from brittle_eval.evaluation.lm import load_lm
from brittle_eval.running.prepare import Prepared
from brittle_eval.running.task_options import stopping

Result = TypeVar("Result")


def together(prepared: Prepared, work: Callable[[], Result]) -> Result | None:
    """What `work` gives in the first process; None in the others, which come back when it has ended."""
    if processes() == 1:
        return work()
    if join():
        _help(prepared)
        return None
    try:
        return work()
    finally:
        dismiss()


def announce(arguments: Mapping[str, Any]) -> None:
    """Have the other processes load the model of these arguments."""
    if processes() > 1:
        tell(dict(arguments))


def _help(prepared: Prepared) -> None:
    """Load the model that the first process loads, if it loads one, and help."""
    if (arguments := hear()) is None:
        return
    options = prepared.options
    lm = load_lm(arguments, options.device, options.batch_size, options.seed)
    lm.help_out(stopping(prepared.judges, lm) if options.stop_when_decided else None)
