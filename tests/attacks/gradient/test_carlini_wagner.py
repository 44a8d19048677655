import numpy as np
import pytest

from robustkit.attacks.gradient.carlini_wagner import (
    CarliniWagnerL2,
    CarliniWagnerLinf,
)
from robustkit.attacks.gradient.carlini_wagner_l0 import CarliniWagnerL0
from robustkit.engine.criteria import Misclassification, Targeted, TopK
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.models.numpy import NumPyModel
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor

each = pytest.mark.parametrize(
    ("kind", "norm"),
    [(CarliniWagnerL0, "l0"), (CarliniWagnerL2, "l2"), (CarliniWagnerLinf, "linf")],
)


@each
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-3.0, 5.0)])
def test_near_the_only_boundary_there_is(plant, laws, kind, norm, bounds):
    planted = plant(seed=1, classes=2, bounds=bounds)
    targets = 1 - planted.y
    criterion = Targeted(as_tensor(targets))
    ledger = laws.attack(kind(steps=1800), planted, norm, criterion)
    exact, distance = planted.exact(norm, targets), ledger.distance.numpy()
    assert (distance >= exact * (1 - 1e-9)).all()
    assert np.median(distance / exact) <= 1.1
    assert np.isfinite(distance).all()


@each
def test_rescaled_inputs_give_the_rescaled_result(plant, laws, kind, norm):
    planted = plant(seed=4, bounds=(0.0, 1.0))
    laws.any_bounds_and_units(kind(steps=180), planted, norm, rtol=1e-5)


@each
def test_a_sample_does_not_depend_on_the_others(plant, laws, kind, norm):
    laws.any_batch(kind(steps=180), plant(seed=5), norm)


@each
def test_one_forward_and_one_backward_pass_per_step(plant, laws, kind, norm):
    laws.passes(kind(steps=30), plant(seed=6), norm, forwards=30, backwards=30)


@each
def test_serves_other_criteria(plant, laws, kind, norm):
    planted = plant(seed=7, classes=4)
    criterion = TopK(as_tensor(planted.y), k=2)
    ledger = laws.attack(kind(steps=900), planted, norm, criterion)
    logits, found = planted.logits(ledger.best.numpy()), ledger.found.numpy()
    own = logits[np.arange(len(logits)), planted.y]
    assert found.mean() >= 0.9
    assert ((logits > own[:, None]).sum(axis=1) >= 2)[found].all()


def test_l0_ends_where_no_unit_can_be_spared(plant, laws):
    planted = plant(seed=8, classes=2)
    ledger = laws.attack(CarliniWagnerL0(steps=3000), planted, "l0")
    assert (ledger.steps < 3000).all()
    for row, x, y in zip(ledger.best.numpy(), planted.x, planted.y, strict=True):
        for unit in np.flatnonzero(row != x):
            fewer = row.copy()
            fewer[unit] = x[unit]
            assert planted.logits(fewer[None])[0].argmax() == y


@pytest.mark.parametrize("tries", [28, 400])
def test_l0_gives_units_back_once_no_weight_is_larger(plant, laws, tries):
    planted = plant(seed=8, classes=2)
    few = laws.attack(CarliniWagnerL0(steps=500), planted, "l0")
    many = laws.attack(CarliniWagnerL0(steps=500, tries=tries), planted, "l0")
    assert np.array_equal(many.distance.numpy(), few.distance.numpy())


def test_l0_counts_pixels_where_they_count(plant):
    """The first pixel wins by two channels that alone are weak."""
    weight = np.array([[1.0, 0.2, 0.0, 0.6], [1.0, 0.0, 0.6, 0.0]]).reshape(1, 2, 4)

    def logits(x):
        value = (x * weight).sum(axis=(1, 2)) - 1.9
        return np.stack([-value, value], axis=1)

    def gradient(x, slopes):
        return (slopes[:, 1] - slopes[:, 0])[:, None, None] * weight

    model, x = NumPyModel(logits, gradient=gradient), as_tensor(np.zeros((1, 2, 4)))
    criterion = Misclassification(as_tensor(np.array([0])))
    problem = Problem(model, x, criterion, get_norm("l0-pixels"))
    assert run(CarliniWagnerL0(), problem).distance.numpy().tolist() == [1.0]
