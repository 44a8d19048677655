import numpy as np
import pytest

from robustkit.attacks.gradient.ead import EAD
from robustkit.engine.criteria import Targeted, TopK
from robustkit.numerics.tensors import as_tensor


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-3.0, 5.0)])
def test_near_the_only_boundary_there_is(plant, laws, bounds):
    planted = plant(seed=1, classes=2, bounds=bounds)
    targets = 1 - planted.y
    criterion = Targeted(as_tensor(targets))
    ledger = laws.attack(EAD(steps=900), planted, "l1", criterion)
    exact, distance = planted.exact("l1", targets), ledger.distance.numpy()
    assert (distance >= exact * (1 - 1e-9)).all()
    assert np.median(distance / exact) <= 1.1
    assert np.isfinite(distance).all()


def test_rescaled_inputs_give_the_rescaled_result(plant, laws):
    planted = plant(seed=4, bounds=(0.0, 1.0))
    laws.any_bounds_and_units(EAD(steps=180), planted, "l1")


def test_a_sample_does_not_depend_on_the_others(plant, laws):
    laws.any_batch(EAD(steps=180), plant(seed=5), "l1")


def test_one_forward_and_one_backward_pass_per_step(plant, laws):
    laws.passes(EAD(steps=30), plant(seed=6), "l1", forwards=30, backwards=30)


def test_serves_other_criteria(plant, laws):
    planted = plant(seed=7, classes=4)
    ledger = laws.attack(EAD(), planted, "l1", TopK(as_tensor(planted.y), k=2))
    logits = planted.logits(ledger.best.numpy())
    own = logits[np.arange(len(logits)), planted.y]
    assert ((logits > own[:, None]).sum(axis=1) >= 2).all()
