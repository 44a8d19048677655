"""What of all that is printed is a command's output."""

import contextlib
import sys
from collections.abc import Iterator

__all__ = ["prints_aside"]


@contextlib.contextmanager
def prints_aside() -> Iterator[None]:
    """Let what models, data, plug-ins and workers print go to standard error.

    It is no output of ours: for all of a command but what it says itself, which may be
    JSON.
    """
    with contextlib.redirect_stdout(sys.stderr):
        yield
