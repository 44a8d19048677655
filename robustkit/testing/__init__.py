"""For whoever writes attacks: the conformance suite, and tasks with a known answer.

Nothing is imported before it is used, so that the pytest plug-in costs nothing.
"""

import importlib
from typing import Any

_HOME = {
    "Check": "robustkit.testing.suite",
    "Finding": "robustkit.testing.suite",
    "LAWS": "robustkit.testing.laws",
    "conformance": "robustkit.testing.suite",
    "conformance_suite": "robustkit.testing.suite",
    "examine": "robustkit.testing.suite",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'robustkit.testing' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
