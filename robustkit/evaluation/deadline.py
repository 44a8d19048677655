"""Work that is given up after some time."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from robustkit.arguments import as_number
from robustkit.errors import BadInput
from robustkit.numerics.fused import is_building

__all__ = ["OutOfTime", "check_time_limit", "deadline"]


_AGAIN = 0.01
"""Seconds after which to see whether it may be raised."""


class OutOfTime(BaseException):
    """The time limit was reached.

    No `Exception`, since models and adapters may catch those, and go on.
    """


def check_time_limit(seconds: float | None) -> None:
    """Whether `deadline` can keep that limit.

    Raises:
        BadInput: It is no positive number, or cannot be kept in this thread or system.
    """
    if seconds is None:
        return
    as_number(seconds, "the time limit", above=0)
    if threading.current_thread() is not threading.main_thread():
        raise BadInput("a time limit needs the main thread; call from there, or none")
    if not hasattr(signal, "setitimer"):
        raise BadInput("this system has no timers; leave the time limit out")


@contextlib.contextmanager
def deadline(seconds: float | None) -> Iterator[None]:
    """Raise `OutOfTime` in the block after so many seconds; None: never.

    It is raised between two instructions of Python, so not before a call into compiled
    code returns, and not while a module is imported or a step is compiled: what is cut
    off there would be half a module, or half a program, to everything that comes after.
    """
    if seconds is None:
        yield
        return

    def expire(_: int, frame: FrameType | None) -> None:
        if _building(frame):
            signal.setitimer(signal.ITIMER_REAL, _AGAIN)
            return
        raise OutOfTime

    previous = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _building(frame: FrameType | None) -> bool:
    """Whether a frame imports or compiles something, or is called from there."""
    while frame is not None:
        if is_building(frame.f_code):
            return True
        if frame.f_code.co_filename.startswith("<frozen importlib."):
            return True
        frame = frame.f_back
    return False
