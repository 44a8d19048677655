"""Laws about what an attack returns, held against the truth."""

import numpy as np

from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor, to_numpy
from robustkit.testing.laws.shared import (
    DOUBLE,
    SINGLE,
    box_of,
    listed,
    range_of,
    require_found,
    require_near,
)
from robustkit.testing.trial import Trial

__all__ = [
    "distance_as_reported",
    "finds_the_feasible",
    "finite",
    "in_bounds",
    "near_minimum",
    "never_below_minimum",
    "nothing_infeasible",
    "really_adversarial",
    "within_epsilon",
]


def in_bounds(t: Trial) -> None:
    """Every point returned is within the bounds."""
    for task in (t.affine(), t.winding()):
        v = t.run(task)
        v.require(v.inside | ~v.finite, f"values within {box_of(task)}", range_of(v))


def finite(t: Trial) -> None:
    """Every point returned is finite."""
    for task in (t.affine(), t.winding()):
        v = t.run(task)
        v.require(v.finite, "finite values", "NaN or infinity")


def really_adversarial(t: Trial) -> None:
    """What is called adversarial is adversarial, by a fresh forward pass."""
    _needs_claims(t)
    for task in (*t.easy(), t.winding()):
        v = t.run(task)
        v.require(~v.claims | v.adversarial, "an adversarial, as claimed", "none")


def distance_as_reported(t: Trial) -> None:
    """The distance reported is the distance from the input to the point returned."""
    v = t.run(t.affine())
    reported = v.outcome.distances
    if reported is None:
        t.skip("it reports no distances")
    right = np.isclose(reported, v.distance, rtol=1e-6, atol=1e-12)
    v.require(right, f"the distances {listed(v.distance)}", reported.astype(float))


def never_below_minimum(t: Trial) -> None:
    """No adversarial is nearer than the nearest there is."""
    for task in (*t.easy(), t.winding()):
        v = t.run(task)
        exact = task.exact(t.norm)
        slack = 1 - (DOUBLE if task.x.dtype == np.float64 else SINGLE)
        v.require(v.distance >= exact * slack, f"at least {listed(exact)}", v.distance)
        if v.outcome.distances is not None:
            reported = v.outcome.distances.astype(float)
            v.require(reported >= exact * slack, f"at least {listed(exact)}", reported)


def near_minimum(t: Trial) -> None:
    """On easy problems the distance is within the stated factor of the minimum."""
    if not np.isfinite(t.factor):
        t.skip("it states no factor")
    if t.subject.bounded:
        t.skip("it searches within an epsilon; a nearer adversarial is no better")
    for task in t.easy():
        require_near(t, t.run(task))


def within_epsilon(t: Trial) -> None:
    """An attack that searches within an epsilon returns nothing farther."""
    if not t.subject.bounded:
        t.skip("it takes no epsilon: it minimises")
    v = t.run(t.affine())
    delta = v.points.astype(np.float64) - v.task.x
    size = to_numpy(get_norm(t.norm)(as_tensor(delta)))
    beyond = size > v.epsilon * (1 + 1e-4)
    if t.subject.billed:
        # Ours remember every adversarial, also a farther one.
        beyond = beyond & ~v.adversarial
    v.require(~beyond, f"a distance of at most {v.epsilon:.6g}", size)


def finds_the_feasible(t: Trial) -> None:
    """An adversarial is found wherever there is one, or at least somewhere."""
    tasks = (*t.easy(), t.winding()) if t.complete else t.easy()
    verdicts = [t.run(task) for task in tasks]
    if not t.complete and not any(v.success.any() for v in verdicts):
        raise AssertionError(
            f"expected an adversarial of any of {3 * t.samples} samples; got none"
        )
    for v in verdicts:
        if t.complete:
            require_found(t, v)
        v.require(v.claims | ~v.success, "it to claim what it has found", "no claim")


def nothing_infeasible(t: Trial) -> None:
    """Nothing is claimed where no adversarial is, in the whole box."""
    v = t.run(t.affine(hopeless=True, classes=2))
    exact = v.task.exact(t.norm)
    assert np.isinf(exact).all(), "the task is not hopeless"
    v.require(~v.claims, "no adversarial: there is none in the box", "a claim")
    v.require(v.finite, "finite values", "NaN or infinity")
    v.require(v.inside, f"values within {box_of(v.task)}", range_of(v))


def _needs_claims(t: Trial) -> None:
    if t.run(t.affine()).outcome.claims is None:
        t.skip("it does not say whom it claims to have found adversarials of")
