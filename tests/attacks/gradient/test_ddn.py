import numpy as np
import pytest
import torch

from robustkit.attacks.gradient.ddn import DDN
from robustkit.engine.criteria import AnyOf, Misclassification, Targeted, TopK
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.errors import BadInput
from robustkit.models.torch import TorchModel
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-3.0, 5.0)])
def test_reaches_the_only_boundary_there_is(plant, laws, bounds):
    planted = plant(seed=1, classes=2, bounds=bounds)
    targets = 1 - planted.y
    ledger = laws.attack(DDN(steps=300), planted, "l2", Targeted(as_tensor(targets)))
    exact, distance = planted.exact("l2", targets), ledger.distance.numpy()
    assert (distance >= exact * (1 - 1e-9)).all()
    assert np.median(distance / exact) <= 1.001
    assert (distance <= exact * 1.01).all()


def test_rescaled_inputs_give_the_rescaled_result(plant, laws):
    laws.any_bounds_and_units(DDN(steps=60), plant(seed=4, bounds=(0.0, 1.0)), "l2")


def test_a_sample_does_not_depend_on_the_others(plant, laws):
    laws.any_batch(DDN(steps=40), plant(seed=5), "l2")


def test_one_forward_and_one_backward_pass_per_step(plant, laws):
    laws.passes(DDN(steps=30), plant(seed=6), "l2", forwards=30, backwards=30)


def test_serves_other_criteria(plant, laws):
    planted = plant(seed=7, classes=4)
    labels = as_tensor(planted.y)
    hard = laws.attack(DDN(steps=300), planted, "l2", TopK(labels, k=2))
    either = AnyOf(TopK(labels, k=2), Misclassification(labels))
    easy = laws.attack(DDN(steps=300), planted, "l2", either)
    logits = planted.logits(hard.best.numpy())
    own = logits[np.arange(len(logits)), planted.y]
    assert ((logits > own[:, None]).sum(axis=1) >= 2).all()
    plain = laws.attack(DDN(steps=300), planted, "l2").distance.numpy()
    assert np.allclose(easy.distance.numpy(), plain, rtol=1e-2)
    assert (hard.distance.numpy() > plain * 0.99).all()
    with pytest.raises(BadInput, match="cross-entropy is not defined"):
        laws.attack(DDN(loss="cross-entropy"), planted, "l2", either)


def test_the_scale_of_the_logits_does_not_decide(plant, laws):
    planted = plant(seed=8, classes=2)
    exact = planted.exact("l2")
    planted.w, planted.b = planted.w * 1000, planted.b * 1000
    distance = laws.attack(DDN(steps=200), planted, "l2").distance.numpy()
    assert np.median(distance / exact) <= 1.005


def test_leaves_a_place_without_gradients():
    def logits(x):
        # Flat around the middle; adversarial from 0.3 on in the first feature.
        rise = (x[:, 0] - 0.7).clamp(min=0) - 0.1
        return torch.stack([rise * 0, rise], dim=1)

    x = torch.full((6, 3), 0.5) + torch.linspace(0, 1e-3, 6)[:, None]
    criterion = Misclassification(as_tensor(torch.zeros(6).long()))
    problem = Problem(TorchModel(logits), as_tensor(x), criterion, get_norm("l2"))
    distance = run(DDN(), problem).distance.numpy()
    assert np.isfinite(distance).all()
    assert (distance <= 0.31).all()


def test_cannot_minimise_other_norms(plant, laws):
    with pytest.raises(BadInput, match="DDN cannot minimise the norm linf"):
        laws.attack(DDN(), plant(), "linf")


@pytest.mark.slow
def test_real_networks_whose_exact_distances_are_known(shared):
    ratios = []
    for net in ("linear", "toy20", "mlp14_std"):
        known = shared.exact(net, "l2")
        model = TorchModel(shared.exact_model(net).double())
        x = as_tensor(torch.tensor(known["x"].astype(np.float64)))
        criterion = Misclassification(as_tensor(torch.tensor(known["y"]).long()))
        ledger = run(DDN(steps=300), Problem(model, x, criterion, get_norm("l2")))
        distance = ledger.distance.numpy()
        assert np.isfinite(distance).all()
        assert (distance >= known["distance"] * (1 - 1e-5)).all()
        ratios.extend(distance / known["distance"])
    assert np.median(ratios) <= 1.02
