"""Robustkit: how robust a classifier really is, and proof that the answer holds.

The public names stand in `__init__.pyi`. They are loaded when first used, so that
`import robustkit` and `robustkit --help` import no framework.
"""

from robustkit.lazy import lazy_names

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_names(__name__, __file__)
__all__ += ["__version__"]
