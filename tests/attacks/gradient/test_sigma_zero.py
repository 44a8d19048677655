import numpy as np
import pytest
import torch

from robustkit.attacks.gradient.sigma_zero import SigmaZero
from robustkit.engine.criteria import Misclassification, Targeted, TopK
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.models.numpy import NumPyModel
from robustkit.models.torch import TorchModel
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-3.0, 5.0)])
def test_reaches_the_only_boundary_there_is(plant, laws, bounds):
    planted = plant(seed=1, classes=2, bounds=bounds)
    targets = 1 - planted.y
    criterion = Targeted(as_tensor(targets))
    ledger = laws.attack(SigmaZero(steps=300), planted, "l0", criterion)
    exact, distance = planted.exact("l0", targets), ledger.distance.numpy()
    assert (distance >= exact).all()
    assert np.mean(distance == exact) >= 0.9
    assert (distance <= exact + 1).all()


def test_rescaled_inputs_give_the_rescaled_result(plant, laws):
    planted = plant(seed=4, bounds=(0.0, 1.0))
    laws.any_bounds_and_units(SigmaZero(), planted, "l0")


def test_a_sample_does_not_depend_on_the_others(plant, laws):
    laws.any_batch(SigmaZero(), plant(seed=5), "l0")


def test_one_forward_and_one_backward_pass_per_step(plant, laws):
    laws.passes(SigmaZero(steps=30), plant(seed=6), "l0", forwards=30, backwards=30)


def test_serves_other_criteria(plant, laws):
    planted = plant(seed=7, classes=4)
    ledger = laws.attack(SigmaZero(), planted, "l0", TopK(as_tensor(planted.y), k=2))
    logits = planted.logits(ledger.best.numpy())
    own = logits[np.arange(len(logits)), planted.y]
    assert ((logits > own[:, None]).sum(axis=1) >= 2).all()


def test_counts_pixels_where_they_count(plant):
    """Two channels of one pixel suffice; single features need as many pixels."""
    features = np.array([[1.0, 0.2, 0.0, 0.6], [1.0, 0.0, 0.6, 0.0]])
    weight = features.reshape(1, 2, 4)

    def logits(x):
        value = (x * weight).sum(axis=(1, 2)) - 1.9
        return np.stack([-value, value], axis=1)

    def gradient(x, slopes):
        return (slopes[:, 1] - slopes[:, 0])[:, None, None] * weight

    model, x = NumPyModel(logits, gradient=gradient), as_tensor(np.zeros((1, 2, 4)))
    criterion = Misclassification(as_tensor(np.array([0])))
    distance = [
        run(SigmaZero(), Problem(model, x, criterion, get_norm(norm))).distance.item()
        for norm in ("l0-pixels", "l0")
    ]
    assert distance == [1.0, 2.0]


@pytest.mark.slow
def test_a_real_network_whose_exact_distances_are_known(shared):
    known = shared.exact("linear", "l0")
    model = TorchModel(shared.exact_model("linear").double())
    x = as_tensor(torch.tensor(known["x"].astype(np.float64)))
    criterion = Misclassification(as_tensor(torch.tensor(known["y"]).long()))
    problem = Problem(model, x, criterion, get_norm("l0"))
    distance = run(SigmaZero(steps=300), problem).distance.numpy()
    assert (distance >= known["distance"]).all()
    assert np.median(distance - known["distance"]) <= 1
