"""Packages whose public names are loaded when they are first used."""

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["lazy_names"]


def lazy_names(
    package: str, file: str
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """What a package needs to load its public names when they are first used.

    They stand in the stub `__init__.pyi` beside it, as lines such as
    `from robustkit.errors import BadInput as BadInput`, where type checkers and editors
    look for them, so that each is written once. One name in each.

    Args:
        package: Its `__name__`.
        file: Its `__file__`.

    Returns:
        Its `__getattr__`, `__dir__` and `__all__`.
    """
    with open(os.path.splitext(file)[0] + ".pyi", encoding="utf-8") as stub:
        statements = stub.read().split("\nfrom ")[1:]
    # A formatter may have put what is long into brackets.
    homes = {s.split(" as ")[0].split()[-1]: s.split()[0] for s in statements}

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        value = getattr(importlib.import_module(homes[name]), name)
        # Found without this function from now on.
        setattr(sys.modules[package], name, value)
        return value

    return load, lambda: sorted(homes), list(homes)
