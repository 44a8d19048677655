"""What holds for every sound attack: each law is a function that checks one thing.

Its docstring is the law in one line. It raises AssertionError where an attack breaks
it, and `unittest.SkipTest`, with the reason, where it says nothing about the attack.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import torch

from robustkit.active_tests.masks import one_hot_outputs
from robustkit.active_tests.planted import Planted
from robustkit.models.base import Access
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import Array, as_tensor, to_numpy
from robustkit.testing.models import constant, nan_near
from robustkit.testing.trial import Trial, Verdict, seeded

__all__ = ["LAWS", "Law"]

Law: TypeAlias = Callable[[Trial], None]

# Rounding in the double and the single precision of the tasks.
_DOUBLE, _SINGLE = 1e-9, 1e-4


def in_bounds(t: Trial) -> None:
    """Every point returned is within the bounds."""
    for task in (t.affine(), t.winding()):
        v = t.run(task)
        v.require(v.inside | ~v.finite, f"values within {_box(task)}", _range(v))


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
    v.require(right, f"the distances {_list(v.distance)}", reported.astype(float))


def never_below_minimum(t: Trial) -> None:
    """No adversarial is nearer than the nearest there is."""
    for task in (*t.easy(), t.winding()):
        v = t.run(task)
        exact = task.exact(t.norm)
        slack = 1 - (_DOUBLE if task.x.dtype == np.float64 else _SINGLE)
        v.require(v.distance >= exact * slack, f"at least {_list(exact)}", v.distance)
        if v.outcome.distances is not None:
            reported = v.outcome.distances.astype(float)
            v.require(reported >= exact * slack, f"at least {_list(exact)}", reported)


def near_minimum(t: Trial) -> None:
    """On easy problems the distance is within the stated factor of the minimum."""
    if not np.isfinite(t.factor):
        t.skip("it states no factor")
    if t.subject.bounded:
        t.skip("it searches within an epsilon; a nearer adversarial is no better")
    for task in t.easy():
        _near(t, t.run(task))


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
    if not t.complete:
        verdicts = [t.run(task) for task in t.easy()]
        if not any(v.success.any() for v in verdicts):
            raise AssertionError(
                f"expected an adversarial of any of {3 * t.samples} samples; got none"
            )
        return
    for task in (*t.easy(), t.winding()):
        v = t.run(task)
        _found(t, v)
        v.require(v.claims | ~v.success, "it to claim what it has found", "no claim")


def nothing_infeasible(t: Trial) -> None:
    """Nothing is claimed where no adversarial is, in the whole box."""
    v = t.run(t.affine(hopeless=True, classes=2))
    exact = v.task.exact(t.norm)
    assert np.isinf(exact).all(), "the task is not hopeless"
    v.require(~v.claims, "no adversarial: there is none in the box", "a claim")
    v.require(v.finite, "finite values", "NaN or infinity")
    v.require(v.inside, f"values within {_box(v.task)}", _range(v))


def batch_invariant(t: Trial) -> None:
    """A sample's result is the same alone and in a batch."""
    _comparable(t)
    task = t.affine()
    whole = t.run(task)
    for part in (slice(0, 1), slice(1, None)):
        alone = _again(t, _rows(task, part), whole)
        _same(t, alone, _part(whole, part), "as in the whole batch")


def order_invariant(t: Trial) -> None:
    """A batch in another order gives the same results in that order."""
    _comparable(t)
    task = t.affine()
    back = slice(None, None, -1)
    v = t.run(task)
    turned = _again(t, _rows(task, back), v)
    _same(t, turned, _part(v, back), "as in the first order")


def seed_invariant(t: Trial) -> None:
    """The same seed gives the same result, and any other seed one as good."""
    task = t.affine()
    seeded_by_hand = "seed" in t.subject.takes
    first = t.run(task)
    if seeded_by_hand:
        again = t.run(task, global_seed=1)
    else:
        # What was run before is remembered, so ask through an equal task.
        again = _again(t, _rows(task, slice(None)), first)
    same = np.equal(again.points, first.points) | np.isnan(first.points)
    again.require(_all(same), "the same a second time", "another result")
    other = t.run(task, seed=1) if seeded_by_hand else t.run(task, global_seed=1)
    if t.complete:
        _found(t, other)
    _near(t, other)


def leaves_global_randomness(t: Trial) -> None:
    """Global random generators are neither read nor moved."""
    if "seed" not in t.subject.takes:
        t.skip("a function without a seed has nothing else to draw from")
    task = t.affine()
    with seeded(7):
        before = _global_draws()
    with seeded(7):
        # Not `t.run`, which restores the generators.
        t.subject.attack(task, t.settings(task))
        after = _global_draws()
    if before != after:
        raise AssertionError(
            f"{task.name}: expected the global random generators as they were; the "
            "attack has drawn from them or seeded them"
        )


def noise_of_its_own(t: Trial) -> None:
    """Each sample of a batch has random numbers of its own."""
    if "seed" in t.subject.takes:
        t.skip("its random numbers follow the seed and the sample: see batch_invariant")
    if not t.unrepeatable:
        t.skip("it is not random")
    task = _rows(t.affine(), np.zeros(4, dtype=np.int64))
    starts = None
    if "starts" in t.subject.takes:
        starts = _starts(task, t.affine(seed=1, samples=24))
    points = t.run(task, starts=starts).points
    if all(np.array_equal(points[0], point) for point in points[1:]):
        raise AssertionError(
            f"{task.name}: expected {len(points)} copies of one input to go different "
            "ways, since the attack is random; all went the same"
        )


def keeps_the_best(t: Trial) -> None:
    """No adversarial it asked about is better than the one it returns."""
    tasks = [(task, row) for task in (t.affine(), t.winding()) for row in (0, 1)]
    for task, row in tasks:
        alone = _rows(task, slice(row, row + 1))
        v = t.run(alone)
        seen = _best_seen(t, v)
        if seen > v.epsilon * (1 + 1e-6):
            continue
        got = v.distance if not t.subject.bounded else np.where(v.success, 0.0, np.inf)
        v.require(
            got <= seen * 1.01,
            f"at most {seen:.6g}, where it has seen an adversarial",
            got,
        )


def more_steps_never_hurt(t: Trial) -> None:
    """With four times the steps nothing is lost, and distances are no larger."""
    few = 50 if t.subject.access == Access.GRADIENT else 250
    task = t.affine()
    if "budget" in t.subject.takes:
        less = t.run(task, budget=few, planned=True)
        more = t.run(task, budget=4 * few, planned=True)
    elif "steps" in t.subject.takes:
        less, more = t.run(task, steps=few), t.run(task, steps=4 * few)
    else:
        t.skip("it takes neither a budget nor steps")
    more.require(
        more.success | ~less.success, "still what fewer steps have found", "nothing"
    )
    both = less.success & more.success
    if t.subject.bounded or not both.any():
        return
    ratio = more.distance[both] / np.maximum(less.distance[both], 1e-12)
    if np.exp(np.mean(np.log(np.maximum(ratio, 1e-12)))) > 1.05:
        raise AssertionError(
            f"{task.name}: expected distances no larger after {4 * few} steps than "
            f"after {few}; got {_list(more.distance)} instead of {_list(less.distance)}"
        )


def inputs_untouched(t: Trial) -> None:
    """The arrays that the attack is given are the same afterwards."""
    task = t.affine()
    v = t.run(task)
    for before, after, name in zip(
        (task.x, task.y), v.outcome.inputs, ("inputs", "labels"), strict=True
    ):
        v.require(_all(before == after), f"the {name} unchanged", "others")


def access_respected(t: Trial) -> None:
    """It sees no more of the model than it declares, and every look is billed."""
    task = t.affine()
    access = t.subject.access
    if access < Access.GRADIENT:
        _comparable(t)
        shown = f"the same where the model shows {access.name.lower()}s only"
        _same(t, t.run(task, access=access), t.run(task), shown)
    elif not t.subject.billed:
        t.skip("it declares that it needs gradients, and is shown everything")
    v = t.run(task)
    ledger, model = v.outcome.ledger, v.outcome.model
    if ledger is None:
        return
    looks = model.forwards - len(task.x), model.backwards
    billed = int(ledger.forwards.sum()), int(ledger.backwards.sum())
    if looks != billed:
        raise AssertionError(
            f"{task.name}: expected {billed[0]} forward and {billed[1]} backward "
            f"passes, as billed; the model was asked for {looks[0]} and {looks[1]}"
        )


def budget_respected(t: Trial) -> None:
    """What comes after the budget is spent does not count, and is hardly asked."""
    if "budget" not in t.subject.takes:
        t.skip("it takes no budget")
    task, budget = t.affine(), 30
    for planned in (False, True):
        v = t.run(task, budget=budget, planned=planned)
        ledger = v.outcome.ledger
        if ledger is None:
            asked = v.outcome.model.forwards / len(task.x)
            if asked > budget:
                raise AssertionError(
                    f"{task.name}: expected at most {budget} forward passes per "
                    f"sample; got {asked:.6g}"
                )
            continue
        spent = ledger.forwards.astype(float)
        v.require(spent <= 2 * budget, f"about {budget} forward passes", spent)
        counted = ledger.distance_after(budget)
        v.require(
            to_numpy(ledger.distance) >= counted * (1 - 1e-6),
            f"what was found by then: {_list(counted)}",
            to_numpy(ledger.distance).astype(float),
        )


def other_bounds(t: Trial) -> None:
    """Bounds other than [0, 1] are kept, and made use of."""
    for bounds in ((-3.0, 5.0), (0.0, 255.0)):
        task = t.affine(bounds=bounds)
        v = t.run(task)
        v.require(v.finite, "finite values", "NaN or infinity")
        v.require(v.inside, f"values within {_box(task)}", _range(v))
        _sound(t, v)


def two_classes(t: Trial) -> None:
    """A model of two classes is as good as any."""
    v = t.run(t.affine(classes=2), refusable=True)
    _sound(t, v)
    if np.isfinite(t.factor) and not t.subject.bounded:
        exact = v.task.exact(t.norm)
        # There is one class to go to, so nothing misleads.
        v.require(
            ~v.success | (v.distance <= t.factor * exact * (1 + _SINGLE)),
            f"at most {t.factor:g} x the minimum, {_list(exact)}",
            v.distance,
        )


def constant_logits(t: Trial) -> None:
    """A model that says the same of everything is never fooled, and never a crash."""
    task = t.affine()
    # All are of the first class: it is where a tie is decided.
    same = replace(task, y=np.zeros_like(task.y)).with_model(
        constant(task.model), "constant logits"
    )
    v = t.run(same, epsilon=t.epsilon(task) if t.subject.bounded else None)
    v.require(v.finite, "finite values", "NaN or infinity")
    v.require(~v.claims, "no adversarial: a tie is none", "a claim")


def zero_gradients(t: Trial) -> None:
    """Gradients of zero make an attack fail at most, not crash or lie."""
    task = t.affine()
    v = t.run(task.with_model(one_hot_outputs(task.model), "zero gradients"))
    v.require(v.finite, "finite values", "NaN or infinity")
    v.require(v.inside, f"values within {_box(task)}", _range(v))
    v.require(~v.claims | v.adversarial, "an adversarial, as claimed", "none")
    if t.subject.access < Access.SCORE:
        _sound(t, v)


def nan_answers(t: Trial) -> None:
    """NaN in the answers about one sample is no success, and no matter to others."""
    task = t.affine()
    broken = task.with_model(nan_near(task.model, task.x, 0), "NaN around sample 0")
    v = t.run(broken)
    v.require(v.finite, "finite values", "NaN or infinity")
    v.require(~v.claims | v.adversarial, "an adversarial, as claimed", "none")
    if not t.unrepeatable:
        others = slice(1, None)
        without = _again(t, _rows(broken, others), v)
        _same(t, _part(v, others), without, "as without sample 0")


def already_adversarial(t: Trial) -> None:
    """An input that is misclassified already is its own adversarial."""
    task = t.affine()
    labels = task.y.copy()
    labels[0] = (labels[0] + 1) % 3
    v = t.run(replace(task, name="sample 0 misclassified", y=labels))
    v.require(v.finite, "finite values", "NaN or infinity")
    first = np.arange(t.samples) == 0
    v.require(v.success | ~first, "an adversarial: the input is one", "none")
    if not t.subject.bounded:
        v.require((v.distance <= 1e-6) | ~first, "the distance 0", v.distance)
    if not t.unrepeatable:
        others = slice(1, None)
        usual = _part(t.run(task), others)
        _same(t, _part(v, others), usual, "as beside other samples")


def empty_batch(t: Trial) -> None:
    """An empty batch gives an empty batch, or is refused by an error."""
    task = _rows(t.affine(), slice(0, 0))
    settings = t.settings(t.affine())
    try:
        with seeded(0):
            outcome = t.subject.attack(task, settings)
    except Exception as error:
        if t.subject.billed:
            raise AssertionError(
                f"expected an empty batch for an empty batch; it raised {error!r}"
            ) from error
        t.skip(f"it refuses an empty batch: {type(error).__name__}: {error}")
    if outcome.points.shape != task.x.shape:
        raise AssertionError(
            f"expected the shape {task.x.shape}; got {outcome.points.shape}"
        )


def float64(t: Trial) -> None:
    """Points have the precision of the inputs, single or double."""
    for dtype in (np.float32, np.float64):
        v = t.run(t.affine(dtype=dtype))
        if v.points.dtype != dtype:
            raise AssertionError(
                f"expected {np.dtype(dtype)} for {np.dtype(dtype)}; got "
                f"{v.points.dtype}"
            )
        _sound(t, v)


def targets(t: Trial) -> None:
    """With targets, success is the target's class and no other."""
    if "targets" not in t.subject.takes:
        t.skip("it takes no targets")
    v = t.run(t.affine(targeted=True), refusable=True)
    v.require(~v.claims | v.adversarial, "the target's class, as claimed", "another")
    exact = v.task.exact(t.norm)
    slack = 1 - (_DOUBLE if v.points.dtype == np.float64 else _SINGLE)
    v.require(v.distance >= exact * slack, f"at least {_list(exact)}", v.distance)
    if t.complete:
        _found(t, v)


def any_framework(t: Trial) -> None:
    """Torch and NumPy tensors lead to the same distances, to 5 %."""
    task = t.affine()
    if not t.subject.billed:
        t.skip("a function is written for one framework")
    expected = t.run(task).distance
    v = t.run(task, torch=True)
    v.require(
        np.isclose(v.distance, expected, rtol=0.05),
        f"the distances {_list(expected)} that NumPy leads to",
        v.distance,
    )


LAWS: Mapping[str, Law] = MappingProxyType(
    {
        law.__name__.replace("_", "-"): law
        for law in (
            in_bounds,
            finite,
            really_adversarial,
            distance_as_reported,
            never_below_minimum,
            near_minimum,
            within_epsilon,
            finds_the_feasible,
            nothing_infeasible,
            batch_invariant,
            order_invariant,
            seed_invariant,
            leaves_global_randomness,
            noise_of_its_own,
            keeps_the_best,
            more_steps_never_hurt,
            inputs_untouched,
            access_respected,
            budget_respected,
            other_bounds,
            two_classes,
            targets,
            constant_logits,
            zero_gradients,
            nan_answers,
            already_adversarial,
            empty_batch,
            float64,
            any_framework,
        )
    }
)
"""Every law by its name, in the order in which a suite has them."""


def _again(t: Trial, task: Planted, v: Verdict) -> Verdict:
    """Another run, within the same epsilon as the first."""
    return t.run(task, epsilon=v.epsilon if np.isfinite(v.epsilon) else None)


def _needs_claims(t: Trial) -> None:
    if t.run(t.affine()).outcome.claims is None:
        t.skip("it does not say whom it claims to have found adversarials of")


def _comparable(t: Trial) -> None:
    if t.unrepeatable:
        t.skip(f"runs cannot be compared: {t.unrepeatable}")


def _sound(t: Trial, v: Verdict) -> None:
    """What is promised of a usual task, of another one."""
    v.require(~v.claims | v.adversarial, "an adversarial, as claimed", "none")
    if t.complete:
        _found(t, v)
    _near(t, v)


def _found(t: Trial, v: Verdict) -> None:
    exact = v.task.exact(t.norm)
    v.require(
        v.success | ~t.within_reach(v),
        f"an adversarial, for there are some at the distances {_list(exact)}",
        "none",
    )


def _near(t: Trial, v: Verdict) -> None:
    """The median is within the factor: single samples may be led astray."""
    if not np.isfinite(t.factor) or t.subject.bounded:
        return
    exact = v.task.exact(t.norm)
    reached = v.success & np.isfinite(exact)
    if not reached.any():
        return
    ratio = np.where(reached, v.distance / np.maximum(exact, 1e-300), 1.0)
    if np.median(ratio[reached]) > t.factor * (1 + _SINGLE):
        raise AssertionError(
            f"{v.task.name}: expected distances of at most {t.factor:g} x the minimum "
            f"in the median; got {np.median(ratio[reached]):.6g} x: {_list(v.distance)}"
            f", where {_list(exact)} is possible"
        )


def _same(t: Trial, got: Verdict, other: Verdict, expected: str) -> None:
    """Equal, but for rounding."""
    width = got.task.bounds.width
    near = 1e-2 if got.task.x.dtype == np.float32 else 1e-6
    close = np.isclose(got.points, other.points, rtol=0, atol=near * width)
    both = np.isnan(got.points) & np.isnan(other.points)
    got.require(
        _all(close | both),
        expected,
        f"distances {_list(got.distance)} instead of {_list(other.distance)}",
    )


def _best_seen(t: Trial, v: Verdict) -> float:
    """The least distance of all adversarials asked about, of the only sample."""
    task = v.task
    queries = np.concatenate(
        [q.reshape(-1, *task.x.shape[1:]) for q in v.outcome.model.queries]
    )
    if t.subject.budget is not None:
        # What is overdrawn is not rewarded; the first question was about the original.
        queries = queries[: 1 + t.subject.budget]
    flat = queries.reshape(len(queries), -1)
    lower, upper = task.bounds.lower, task.bounds.upper
    queries = queries[((flat >= lower) & (flat <= upper)).all(axis=1)]
    if not len(queries):
        return np.inf
    many = _rows(task, np.zeros(len(queries), dtype=np.int64))
    logits = task.model.logits(task.model.to_tensor(queries))
    wins = to_numpy(many.criterion().margin(logits)) < 0
    delta = queries.astype(np.float64) - task.x.astype(np.float64)
    sizes = to_numpy(get_norm(t.norm)(as_tensor(delta)))
    return float(np.where(wins, sizes, np.inf).min())


def _starts(task: Planted, others: Planted) -> Array:
    """One input of another class, for everybody."""
    return np.repeat(others.x[others.y != task.y[0]][:1], len(task.x), axis=0)


def _rows(task: Planted, rows: slice | Array) -> Planted:
    """Some samples of a task."""
    numbers = np.arange(len(task.x))[rows]
    return replace(
        task,
        x=task.x[rows].copy(),
        y=task.y[rows].copy(),
        targets=None if task.targets is None else task.targets[rows].copy(),
        regions=[task.regions[i] for i in numbers],
    )


def _part(v: Verdict, rows: slice) -> Verdict:
    """Some samples of a verdict, as far as they are compared."""
    return replace(
        v,
        task=_rows(v.task, rows),
        points=v.points[rows],
        finite=v.finite[rows],
        inside=v.inside[rows],
        adversarial=v.adversarial[rows],
        distance=v.distance[rows],
    )


def _global_draws() -> tuple[float, ...]:
    """The next number of each global random generator."""
    return (
        random.random(),
        float(np.random.random()),  # noqa: NPY002
        float(torch.rand(1)),
    )


def _all(good: Array) -> Array:
    """(n,) for whom all features are good."""
    return np.asarray(good.reshape(len(good), -1).all(axis=1))


def _box(task: Planted) -> str:
    return f"[{task.bounds.lower:g}, {task.bounds.upper:g}]"


def _range(v: Verdict) -> list[str]:
    flat = v.points.reshape(len(v.points), -1)
    return [f"values from {row.min():.6g} to {row.max():.6g}" for row in flat]


def _list(values: Array) -> str:
    return "[" + ", ".join(f"{value:.4g}" for value in values) + "]"
