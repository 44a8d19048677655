import numpy as np
import pytest

from robustkit.attacks.gradient.carlini_wagner import (
    CarliniWagnerL2,
    CarliniWagnerLinf,
)
from robustkit.engine.criteria import Targeted, TopK
from robustkit.numerics.tensors import as_tensor

both = pytest.mark.parametrize(
    ("kind", "norm"), [(CarliniWagnerL2, "l2"), (CarliniWagnerLinf, "linf")]
)


@both
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


@both
def test_rescaled_inputs_give_the_rescaled_result(plant, laws, kind, norm):
    planted = plant(seed=4, bounds=(0.0, 1.0))
    laws.any_bounds_and_units(kind(steps=180), planted, norm, rtol=1e-5)


@both
def test_a_sample_does_not_depend_on_the_others(plant, laws, kind, norm):
    laws.any_batch(kind(steps=180), plant(seed=5), norm)


@both
def test_one_forward_and_one_backward_pass_per_step(plant, laws, kind, norm):
    laws.passes(kind(steps=30), plant(seed=6), norm, forwards=30, backwards=30)


@both
def test_serves_other_criteria(plant, laws, kind, norm):
    planted = plant(seed=7, classes=4)
    criterion = TopK(as_tensor(planted.y), k=2)
    ledger = laws.attack(kind(steps=900), planted, norm, criterion)
    logits, found = planted.logits(ledger.best.numpy()), ledger.found.numpy()
    own = logits[np.arange(len(logits)), planted.y]
    assert found.mean() >= 0.9
    assert ((logits > own[:, None]).sum(axis=1) >= 2)[found].all()
