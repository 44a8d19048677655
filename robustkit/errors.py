"""What robustkit says when it cannot do what was asked."""

import difflib
from collections.abc import Iterable

__all__ = ["BadInput", "MissingPackage", "in_one_line", "suggestion"]


class BadInput(ValueError):
    """The caller's mistake: what was expected, what came, and what to do.

    The command line prints it as one message and exits with code 2.
    """


class MissingPackage(BadInput, ImportError):
    """An optional package is needed and not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package '{package}', which is not installed; "
            f"install it with: pip install 'robustkit[{extra}]'"
        )


def suggestion(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest and all known ones.

    >>> suggestion("fnm", ["fmn", "pgd"])
    "did you mean 'fmn'? known: fmn, pgd"
    """
    names = sorted(known)
    near = difflib.get_close_matches(str(word).lower(), names, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return f"{hint}known: {', '.join(names)}"


def in_one_line(error: BaseException) -> str:
    """What an error says of itself, for the middle of a message and for files.

    >>> in_one_line(KeyError("no such name"))
    "KeyError: 'no such name'"
    """
    said = " ".join(f"{type(error).__name__}: {error}".split())
    # Halves of characters, as names of files may have, cannot be written.
    return said.encode("utf-8", "backslashreplace").decode()
