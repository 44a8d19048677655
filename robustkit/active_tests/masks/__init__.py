"""Masks: they hide a model's weakness from attacks, and leave the truth known."""

from robustkit.active_tests.masks.inputs import noisy_input, quantised, shattered
from robustkit.active_tests.masks.outputs import (
    MASKS,
    Mask,
    detached,
    masked,
    noisy_gradient,
    one_hot_outputs,
    probabilities,
    reversed_gradient,
    scaled,
    tiny_gradient,
    zero_gradient,
)

__all__ = [
    "MASKS",
    "Mask",
    "detached",
    "masked",
    "noisy_gradient",
    "noisy_input",
    "one_hot_outputs",
    "probabilities",
    "quantised",
    "reversed_gradient",
    "scaled",
    "shattered",
    "tiny_gradient",
    "zero_gradient",
]
