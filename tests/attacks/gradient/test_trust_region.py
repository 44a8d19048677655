import numpy as np
import pytest
import torch

from robustkit.attacks.gradient.trust_region import TrustRegion
from robustkit.engine.criteria import Misclassification, TopK
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.models.torch import TorchModel
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor

NORMS = ("l2", "linf")
norms = pytest.mark.parametrize("norm", NORMS)


@norms
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-3.0, 5.0)])
def test_reaches_the_boundary_of_a_linear_model(plant, laws, norm, bounds):
    planted = plant(seed=1, samples=40, classes=2, bounds=bounds)
    ledger = laws.attack(TrustRegion(), planted, norm)
    exact, distance = planted.exact(norm), ledger.distance.numpy()
    assert np.isfinite(exact).all()
    assert (distance >= exact * (1 - 1e-9)).all()
    assert np.median(distance / exact) <= 1.02
    assert (distance <= 1.2 * exact).all()


@norms
def test_goes_round_a_bend_where_one_long_step_overshoots(norm):
    def logits(x):
        # The slope is small at first and then steep.
        rise = 20 * (x - 0.2).clamp(min=0).square().sum(dim=1) + 0.2 * x.sum(dim=1)
        return torch.stack([rise * 0 + 1, rise], dim=1)

    x = torch.tensor([[0.1, 0.15, 0.2]], dtype=torch.float64)
    criterion = Misclassification(as_tensor(torch.zeros(1).long()))

    def distance(radius):
        problem = Problem(TorchModel(logits), as_tensor(x), criterion, get_norm(norm))
        return run(TrustRegion(radius=radius), problem).distance.numpy()[0]

    assert distance(0.05) < 0.7 * distance(1.0)


@norms
def test_rescaled_inputs_give_the_rescaled_result(plant, laws, norm):
    laws.any_bounds_and_units(TrustRegion(), plant(seed=4, bounds=(0.0, 1.0)), norm)


@norms
def test_a_sample_does_not_depend_on_the_others(plant, laws, norm):
    laws.any_batch(TrustRegion(), plant(seed=5), norm)


@norms
def test_one_forward_and_one_backward_pass_per_step(plant, laws, norm):
    planted = plant(seed=6, classes=4)
    attack = TrustRegion(steps=3, ways=2, radius=1e-3)
    laws.passes(attack, planted, norm, forwards=5, backwards=5)
    ledger = laws.attack(TrustRegion(radius=0.3), planted, norm)
    assert (ledger.forwards < 30).all()
    assert attack.within(12).steps == 10


@norms
def test_serves_other_criteria(plant, laws, norm):
    planted = plant(seed=7, classes=4)
    criterion = TopK(as_tensor(planted.y), k=2)
    ledger = laws.attack(TrustRegion(), planted, norm, criterion)
    logits = planted.logits(ledger.best.numpy())
    own = logits[np.arange(len(logits)), planted.y]
    assert ((logits > own[:, None]).sum(axis=1) >= 2).all()


@norms
def test_a_tie_is_left_behind(plant, laws, norm):
    planted = plant(seed=5, samples=1, classes=2)
    gap = np.diff(planted.logits(planted.x)[0])[0]
    planted.b = planted.b - np.array([0.0, gap])
    planted.y = np.array([0])
    ledger = laws.attack(TrustRegion(), planted, norm)
    assert ledger.distance.numpy()[0] <= 1e-3


@pytest.mark.slow
@norms
def test_real_networks_whose_exact_distances_are_known(shared, norm):
    known = shared.exact("toy20", norm)
    model = TorchModel(shared.exact_model("toy20").double())
    x = as_tensor(torch.tensor(known["x"].astype(np.float64)))
    criterion = Misclassification(as_tensor(torch.tensor(known["y"]).long()))
    ledger = run(TrustRegion(), Problem(model, x, criterion, get_norm(norm)))
    ratio = ledger.distance.numpy() / known["distance"]
    assert (ratio >= 1 - 1e-5).all()
    assert np.median(ratio) <= 1.15
