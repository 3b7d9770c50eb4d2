"""A limit on how long a call may take."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class OutOfTime(BaseException):
    """Raised inside a call that takes too long; no `Exception`, so that nothing in it can take it for its own."""


@contextmanager
def at_most(seconds: float | None) -> Iterator[None]:
    """Raise `OutOfTime` inside if it takes longer; None: no limit.

    Only an alarm of the main thread, on systems that have them, interrupts a running call; elsewhere, and where an alarm is
    already set, there is no limit. Code that never comes back to Python (a call into a library) is interrupted when it does.
    """
    able = threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer")
    if seconds is None or not able or signal.getitimer(signal.ITIMER_REAL)[0]:
        yield
        return
    before = signal.signal(signal.SIGALRM, _raise)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _raise(number: int, frame: FrameType | None) -> None:
    raise OutOfTime
