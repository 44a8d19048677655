"""Laws about how an attack works, by runs that have to agree."""

import random

import numpy as np
import torch

from robustkit.active_tests.planted import Planted
from robustkit.models.base import Access
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import Array, as_tensor, to_numpy
from robustkit.testing.laws.shared import (
    all_features,
    listed,
    part_of,
    require_found,
    require_near,
    require_same,
    rows_of,
    run_again,
    skip_unless_comparable,
)
from robustkit.testing.trial import Trial, Verdict, seeded

__all__ = [
    "access_respected",
    "batch_invariant",
    "budget_respected",
    "inputs_untouched",
    "keeps_the_best",
    "leaves_global_randomness",
    "more_steps_never_hurt",
    "noise_of_its_own",
    "order_invariant",
    "seed_invariant",
]


def batch_invariant(t: Trial) -> None:
    """A sample's result is the same alone and in a batch."""
    skip_unless_comparable(t)
    task = t.affine()
    whole = t.run(task)
    for part in (slice(0, 1), slice(1, None)):
        alone = run_again(t, rows_of(task, part), whole)
        require_same(t, alone, part_of(whole, part), "as in the whole batch")


def order_invariant(t: Trial) -> None:
    """A batch in another order gives the same results in that order."""
    skip_unless_comparable(t)
    task = t.affine()
    back = slice(None, None, -1)
    v = t.run(task)
    turned = run_again(t, rows_of(task, back), v)
    require_same(t, turned, part_of(v, back), "as in the first order")


def seed_invariant(t: Trial) -> None:
    """The same seed gives the same result, and any other seed one as good."""
    task = t.affine()
    seeded_by_hand = "seed" in t.subject.takes
    first = t.run(task)
    if seeded_by_hand:
        again = t.run(task, global_seed=1)
    else:
        # What was run before is remembered, so ask through an equal task.
        again = run_again(t, rows_of(task, slice(None)), first)
    same = np.equal(again.points, first.points) | np.isnan(first.points)
    again.require(all_features(same), "the same a second time", "another result")
    other = t.run(task, seed=1) if seeded_by_hand else t.run(task, global_seed=1)
    if t.complete:
        require_found(t, other)
    require_near(t, other)


def leaves_global_randomness(t: Trial) -> None:
    """Global random generators are neither read nor moved."""
    if "seed" not in t.subject.takes:
        t.skip("a function without a seed has nothing else to draw from")
    task = t.affine()
    with seeded(7):
        before = _global_draws()
    with seeded(7):
        # Not `t.run`, which restores the generators.
        t.attack(task, t.settings(task))
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
    task = rows_of(t.affine(), np.zeros(4, dtype=np.int64))
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
        alone = rows_of(task, slice(row, row + 1))
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
    few = 50 if t.subject.access == Access.GRADIENT else 125
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
            f"after {few}; got {listed(more.distance)} instead of "
            f"{listed(less.distance)}"
        )


def inputs_untouched(t: Trial) -> None:
    """The arrays that the attack is given are the same afterwards."""
    task = t.affine()
    v = t.run(task)
    for before, after, name in zip(
        (task.x, task.y), v.outcome.inputs, ("inputs", "labels"), strict=True
    ):
        v.require(all_features(before == after), f"the {name} unchanged", "others")


def access_respected(t: Trial) -> None:
    """It sees no more of the model than it declares, and every look is billed."""
    task = t.affine()
    access = t.subject.access
    if access < Access.GRADIENT:
        skip_unless_comparable(t)
        shown = f"the same where the model shows {access.name.lower()}s only"
        require_same(t, t.run(task, access=access), t.run(task), shown)
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
            f"what was found by then: {listed(counted)}",
            to_numpy(ledger.distance).astype(float),
        )


def _best_seen(t: Trial, v: Verdict) -> float:
    """The least distance of all adversarials asked about, of the only sample."""
    task = v.task
    if not v.outcome.model.queries:
        return np.inf
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
    many = rows_of(task, np.zeros(len(queries), dtype=np.int64))
    logits = task.model.logits(task.model.to_tensor(queries))
    wins = to_numpy(many.criterion().margin(logits)) < 0
    delta = queries.astype(np.float64) - task.x.astype(np.float64)
    sizes = to_numpy(get_norm(t.norm)(as_tensor(delta)))
    return float(np.where(wins, sizes, np.inf).min())


def _starts(task: Planted, others: Planted) -> Array:
    """One input of another class, for everybody."""
    return np.repeat(others.x[others.y != task.y[0]][:1], len(task.x), axis=0)


def _global_draws() -> tuple[float, ...]:
    """The next number of each global random generator."""
    return (
        random.random(),
        float(np.random.random()),  # noqa: NPY002
        float(torch.rand(1)),
    )
