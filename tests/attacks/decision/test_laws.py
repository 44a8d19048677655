"""What holds for every attack here, mostly for those without estimates of normals."""

import dataclasses

import numpy as np
import pytest

from robustkit.attacks.decision.boundary import Boundary
from robustkit.attacks.decision.cgba import CGBA, CGBAH
from robustkit.attacks.decision.compass import Compass
from robustkit.attacks.decision.geoda import GeoDA
from robustkit.attacks.decision.hopskipjump import HopSkipJump, qeba
from robustkit.attacks.decision.pointwise import Pointwise
from robustkit.attacks.decision.rays import RayS
from robustkit.attacks.decision.sieve import Sieve
from robustkit.attacks.decision.sign_opt import SignOPT
from robustkit.attacks.decision.surfree import SurFree
from robustkit.attacks.decision.triangle import Triangle
from robustkit.engine.criteria import Misclassification, Targeted
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.errors import BadInput
from robustkit.models.base import Access
from robustkit.models.numpy import NumPyModel
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import Tensor, as_tensor

CASES = [
    (RayS, "linf"),
    (Pointwise, "l0"),
    (Pointwise, "l0-pixels"),
    (Pointwise, "l1"),
    (Sieve, "l0"),
    (Sieve, "l0-pixels"),
    (Sieve, "l1"),
    (SurFree, "l2"),
    (Triangle, "l2"),
]
SHAPE = (2, 4, 4)
KEYS = np.arange(6, dtype=np.uint64)


def images(count=6, seed=0):
    """Images, of which some features are at a bound, and smooth class patterns."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-0.2, 1.2, (count, *SHAPE)).clip(0, 1)
    rows, columns = np.indices(SHAPE[1:])
    waves = [np.cos(rows * k + columns * (3 - k)) + k / 5 for k in range(4)]
    patterns = np.stack([np.stack([wave, 0.5 * wave + 0.1]) for wave in waves])
    return x, patterns + rng.normal(size=patterns.shape) / 5


def linear(patterns, log=None, lower=0.0, width=1.0):
    """Four classes; row by row, so that scores do not depend on the batch."""

    def function(x):
        if log is not None:
            log.append(len(x))
        unit = (x - lower) / width - 0.5
        return np.stack([(unit * w).sum(axis=(1, 2, 3)) for w in patterns], axis=1)

    return NumPyModel(function, Bounds(lower, lower + width))


def attacked(attack, model, x, norm, labels=None, *, criterion=None, **more):
    budget = more.pop("budget", None)
    if labels is None:
        labels = model.logits(as_tensor(x)).raw.argmax(axis=1)
    criterion = criterion or Misclassification(as_tensor(labels))
    p = Problem(model, as_tensor(x), criterion, get_norm(norm), **more)
    return run(attack, p, budget=budget)


# For L1, features that matter little may stay at their bounds.
@pytest.mark.parametrize(
    ("attack", "norm", "median"),
    [
        (Pointwise, "l0", 1.01),
        (Pointwise, "l1", 1.05),
        (Sieve, "l0", 1.01),
        (Sieve, "l1", 1.03),
    ],
)
def test_few_features_come_close_to_the_exact_minimum_of_linear_models(
    plant, attack, norm, median
):
    planted = plant(samples=10, features=12, classes=2)
    exact = planted.exact(norm)
    far = exact > (0.5 if norm == "l0" else 1e-6)
    ledger = attacked(
        attack().within(800), planted.model(), planted.x, norm, planted.y, budget=800
    )
    ratio = ledger.distance.raw[far] / exact[far]
    assert far.sum() > 5
    assert (ratio >= 1 - 1e-9).all()
    assert np.median(ratio) <= median
    assert (ratio <= 1.6).all()


@pytest.mark.parametrize(("attack", "norm"), CASES)
def test_a_sample_gets_and_pays_the_same_in_any_company(attack, norm):
    """To the last bit, and the last question, which the conformance suite skips."""
    x, patterns = images()
    model = linear(patterns)
    pool = as_tensor(images(5, seed=1)[0])

    def results(rows):
        return attacked(attack(), model, x[rows], norm, budget=80, pool=pool)

    together = results(np.arange(6))
    for rows in ([3], [4, 2, 0, 1, 5]):
        part = results(np.array(rows))
        assert (part.best.raw == together.best.raw[rows]).all()
        assert (part.forwards == together.forwards[rows]).all()


@pytest.mark.parametrize(("attack", "norm"), CASES)
def test_only_samples_without_a_start_are_given_up(attack, norm):
    x, patterns = images()
    model = linear(patterns)
    labels = model.logits(as_tensor(x)).raw.argmax(axis=1)
    whole = attacked(attack(), model, x, norm, budget=120, keys=KEYS)

    @dataclasses.dataclass(frozen=True, eq=False)
    class Stubborn(Misclassification):
        free: Tensor

        def margin(self, logits):
            return super().margin(logits) * self.free + (1 - self.free)

    free = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    stubborn = Stubborn(as_tensor(labels), as_tensor(free))
    mixed = attacked(
        attack(), model, x, norm, criterion=stubborn, budget=120, keys=KEYS
    )
    moved = free == 1
    assert (mixed.found.raw == moved).all()
    assert (mixed.distance.raw[moved] == whole.distance.raw[moved]).all()
    assert (mixed.steps[~moved] == 0).all()


@pytest.mark.parametrize(("attack", "norm"), CASES)
def test_narrow_bounds_give_the_rescaled_result(attack, norm):
    x, patterns = images()
    lower, width = -1e-4, 2e-4
    unit = attacked(attack(), linear(patterns), x, norm, budget=150, keys=KEYS)
    moved = linear(patterns, None, lower, width)
    scaled = attacked(attack(), moved, lower + width * x, norm, budget=150, keys=KEYS)
    factor = 1 if norm.startswith("l0") else width
    assert scaled.distance.raw == pytest.approx(factor * unit.distance.raw, rel=0.05)
    assert scaled.best.raw.min() >= lower
    assert scaled.best.raw.max() <= lower + width


@pytest.mark.parametrize(("attack", "norm"), CASES)
def test_every_question_is_a_counted_decision_and_budgets_are_kept(attack, norm):
    x, patterns = images()
    log = []
    model = linear(patterns, log)
    whole = attacked(attack(), model, x, norm, budget=150)
    assert sum(log) - len(x) == whole.decisions.sum()
    assert (whole.decisions == whole.forwards).all()
    assert (whole.backwards == 0).all()
    for budget in (1, 7, 50):
        part = attacked(attack(), model, x, norm, budget=budget)
        assert (part.distance.raw == whole.distance_after(budget)).all()
        assert (part.forwards <= budget).all()


@pytest.mark.parametrize(("attack", "norm"), CASES)
def test_targets_are_reached_from_samples_of_the_target_class(attack, norm):
    x, patterns = images(40)
    model = linear(patterns)
    classes = model.logits(as_tensor(x)).raw.argmax(axis=1)
    target = np.bincount(classes).argmax()
    others = np.flatnonzero(classes != target)[:5]
    pool = as_tensor(x[classes == target])
    criterion = Targeted(as_tensor(np.full(5, target)))
    ledger = attacked(
        attack(), model, x[others], norm, criterion=criterion, budget=300, pool=pool
    )
    assert ledger.found.raw.all()
    assert (model.logits(ledger.best).raw.argmax(axis=1) == target).all()
    first = get_norm(norm)(pool[:1] - as_tensor(x[others])).raw
    assert (ledger.distance.raw < first).all()
    given = attacked(
        attack(),
        model,
        x[others],
        norm,
        criterion=criterion,
        budget=300,
        starts=pool[:1] + as_tensor(np.zeros_like(x[others])),
    )
    assert given.found.raw.all()


@pytest.mark.parametrize(("attack", "norm"), CASES)
def test_a_constant_model_has_no_adversarial_and_that_is_no_error(attack, norm):
    model = NumPyModel(lambda x: np.ones((len(x), 2)) * [1, 0])
    x, _ = images(3)
    ledger = attacked(attack(), model, x, norm, budget=100)
    assert not ledger.found.raw.any()
    assert (ledger.forwards < 100).all()
    assert (ledger.steps == 0).all()


@pytest.mark.parametrize(("attack", "norm"), CASES)
def test_it_sees_decisions_only_and_names_its_norms(attack, norm):
    assert attack.access is Access.DECISION
    x, patterns = images(2)
    other = "l0" if norm in ("l2", "linf") else "linf"
    with pytest.raises(BadInput, match="cannot minimise the norm"):
        attacked(attack(), linear(patterns), x, other)


@pytest.mark.parametrize(
    "attack",
    [
        HopSkipJump(subspace="none"),
        qeba(share=0.0),
        CGBA(frequencies=0.0),
        CGBAH(frequencies=2.0),
        GeoDA(frequencies=0.0),
        SurFree(frequencies=0.0),
        Triangle(frequencies=2.0),
        Boundary(frequencies=0.0),
        Boundary(frequencies=2.0),
        *(kind(probes=0) for kind in (HopSkipJump, CGBA, GeoDA, SignOPT, Compass)),
        *(kind(size=0.0) for kind in (CGBA, GeoDA, SignOPT, Compass)),
        HopSkipJump(most=0),
        SignOPT(stepsize=0.0),
        SurFree(slope=0.0),
        Triangle(slower=0.0),
        Boundary(stepsize=0.0),
        RayS(stride=0.0),
    ],
)
def test_settings_of_no_use_are_refused_before_anything_is_asked(attack):
    x, patterns = images(2)
    log = []
    model, norm = linear(patterns, log), "linf" if attack.norms == {"linf"} else "l2"
    labels = np.zeros(2, dtype=np.int64)
    with pytest.raises(BadInput, match=r"above 0|unknown subspace"):
        attacked(attack, model, x, norm, labels)
    assert not log
