"""Problems whose smallest adversarials are known: a model, inputs, and the truth.

Every family is a function of a seed and of settings that all have defaults: `samples`,
`features` (a number, or the shape of an input), `bounds` and `dtype` in all of them.
"""

from collections.abc import Callable
from functools import partial

from robustkit.active_tests.planted.affine import affine
from robustkit.active_tests.planted.base import Planted
from robustkit.active_tests.planted.boxes import decision_tree, hypercube, trigger
from robustkit.active_tests.planted.curved import quadratic, sphere
from robustkit.active_tests.planted.neighbours import nearest_neighbour
from robustkit.active_tests.planted.networks import max_of_affines, min_of_affines
from robustkit.active_tests.planted.permuted import permuted

__all__ = [
    "FAMILIES",
    "Planted",
    "affine",
    "decision_tree",
    "hypercube",
    "max_of_affines",
    "min_of_affines",
    "nearest_neighbour",
    "permuted",
    "quadratic",
    "sphere",
    "trigger",
]

FAMILIES: dict[str, Callable[..., Planted]] = {
    "affine": affine,
    "affine-targeted": partial(affine, targeted=True),
    "affine-hopeless": partial(affine, classes=2, hopeless=True),
    "affine-targeted-hopeless": partial(affine, targeted=True, hopeless=True),
    "min-of-affines": min_of_affines,
    "min-of-affines-rotated": partial(min_of_affines, rotated=True),
    "max-of-affines": max_of_affines,
    "decision-tree": decision_tree,
    "decision-tree-targeted": partial(decision_tree, targeted=True),
    "hypercube": hypercube,
    "hypercube-inward": partial(hypercube, inward=True),
    "sphere": sphere,
    "sphere-inward": partial(sphere, inward=True),
    "sphere-boxed": partial(sphere, boxed=True),
    "quadratic-valley": partial(quadratic, form="valley"),
    "quadratic-hill": partial(quadratic, form="hill"),
    "quadratic-saddle": partial(quadratic, form="saddle"),
    "quadratic-hard": partial(quadratic, form="hard"),
    "quadratic-unreachable": partial(quadratic, form="unreachable"),
    "nearest-prototype": partial(nearest_neighbour, per_class=1),
    "nearest-neighbour": nearest_neighbour,
    "nearest-neighbour-targeted": partial(nearest_neighbour, targeted=True),
    "trigger": trigger,
    "trigger-targeted": partial(trigger, targeted=True),
    "trigger-step": partial(trigger, step=True),
    "trigger-step-targeted": partial(trigger, step=True, targeted=True),
}
"""By name, every family and variant; called as family(seed, samples=..., ...)."""
