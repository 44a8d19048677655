"""Mixed-integer programs by a solver that keeps off standard output."""

import contextlib
import ctypes
import os
import threading
import warnings
from typing import Any

from scipy import optimize

__all__ = ["milp"]

_OUT, _ERROR = 1, 2


def milp(*arguments: Any, **settings: Any) -> Any:
    """As `scipy.optimize.milp`; what its library prints goes to standard error.

    HiGHS tells of some repairs on the process's standard output, whatever its options
    say, where it would stand among results that programs read.
    """
    with _quiet:
        return optimize.milp(*arguments, **settings)


class _Quiet:
    """While any thread is inside, standard output is standard error.

    Not the null device, since it is so for all of the process, and what other threads
    say must not be lost. And SciPy does not warn of options that HiGHS knows and it
    does not; for all threads at once, since they share what is filtered.
    """

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._kept: int | None = None
        self._filters = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._kept = _redirected()
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.filterwarnings("ignore", "Unrecognized options detected")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside > 0:
                return
            self._filters.__exit__(None, None, None)
            if self._kept is not None:
                _flush()
                os.dup2(self._kept, _OUT)
                os.close(self._kept)


_quiet = _Quiet()


def _redirected() -> int | None:
    """What standard output was; None: it stays, since one of the two is closed."""
    _flush()
    try:
        os.fstat(_ERROR)
        kept = os.dup(_OUT)
    except OSError:
        return None
    os.dup2(_ERROR, _OUT)
    return kept


def _flush() -> None:
    """Write out what C has buffered, which else would follow at the process's end."""
    # Where a process cannot look into itself (Windows), it is as it was.
    with contextlib.suppress(TypeError, OSError, AttributeError):
        ctypes.CDLL(None).fflush(None)
