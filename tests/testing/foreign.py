"""foolbox's attacks as plain functions, and the laws that they are known to break."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

with warnings.catch_warnings():
    # It imports names that SciPy deprecates.
    warnings.simplefilter("ignore")
    import foolbox
    from foolbox import attacks


def native(model):
    return foolbox.PyTorchModel(model, bounds=model.bounds, device="cpu")


def minimising(attack):
    """One that looks for the nearest adversarials."""

    def function(model, x, y):
        _, points, found = attack(native(model), x, y, epsilons=None)
        return points, found

    return function


def starting(attack):
    """One that looks for the nearest adversarials, from given starting points."""

    def function(model, x, y, starts=None):
        given = {} if starts is None else {"starting_points": starts}
        _, points, found = attack(native(model), x, y, epsilons=None, **given)
        return points, found

    return function


def within(attack):
    """One that searches within an epsilon."""

    def function(model, x, y, epsilon):
        _, points, found = attack(native(model), x, y, epsilons=epsilon)
        return points, found

    return function


@dataclass(frozen=True)
class Foreign:
    """An attack of another package.

    Attributes:
        function: Of model, inputs and labels.
        norm: In which it is tested.
        fault: What is wrong with it, in words; empty: nothing known.
        law: That has to catch it.
        settings: Of the suite.
    """

    function: Callable[..., Any]
    norm: str
    fault: str = ""
    law: str = ""
    settings: dict[str, Any] = field(default_factory=dict)


DECIDES = {"access": "decision", "samples": 3, "patience": 5_000}
WEAK = {"complete": False, "factor": np.inf}

FOREIGN = {
    "L2FMNAttack": Foreign(
        minimising(attacks.L2FMNAttack(steps=100)),
        "l2",
        "projects by norms / norms, so never",
        "near-minimum",
    ),
    "NewtonFoolAttack": Foreign(
        minimising(attacks.NewtonFoolAttack(steps=30)),
        "l2",
        "divides by the norm of a zero gradient",
        "zero-gradients",
        WEAK,
    ),
    "BoundaryAttack": Foreign(
        starting(attacks.BoundaryAttack(steps=200)),
        "l2",
        "draws one noise for the whole batch",
        "noise-of-its-own",
        DECIDES | {"factor": np.inf},
    ),
    "HopSkipJumpAttack": Foreign(
        starting(attacks.HopSkipJumpAttack(steps=6, max_gradient_eval_steps=100)),
        "l2",
        "clips to [0, 1] whatever the bounds",
        "other-bounds",
        DECIDES,
    ),
    "EADAttack": Foreign(
        minimising(attacks.EADAttack(steps=60, binary_search_steps=4)),
        "l1",
        "returns the best by the elastic-net measure, not by L1",
        "keeps-the-best",
        WEAK,
    ),
    "LInfFMNAttack": Foreign(minimising(attacks.LInfFMNAttack(steps=100)), "linf"),
    "DDNAttack": Foreign(minimising(attacks.DDNAttack(steps=100)), "l2"),
    "L2DeepFoolAttack": Foreign(minimising(attacks.L2DeepFoolAttack()), "l2"),
    "LinfDeepFoolAttack": Foreign(minimising(attacks.LinfDeepFoolAttack()), "linf"),
    "LinfPGD": Foreign(within(attacks.LinfPGD(steps=20, rel_stepsize=0.1)), "linf"),
    "LinfFastGradientAttack": Foreign(
        within(attacks.LinfFastGradientAttack()), "linf", settings=WEAK
    ),
}
# Those that keep every law, but for foolbox's own claims where the answer is NaN.
SOUND = ("L2DeepFoolAttack", "LinfDeepFoolAttack")
