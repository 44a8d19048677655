"""Importing, running and calling what a user names."""

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from robustkit.errors import BadInput, suggestion
from robustkit.models.base import native_name

__all__ = [
    "call_user",
    "describe_failure",
    "import_object",
    "iterate_user",
    "neighbours_importable",
    "takes_nothing",
]

T = TypeVar("T")

_PACKAGE = Path(__file__).parents[1]


def import_object(spec: str) -> Any:
    """The object that `path/to/file.py:name` or `package.module:name` names.

    A file is run anew each time; a module is imported as usual, also from the current
    folder.

    Raises:
        BadInput: No such file, module or name in it, or its own code fails.

    >>> import_object("math:pi") > 3
    True
    """
    place, _, name = spec.rpartition(":")
    if not place or not name:
        raise BadInput(
            f"expected 'path/to/file.py:name' or 'package.module:name'; got '{spec}'"
        )
    is_file = place.endswith(".py")
    with neighbours_importable(spec):
        owner: Any = _run_file(Path(place)) if is_file else _import_module(place)
    for part in name.split("."):
        if not hasattr(owner, part):
            known = [entry for entry in vars(owner) if not entry.startswith("_")]
            raise BadInput(f"'{place}' has no '{part}'; {suggestion(part, known)}")
        owner = getattr(owner, part)
    return owner


@contextmanager
def neighbours_importable(spec: str) -> Iterator[None]:
    """Let the code of `spec` import what lies in its folder, and forget it afterwards.

    Two files in different folders may each have a neighbour of the same name.
    """
    place = spec.rpartition(":")[0]
    if not place:
        yield
        return
    is_file = place.endswith(".py")
    folder = Path(place).resolve().parent if is_file else Path.cwd()
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove(str(folder))
        for name in set(sys.modules) - before if is_file else ():
            top = name.partition(".")[0]
            if top not in before and _is_neighbour(top, sys.modules[name], folder):
                del sys.modules[name]


def takes_nothing(native: Any) -> bool:
    """Whether `native` is a function that can be called without arguments."""
    if not inspect.isroutine(native) and not isinstance(native, partial):
        return False
    try:
        parameters = inspect.signature(native).parameters.values()
    except (TypeError, ValueError):
        return False
    return all(
        entry.kind is entry.VAR_KEYWORD
        or (entry.kind is not entry.VAR_POSITIONAL and entry.default is not entry.empty)
        for entry in parameters
    )


def call_user(function: Callable[[], Any]) -> Any:
    """The result of a user's function or class that needs no arguments.

    Raises:
        BadInput: It needs some, or its own code fails: with file and line.
    """
    name = native_name(function)
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise BadInput(
            f"'{name}' needs arguments ({error}); write a function without arguments "
            "that returns the finished object, and name that"
        ) from error
    except ValueError:
        pass
    with _user_code(f"calling '{name}'"):
        return function()


def iterate_user(batches: Iterable[T], name: str) -> Iterator[T]:
    """The items of a user's iterable, each when it is asked for.

    Args:
        batches: To go through, once.
        name: Of it, for the message.

    Raises:
        BadInput: Its own code fails: with file and line.
    """
    with _user_code(f"reading '{name}'"):
        yield from batches


def describe_failure(error: BaseException) -> str:
    """The error and the last line outside libraries that led to it."""
    message = f"failed with {type(error).__name__}: {error}"
    if isinstance(error, SyntaxError):
        return f"{message} ({error.filename}, line {error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        frame
        for frame in frames
        if not frame.filename.startswith("<")
        and not Path(frame.filename).is_relative_to(_PACKAGE)
        and "site-packages" not in frame.filename
    ]
    if not own:
        return message
    return f"{message} ({own[-1].filename}, line {own[-1].lineno})"


def _run_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise BadInput(f"expected a Python file; there is no file '{path}'")
    digest = sha256(str(path.resolve()).encode()).hexdigest()[:8]
    place = importlib.util.spec_from_file_location(f"{path.stem}_{digest}", path)
    assert place is not None
    assert place.loader is not None
    module = importlib.util.module_from_spec(place)
    # Dataclasses, among others, look their module up by its name.
    sys.modules[place.name] = module
    with _user_code(f"running '{path}'"):
        place.loader.exec_module(module)
    return module


def _import_module(name: str) -> ModuleType:
    with _user_code(f"importing '{name}'"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if not f"{name}.".startswith(f"{error.name}."):
                raise
            raise BadInput(
                f"there is no module '{error.name}' in the current folder or among the "
                "installed packages; for a file, write path/to/file.py:name"
            ) from error


@contextmanager
def _user_code(doing: str) -> Iterator[None]:
    """Turn any failure of the code inside into one message: what failed, and where."""
    try:
        yield
    except BadInput:
        raise
    except (Exception, SystemExit) as error:
        hint = ""
        if isinstance(error, SystemExit):
            hint = "; put what a script does under: if __name__ == '__main__'"
        raise BadInput(f"{doing} {describe_failure(error)}{hint}") from error


def _is_neighbour(top: str, module: ModuleType, folder: Path) -> bool:
    """Not merely inside: the folder may also hold the installed packages."""
    file = Path(getattr(module, "__file__", None) or ".")
    return file.parent == folder or file.is_relative_to(folder / top)
