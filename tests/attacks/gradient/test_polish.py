import numpy as np
import pytest
import torch

from robustkit.attacks.gradient.fmn import FMN
from robustkit.attacks.gradient.polish import Polish
from robustkit.attacks.gradient.relay import Relay
from robustkit.combine import Cascade
from robustkit.engine.criteria import Misclassification, Targeted
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.models.numpy import NumPyModel
from robustkit.models.torch import TorchModel
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor

NORMS = ("l1", "l2", "linf")


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-3.0, 5.0)])
def test_two_questions_are_enough_for_a_linear_model(plant, laws, norm, bounds):
    planted = plant(seed=1, classes=2, bounds=bounds)
    targets = 1 - planted.y
    ledger = laws.attack(Polish(steps=2), planted, norm, Targeted(as_tensor(targets)))
    exact, distance = planted.exact(norm, targets), ledger.distance.numpy()
    assert (distance >= exact * (1 - 1e-9)).all()
    assert (distance <= exact * (1 + 1e-5)).all()


@pytest.mark.parametrize("norm", NORMS)
def test_rounding_keeps_nothing_from_being_found(norm):
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(784, 2)).astype(np.float32)
    x = rng.random((200, 784), np.float32)
    y = (x @ weights).argmax(axis=1)
    model = NumPyModel(lambda x: x @ weights, gradient=lambda x, s: s @ weights.T)
    criterion = Misclassification(as_tensor(y))
    p = Problem(model, as_tensor(x), criterion, get_norm(norm))
    ledger = run(Polish(steps=10), p)
    assert ledger.distance.dtype == np.float32
    assert ledger.found.numpy().all()


@pytest.mark.parametrize("norm", NORMS)
def test_never_loses_what_was_known(plant, laws, norm):
    planted = plant(seed=2, samples=40, classes=4)
    rough = FMN(steps=20)
    before = laws.attack(rough, planted, norm).distance.numpy()
    after = laws.attack(
        Cascade((rough, Polish(steps=10))), planted, norm
    ).distance.numpy()
    assert (after <= before).all()
    assert np.median(after / before) < 1


def test_one_forward_and_one_backward_pass_per_step(plant, laws):
    laws.passes(Polish(steps=9), plant(seed=3), "l2", forwards=9, backwards=9)


@pytest.mark.parametrize("norm", NORMS)
def test_neighbours_and_units_change_nothing(plant, laws, norm):
    laws.any_batch(Polish(), plant(seed=4), norm)
    laws.any_bounds_and_units(Polish(), plant(seed=4, bounds=(0.0, 1.0)), norm)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("net", "norm", "median", "high"),
    [
        ("linear", "l1", 1.002, 1.02),
        # Only by searches for starts: the data's own strong PGD stands at 1.04 here.
        ("toy20", "linf", 1.0005, 1.01),
        ("toy20", "l1", 1.002, 1.02),
        ("mlp14_std", "linf", 1.0005, 1.01),
        ("mlp14_std", "l2", 1.0005, 1.01),
    ],
)
def test_ends_at_the_exact_distance(shared, net, norm, median, high):
    known = shared.exact(net, norm)
    model = TorchModel(shared.exact_model(net).double())
    x = as_tensor(torch.tensor(known["x"].astype(np.float64)))
    criterion = Misclassification(as_tensor(torch.tensor(known["y"]).long()))
    attack = Cascade((Relay(steps=959), Polish(steps=40)))
    ledger = run(attack, Problem(model, x, criterion, get_norm(norm)))
    ratio = ledger.distance.numpy() / known["distance"]
    assert ratio.min() >= 1 - 1e-5
    assert np.median(ratio) <= median
    assert np.quantile(ratio, 0.95) <= high
