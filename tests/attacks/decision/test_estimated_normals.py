"""The attacks that estimate normals of the boundary, on planted problems."""

import dataclasses

import numpy as np
import pytest

from robustkit.attacks.decision.cgba import CGBA, CGBAH
from robustkit.attacks.decision.compass import Compass
from robustkit.attacks.decision.geoda import GeoDA
from robustkit.attacks.decision.hopskipjump import HopSkipJump, qeba
from robustkit.attacks.decision.sign_opt import SignOPT
from robustkit.engine.criteria import Misclassification, Targeted
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.errors import BadInput
from robustkit.models.base import Access
from robustkit.models.numpy import NumPyModel
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor
from robustkit.registry import get_attack

ATTACKS = {
    "hopskipjump": HopSkipJump(probes=30),
    "qeba": dataclasses.replace(qeba(share=0.9), probes=30),
    "resized": dataclasses.replace(qeba("resized", share=0.9), probes=30),
    "cgba": CGBA(frequencies=1.0),
    "cgba-h": CGBAH(frequencies=1.0),
    "geoda": GeoDA(frequencies=1.0),
    "sign-opt": SignOPT(probes=30),
    "compass": Compass(),
}
CASES = [
    (name, norm) for name, attack in ATTACKS.items() for norm in sorted(attack.norms)
]
each = pytest.mark.parametrize(("name", "norm"), CASES)


def half_space(weights, offset, bounds=None, log=None):
    """Class 0 where weights . x > offset, else class 1; row by row."""

    def function(x):
        if log is not None:
            log.append(x)
        axes = tuple(range(1, x.ndim))
        score = (x * weights).sum(axis=axes) - offset
        return np.stack([score, -score], axis=1)

    return NumPyModel(function, bounds)


def planted(count=5, shape=(2, 3, 4), seed=0):
    """Points near the middle of the box, and a half-space that is near to them all.

    So near that the box does not matter: its closest point is margin / |w|.
    """
    generator = np.random.default_rng(seed)
    weights = generator.normal(size=shape)
    margin = generator.uniform(0.05, 0.15, count)
    middle = generator.uniform(-0.1, 0.1, (count, *shape))
    rest = margin - (middle * weights).sum(axis=(1, 2, 3))
    along = weights / (weights**2).sum()
    x = 0.5 + middle + rest[:, None, None, None] * along
    exact = {
        "l1": margin / np.abs(weights).max(),
        "l2": margin / np.sqrt((weights**2).sum()),
        "linf": margin / np.abs(weights).sum(),
    }
    return x, weights, 0.5 * weights.sum(), exact


def attacked(model, x, attack, norm, budget=None, labels=None, **more):
    x = as_tensor(np.asarray(x))
    labels = np.zeros(x.shape[0], dtype=np.int64) if labels is None else labels
    p = Problem(model, x, Misclassification(as_tensor(labels)), get_norm(norm), **more)
    return run(attack, p, budget=budget)


# Median factors of the exact minimum after 1,500 questions.
FACTORS = {
    ("hopskipjump", "l2"): 1.02,
    ("hopskipjump", "linf"): 1.2,
    ("qeba", "l2"): 1.05,
    ("qeba", "linf"): 1.3,
    ("resized", "l2"): 1.05,
    ("resized", "linf"): 1.3,
    ("cgba", "l2"): 1.02,
    ("cgba-h", "l2"): 1.02,
    ("geoda", "l1"): 1.1,
    ("geoda", "l2"): 1.2,
    ("geoda", "linf"): 1.2,
    ("sign-opt", "l2"): 1.02,
    ("compass", "l2"): 1.005,
}


@each
def test_it_comes_close_to_the_planted_minimum_and_never_below(name, norm):
    x, weights, offset, exact = planted()
    model = half_space(weights, offset)
    ledger = attacked(model, x, ATTACKS[name], norm, budget=1500)
    ratio = ledger.distance.raw / exact[norm]
    assert (ratio >= 1 - 1e-9).all()
    assert np.median(ratio) < FACTORS[name, norm], ratio
    best = ledger.best.raw
    assert ((best * weights).sum(axis=(1, 2, 3)) < offset).all()
    assert (get_norm(norm)(as_tensor(best - x)).raw == ledger.distance.raw).all()


@each
def test_bounds_of_any_size_serve_as_well(name, norm):
    x, weights, offset, exact = planted()
    for lower, upper in [(-1e-6, 1e-6), (1e3, 5e3)]:
        width = upper - lower
        model = half_space(
            weights / width,
            offset + lower * weights.sum() / width,
            Bounds(lower, upper),
        )
        images = np.clip(lower + width * x, lower, upper)
        ledger = attacked(model, images, ATTACKS[name], norm, budget=600)
        ratio = ledger.distance.raw / (width * exact[norm])
        assert (ratio > 1 - 1e-6).all()
        assert np.median(ratio) < 1.5
        assert lower <= ledger.best.raw.min()
        assert ledger.best.raw.max() <= upper


@each
def test_questions_are_counted_decisions_and_the_budget_is_hard(name, norm):
    x, weights, offset, _ = planted()
    log = []
    model = half_space(weights, offset, log=log)
    whole = attacked(model, x, ATTACKS[name], norm, budget=200)
    assert sum(len(images) for images in log) == whole.decisions.sum()
    assert (whole.decisions == whole.forwards).all()
    assert (whole.forwards <= 200).all()
    for budget in (1, 30, 77):
        part = attacked(model, x, ATTACKS[name], norm, budget=budget)
        assert (part.forwards <= budget).all()
        assert (part.distance.raw == whole.distance_after(budget)).all()


@each
def test_a_constant_model_has_no_adversarial_and_that_is_no_error(name, norm):
    model = NumPyModel(lambda x: np.ones((len(x), 2)) * [1, 0])
    ledger = attacked(model, np.full((3, 1, 4, 4), 0.5), ATTACKS[name], norm)
    assert not ledger.found.any()
    assert (ledger.steps == 0).all()


@each
def test_rows_of_features_and_a_single_one(name, norm):
    ledger = attacked(half_space(np.ones(1), 0.25), [[0.75]], ATTACKS[name], norm, 300)
    assert 0.5 <= ledger.distance.raw[0] < 0.5 * 1.01


@each
def test_towards_a_target_from_a_pool(name, norm):
    x, weights, offset, exact = planted()
    model = half_space(weights, offset)
    target = Targeted(as_tensor(np.ones(5, dtype=np.int64)))
    pool = as_tensor(1 - np.round(weights > 0)[None].astype(float))
    p = Problem(model, as_tensor(x), target, get_norm(norm), pool=pool)
    ledger = run(ATTACKS[name], p, budget=1000)
    assert ledger.found.all()
    assert np.median(ledger.distance.raw / exact[norm]) < 1.5


def test_an_unknown_subspace_is_refused():
    x, weights, offset, _ = planted()
    with pytest.raises(BadInput, match="unknown subspace 'pca'"):
        attacked(half_space(weights, offset), x, HopSkipJump(subspace="pca"), "l2")


@pytest.mark.parametrize(
    "name", ["hopskipjump", "qeba", "cgba", "cgba-h", "geoda", "sign-opt", "compass"]
)
def test_they_are_known_by_name(name):
    attack = get_attack(name)
    assert attack.access is Access.DECISION
    assert "l2" in attack.norms


def test_probes_in_a_subspace_need_fewer_questions_where_the_boundary_is_smooth():
    """A boundary whose normal is one low frequency of a larger image."""
    shape = (1, 16, 16)
    ramp = np.cos(np.pi * (np.arange(16) + 0.5) / 16)
    weights = (ramp[:, None] * ramp[None])[None]
    generator = np.random.default_rng(2)
    x = 0.5 + generator.uniform(-0.1, 0.1, (6, *shape))
    offset = (x * weights).sum(axis=(1, 2, 3)).min() - 1.0
    exact = ((x * weights).sum(axis=(1, 2, 3)) - offset) / np.linalg.norm(weights)

    def ratio(attack):
        ledger = attacked(half_space(weights, offset), x, attack, "l2", budget=400)
        return np.median(ledger.distance.raw / exact)

    assert ratio(qeba(share=0.25)) < 1.3
    assert ratio(qeba("resized", share=0.25)) < 1.3
    assert ratio(HopSkipJump()) > 1.5
