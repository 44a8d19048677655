"""Problems whose smallest adversarials are known: a model, inputs, and the truth.

Every family is a function of a seed and of settings that all have defaults: `samples`,
`features` (a number, or the shape of an input), `bounds` and `dtype` in all of them.
"""

from collections.abc import Callable
from functools import partial

from robustkit.active_tests.planted.affine import affine
from robustkit.active_tests.planted.base import Planted

__all__ = ["FAMILIES", "Planted", "affine"]

FAMILIES: dict[str, Callable[..., Planted]] = {
    "affine": affine,
    "affine-targeted": partial(affine, targeted=True),
    "affine-hopeless": partial(affine, targeted=True, hopeless=True),
}
"""By name, every family and variant; called as family(seed, samples=..., ...)."""
