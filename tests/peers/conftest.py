"""Independent implementations to hold ours against; not needed to use robustkit.

They want torchvision and visdom at import, of which nothing is used here, and their own
dependencies' pins clash with ours; so they are installed without them
(`pip install --no-deps -r tests/peers/requirements.txt`), and what they only import is
stood in for. Where they are absent the tests skip and say so.
"""

import importlib
import importlib.machinery
import sys
import types
import warnings

import pytest

_STOOD_IN = (
    "torchvision",
    "torchvision.datasets",
    "torchvision.transforms",
    "torchvision.models",
    "torchvision.utils",
    "visdom",
)


def import_peer(name):
    """The package `name`; its unused imports are stood in for while it loads.

    Raises:
        ImportError: It is not installed.
    """
    missing = [part for part in _STOOD_IN if not _importable(part)]
    for part in missing:
        module = types.ModuleType(part)
        module.__spec__ = importlib.machinery.ModuleSpec(part, None)
        module.Visdom = object
        sys.modules[part] = module
        parent, _, child = part.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    finally:
        for part in missing:
            del sys.modules[part]


def _importable(name):
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


@pytest.fixture(scope="session")
def peer():
    """Imports a peer by name, or skips."""

    def load(name):
        try:
            return import_peer(name)
        except ImportError as error:
            pytest.skip(
                f"{name} is not installed ({error}); "
                "pip install --no-deps -r tests/peers/requirements.txt"
            )

    return load
