import numpy as np
import pytest
import torch

from robustkit.attacks.gradient.deepfool import DeepFool
from robustkit.attacks.gradient.super_deepfool import SuperDeepFool
from robustkit.engine.criteria import Misclassification, Targeted, TopK
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.models.torch import TorchModel
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor

NORMS = ("l2", "linf")
norms = pytest.mark.parametrize("norm", NORMS)


@norms
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-3.0, 5.0)])
def test_reaches_the_only_boundary_there_is(plant, laws, norm, bounds):
    planted = plant(seed=1, classes=2, bounds=bounds)
    targets = 1 - planted.y
    criterion = Targeted(as_tensor(targets))
    ledger = laws.attack(SuperDeepFool(), planted, norm, criterion)
    exact, distance = planted.exact(norm, targets), ledger.distance.numpy()
    assert (distance >= exact * (1 - 1e-9)).all()
    assert (distance <= exact * 1.02).all()
    assert np.median(ledger.forwards) <= 10


@pytest.mark.parametrize("radius", [0.2, 0.35])
def test_stands_upright_on_a_round_boundary(radius):
    centre = torch.tensor([0.9, 0.6, 0.5])

    def logits(x):
        outside = ((x - centre).square().sum(dim=1) - radius**2) * 10
        return torch.stack([outside, outside * 0], dim=1)

    x = torch.tensor([[0.1, 0.3, 0.5], [0.2, 0.9, 0.1]], dtype=torch.float64)
    criterion = Misclassification(as_tensor(torch.zeros(2).long()))
    exact = (x - centre).norm(dim=1).numpy() - radius

    def distance(attack):
        problem = Problem(TorchModel(logits), as_tensor(x), criterion, get_norm("l2"))
        return run(attack, problem).distance.numpy()

    turned = distance(SuperDeepFool(overshoot=1e-4))
    assert (turned >= exact).all()
    assert (turned <= 1.003 * exact).all()


@norms
def test_rescaled_inputs_give_the_rescaled_result(plant, laws, norm):
    planted = plant(seed=4, bounds=(0.0, 1.0))
    laws.any_bounds_and_units(SuperDeepFool(), planted, norm)


@norms
def test_a_sample_does_not_depend_on_the_others(plant, laws, norm):
    laws.any_batch(SuperDeepFool(), plant(seed=5), norm)


@norms
def test_one_backward_pass_per_way(plant, laws, norm):
    attack = SuperDeepFool(steps=4, tolerance=-1.0, ways=2)
    laws.passes(attack, plant(seed=6, classes=4), norm, forwards=5, backwards=8)
    ledger = laws.attack(SuperDeepFool(), plant(seed=6, classes=4), norm)
    assert (ledger.forwards < 51).any()
    assert SuperDeepFool().within(7).steps == 6


@norms
def test_serves_other_criteria(plant, laws, norm):
    planted = plant(seed=7, classes=4)
    ledger = laws.attack(
        SuperDeepFool(), planted, norm, TopK(as_tensor(planted.y), k=2)
    )
    logits = planted.logits(ledger.best.numpy())
    own = logits[np.arange(len(logits)), planted.y]
    assert ((logits > own[:, None]).sum(axis=1) >= 2).all()


@pytest.mark.slow
@norms
def test_real_networks_whose_exact_distances_are_known(shared, norm):
    ratios, plain = [], []
    for net in ("linear", "toy20", "mlp14_std"):
        known = shared.exact(net, norm)
        model = TorchModel(shared.exact_model(net).double())
        x = as_tensor(torch.tensor(known["x"].astype(np.float64)))
        criterion = Misclassification(as_tensor(torch.tensor(known["y"]).long()))

        def distance(attack, model=model, x=x, criterion=criterion):
            problem = Problem(model, x, criterion, get_norm(norm))
            return run(attack, problem).distance.numpy()

        found = distance(SuperDeepFool())
        assert np.isfinite(found).all()
        assert (found >= known["distance"] * (1 - 1e-5)).all()
        ratios.extend(found / known["distance"])
        plain.extend(distance(DeepFool()) / known["distance"])
    assert np.median(ratios) <= 1.03
    assert np.mean(ratios) < np.mean(plain)
