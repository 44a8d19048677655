import runpy
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, find, given, settings

from robustkit.attacks.gradient.fmn import FMN
from robustkit.engine.criteria import Misclassification
from robustkit.errors import BadInput, MissingPackage
from robustkit.evaluation.single import run
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.tensors import as_tensor
from robustkit.testing import strategies
from robustkit.testing.strategies import (
    batches,
    masked_problems,
    problems,
    threats,
)

few = settings(
    max_examples=12,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
many = settings(few, max_examples=3000)


def margins(problem, x):
    criterion = Misclassification(as_tensor(problem.y))
    return criterion.margin(problem.model.logits(as_tensor(x))).numpy()


@pytest.mark.parametrize("norm", ["l0", "l1", "l2", "linf"])
def test_the_exact_distance_is_that_of_a_search_through_a_grid(norm):
    order = {"l0": 0, "l1": 1, "l2": 2, "linf": np.inf}[norm]

    @few
    @given(problems(norm, features=2, samples=2))
    def law(problem):
        lower, upper = problem.model.bounds.lower, problem.model.bounds.upper
        axis = np.linspace(lower, upper, 161)
        grids = np.meshgrid(*[axis] * problem.x.shape[1])
        points = np.stack([grid.ravel() for grid in grids], axis=1)
        for row, (x, exact) in enumerate(zip(problem.x, problem.exact, strict=True)):
            labels = np.full(len(points), problem.y[row])
            logits = problem.model.logits(as_tensor(points))
            wins = Misclassification(as_tensor(labels)).margin(logits).numpy() < 0
            sizes = [np.linalg.norm(delta, order) for delta in (points - x)[wins]]
            nearest = min(sizes, default=np.inf)
            assert nearest >= exact * (1 - 1e-9)
            # Where a half-space is met, it is at a corner, and those are on the grid.
            assert np.isfinite(nearest) == np.isfinite(exact)
            if np.isfinite(exact):
                slack = 1 if norm == "l0" else 2 * np.sqrt(2) * (axis[1] - axis[0])
                assert nearest <= exact + slack

    law()


@few
@given(problems("l2"))
def test_inputs_are_valid_and_classified_as_labelled(problem):
    bounds = problem.model.bounds
    assert problem.x.min() >= bounds.lower
    assert problem.x.max() <= bounds.upper
    assert (margins(problem, problem.x) > 1e-3).all()


@few
@given(problems("l2"))
def test_an_attack_finds_what_is_there_and_nothing_else(problem):
    result = run(FMN(steps=60), problem.model, problem.x, problem.y, norm="l2")
    assert (result.distance >= problem.exact * (1 - 1e-9)).all()
    assert not result.found[np.isinf(problem.exact)].any()


@few
@given(masked_problems("linf"))
def test_a_mask_changes_no_decision(problem):
    assert problem.mask
    assert (margins(problem, problem.x) > 0).all()
    assert repr(problem).endswith(f"mask='{problem.mask}')")


def test_a_counterexample_shrinks_to_what_a_person_can_check():
    far = find(
        problems("linf"),
        lambda p: (
            np.isfinite(p.exact).all() and p.exact.max() > p.model.bounds.width / 2
        ),
        settings=many,
    )
    assert far.x.shape == (1, 1)
    assert far.weights.shape == (1, 2)
    assert np.abs(far.weights).sum() == 1
    assert repr(far).startswith("Problem(weights=[[")
    assert len(repr(far)) < 150


def test_masks_shrink_to_the_simplest_one():
    found = find(masked_problems("l2"), lambda p: len(p.x) >= 2, settings=many)
    assert found.mask == "scaled-up"
    assert found.x.shape == (2, 1)
    assert not found.x.any()


def test_batches_shrink_to_one_value():
    found = find(batches(Bounds(0, 1)), lambda x: x.max() > 0.6, settings=many)
    assert found.tolist() == [[0.625]]


@few
@given(batches((-3, 5), shape=(2, 3), least=2, most=3, dtype=np.float32))
def test_batches_are_as_asked_for(x):
    assert x.shape[1:] == (2, 3)
    assert 2 <= len(x) <= 3
    assert x.dtype == np.float32
    assert x.min() >= -3
    assert x.max() <= 5


def test_threats_shrink_to_an_eighth_of_the_unit_box():
    found = find(threats(), lambda threat: threat.norm == "l1", settings=many)
    assert (found.epsilon, found.bounds, found.targeted) == (0.125, Bounds(), False)
    sparse = find(threats(norms=("l0",)), lambda threat: True, settings=many)
    assert sparse.epsilon == 1.0


def test_unknown_names_are_bad_input():
    with pytest.raises(BadInput, match="did you mean 'one-hot'"):
        find(masked_problems("l2", mask="onehot"), lambda p: True, settings=few)
    with pytest.raises(BadInput, match="unknown norm"):
        find(problems("l3"), lambda p: True, settings=few)


def test_without_hypothesis_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    with pytest.raises(MissingPackage, match=r"robustkit\[test\]"):
        runpy.run_path(strategies.__file__)
