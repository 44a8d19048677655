"""For whoever writes attacks: the conformance suite, and tasks with a known answer.

The public names stand in `__init__.pyi`. They are loaded when first used, so that the
pytest plug-in costs nothing.
"""

from robustkit.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
