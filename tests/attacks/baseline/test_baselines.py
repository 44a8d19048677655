import numpy as np
import pytest

from robustkit.attacks.baseline.blend import Blend
from robustkit.attacks.baseline.contrast import Contrast
from robustkit.attacks.baseline.noise import GaussianNoise, UniformNoise
from robustkit.attacks.baseline.salt_and_pepper import SaltAndPepper
from robustkit.combine import Cascade
from robustkit.engine.criteria import Misclassification
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.errors import BadInput
from robustkit.models.base import Access
from robustkit.models.numpy import NumPyModel
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor

NORMS = ("l0", "l1", "l2", "linf")
BASELINES = (UniformNoise, GaussianNoise, SaltAndPepper, Contrast, Blend)


def planted(count=6, features=8, seed=0):
    """A half-space, points in front of it, points on both sides, and exact minima.

    The weights are positive, so that a grey dark enough is behind the boundary.
    """
    generator = np.random.default_rng(seed)
    weights = generator.uniform(0.5, 1, features)
    x = generator.uniform(0.5, 0.7, (count, features))
    offset = float((x @ weights).min()) - 0.1
    margin = x @ weights - offset
    pool = generator.uniform(0.1, 0.9, (20, features))
    assert (x > (margin / weights.max())[:, None]).all()
    exact = {
        "l0": np.array(list(map(_features, x * weights, margin))),
        "l1": margin / weights.max(),
        "l2": margin / np.sqrt((weights**2).sum()),
        "linf": margin / weights.sum(),
    }
    return x, pool, weights, offset, exact


def _features(gains, margin):
    """How many of the largest gains exceed the margin."""
    return 1 + int((np.cumsum(np.sort(gains)[::-1]) <= margin).sum())


def half_space(weights, offset, bounds=None, log=None):
    def function(x):
        if log is not None:
            log.append(x)
        score = (x * weights).sum(axis=1) - offset
        return np.stack([score, np.zeros_like(score)], axis=1)

    return NumPyModel(function, bounds)


def attacked(attack, model, x, norm="l2", budget=None, labels=None, pool=None, **more):
    x = as_tensor(np.asarray(x))
    labels = np.zeros(x.shape[0], dtype=np.int64) if labels is None else labels
    pool = None if pool is None else as_tensor(pool)
    criterion = Misclassification(as_tensor(labels))
    p = Problem(model, x, criterion, get_norm(norm), pool=pool, **more)
    return run(attack, p, budget=budget)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("baseline", BASELINES)
def test_found_everywhere_near_the_planted_minimum_and_never_below(baseline, norm):
    x, pool, weights, offset, exact = planted()
    attack = baseline(steps=300)
    ledger = attacked(attack, half_space(weights, offset), x, norm, pool=pool)
    assert ledger.found.all()
    ratio = ledger.distance.raw / exact[norm]
    assert (ratio >= 1 - 1e-9).all()
    assert np.median(ratio) < 3
    assert (((ledger.best.raw * weights).sum(axis=1) - offset) < 0).all()


@pytest.mark.parametrize(
    ("baseline", "norm"),
    [(UniformNoise, "linf"), (GaussianNoise, "l2"), (SaltAndPepper, "l0")],
)
def test_many_draws_come_close_to_the_minimum_in_few_dimensions(baseline, norm):
    x, _, weights, offset, exact = planted(features=3)
    ledger = attacked(baseline(steps=1000), half_space(weights, offset), x, norm)
    assert (ledger.distance.raw <= 1.05 * exact[norm]).all()


@pytest.mark.parametrize("norm", ["l0", "l2"])
@pytest.mark.parametrize("baseline", BASELINES)
def test_other_bounds_give_the_rescaled_result(baseline, norm):
    x, pool, weights, offset, _ = planted()
    options = {"norm": norm, "keys": np.arange(6, dtype=np.uint64)}
    attack = baseline(steps=30)
    unit = attacked(attack, half_space(weights, offset), x, pool=pool, **options)
    # From [0, 1] to [-256, 256].
    moved = half_space(weights, 512 * offset - 256 * weights.sum(), Bounds(-256, 256))
    images, others = 512 * x - 256, 512 * pool - 256
    scaled = attacked(attack, moved, images, pool=others, **options)
    factor = 1 if norm == "l0" else 512
    assert scaled.distance.raw == pytest.approx(factor * unit.distance.raw, rel=5e-3)
    assert scaled.best.raw.min() >= -256
    assert scaled.best.raw.max() <= 256


@pytest.mark.parametrize("baseline", BASELINES)
def test_every_question_is_a_counted_decision_and_most_steps_cost_one(baseline):
    x, pool, weights, offset, _ = planted()
    log = []
    model = half_space(weights, offset, log=log)
    ledger = attacked(baseline(steps=200), model, x, pool=pool)
    assert sum(len(images) for images in log) == ledger.decisions.sum()
    assert (ledger.decisions == ledger.forwards).all()
    # A new record in step t has the chance 1 / t: about 6 in 200, 10 questions each.
    assert ledger.forwards.mean() < ledger.steps.mean() + 100


@pytest.mark.parametrize("baseline", BASELINES)
def test_the_budget_is_kept_and_not_rewarded_beyond(baseline):
    x, pool, weights, offset, _ = planted()
    model = half_space(weights, offset)
    whole = attacked(baseline(steps=100), model, x, pool=pool)
    for budget in (1, 9, 40):
        part = attacked(baseline(steps=100), model, x, pool=pool, budget=budget)
        assert (part.distance.raw == whole.distance_after(budget)).all()
        assert (part.forwards <= budget).all()


@pytest.mark.parametrize("baseline", BASELINES)
def test_a_constant_model_has_no_adversarial_and_that_is_no_error(baseline):
    model = NumPyModel(lambda x: np.ones((len(x), 2)) * [1, 0])
    x, pool, *_ = planted()
    ledger = attacked(baseline(steps=9), model, x, pool=pool)
    assert not ledger.found.any()
    assert (ledger.forwards <= 9).all()


def test_a_pool_is_used_up_once_and_samples_in_it_are_passed_over():
    x, pool, weights, offset, _ = planted()
    model = half_space(weights, offset)
    ledger = attacked(Blend(), model, x, pool=np.concatenate([x, pool]))
    assert (ledger.steps == len(x) + len(pool)).all()
    same = attacked(Blend(), model, x[:1], pool=x[:1])
    assert not same.found.any()
    assert same.forwards[0] == 0
    # In a cascade nobody leaves before all steps are over.
    cascade = attacked(Cascade((Blend(steps=100),)), model, x, pool=pool)
    alone = attacked(Blend(), model, x, pool=pool)
    assert np.array_equal(cascade.forwards, alone.forwards)
    assert np.array_equal(cascade.best.raw, alone.best.raw)


@pytest.mark.parametrize("pool", [None, np.zeros((0, 8))])
def test_blending_needs_a_pool(pool):
    x, _, weights, offset, _ = planted()
    with pytest.raises(BadInput, match="give some inputs as `pool`"):
        attacked(Blend(), half_space(weights, offset), x, pool=pool)


@pytest.mark.parametrize("baseline", BASELINES)
def test_a_baseline_needs_decisions_only(baseline):
    assert baseline.access is Access.DECISION
    assert baseline.norms == {"l0", "l1", "l2", "linf"}
