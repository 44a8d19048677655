"""What holds for every sound attack: each law is a function that checks one thing.

Its docstring is the law in one line. It raises AssertionError where an attack breaks
it, and `unittest.SkipTest`, with the reason, where it says nothing about the attack.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

from robustkit.testing.laws import answers, runs, tasks
from robustkit.testing.trial import Trial

__all__ = ["LAWS", "Law"]

Law: TypeAlias = Callable[[Trial], None]

LAWS: Mapping[str, Law] = MappingProxyType(
    {
        law.__name__.replace("_", "-"): law
        for law in (
            answers.in_bounds,
            answers.finite,
            answers.really_adversarial,
            answers.distance_as_reported,
            answers.never_below_minimum,
            answers.near_minimum,
            answers.within_epsilon,
            answers.finds_the_feasible,
            answers.nothing_infeasible,
            runs.batch_invariant,
            runs.order_invariant,
            runs.seed_invariant,
            runs.leaves_global_randomness,
            runs.noise_of_its_own,
            runs.keeps_the_best,
            runs.more_steps_never_hurt,
            runs.inputs_untouched,
            runs.access_respected,
            runs.budget_respected,
            tasks.other_bounds,
            tasks.two_classes,
            tasks.nearest_class,
            tasks.targets,
            tasks.constant_logits,
            tasks.zero_gradients,
            tasks.nan_answers,
            tasks.already_adversarial,
            tasks.empty_batch,
            tasks.float64,
            tasks.any_framework,
        )
    }
)
"""Every law by its name, in the order in which a suite has them."""
