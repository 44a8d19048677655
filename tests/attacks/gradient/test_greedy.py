import numpy as np
import pytest
import torch

import robustkit as rk
from robustkit.attacks.gradient import greedy
from robustkit.attacks.gradient.greedy import Greedy
from robustkit.attacks.gradient.relay import Relay
from robustkit.combine import Cascade
from robustkit.engine.criteria import Misclassification, Targeted
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.models.torch import TorchModel
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-3.0, 5.0)])
def test_exact_where_the_model_is_linear(plant, laws, bounds):
    planted = plant(seed=1, classes=2, bounds=bounds)
    targets = 1 - planted.y
    ledger = laws.attack(Greedy(), planted, "l0", Targeted(as_tensor(targets)))
    assert (ledger.distance.numpy() == planted.exact("l0", targets)).all()


def test_from_the_original_it_starts_with_as_many_as_a_line_needs():
    # One step more per feature would not come near in so few.
    model = torch.nn.Linear(200, 2).eval()
    with torch.no_grad():
        model.weight.copy_(torch.stack([torch.zeros(200), torch.full((200,), 0.1)]))
        model.bias.copy_(torch.tensor([0.0, -9.95]))
    x, y = torch.zeros(1, 200), torch.tensor([0])
    assert rk.run(Greedy(steps=3), model, x, y, norm="l0").distance.item() == 100


class Cone(torch.nn.Module):
    """Class 1 beyond sixteen planes, whose normals have one part in common."""

    def __init__(self):
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        common, own = (
            torch.rand(100, generator=draw),
            torch.randn(16, 100, generator=draw),
        )
        self.planes = common + own / 2

    def forward(self, x):
        score = (x @ self.planes.T).amin(dim=1) - 16
        return torch.stack([torch.zeros_like(score), score], dim=1)


def test_an_average_serves_all_planes_of_a_corner(monkeypatch):
    x = 0.1 * torch.rand(20, 100, generator=torch.Generator().manual_seed(1))
    y = torch.zeros(20, dtype=torch.long)

    def mean():
        attack = Greedy(steps=15)
        return rk.run(attack, Cone().eval(), x, y, norm="l0").distance.mean().item()

    averaged = mean()
    monkeypatch.setattr(greedy, "_MOMENTUM", 0.0)
    assert averaged < 0.9 * mean()


def test_one_forward_and_one_backward_pass_per_step(plant, laws):
    laws.passes(Greedy(steps=9), plant(seed=2), "l0", forwards=9, backwards=9)


def test_neighbours_and_units_change_nothing(plant, laws):
    laws.any_batch(Greedy(), plant(seed=3), "l0")
    laws.any_bounds_and_units(Greedy(), plant(seed=3, bounds=(0.0, 1.0)), "l0")


def test_never_loses_what_was_known(plant, laws):
    planted = plant(seed=4, samples=40, features=30, classes=4)
    before = laws.attack(Relay(steps=40), planted, "l0").distance.numpy()
    both = Cascade((Relay(steps=40), Greedy(steps=20)))
    after = laws.attack(both, planted, "l0").distance.numpy()
    assert (after <= before).all()


@pytest.mark.slow
def test_real_linear_network_whose_exact_distances_are_known(shared):
    known = shared.exact("linear", "l0")
    model = TorchModel(shared.exact_model("linear").double())
    x = as_tensor(torch.tensor(known["x"].astype(np.float64)))
    criterion = Misclassification(as_tensor(torch.tensor(known["y"]).long()))
    attack = Cascade((Relay(steps=749), Greedy(steps=250)))
    ledger = run(attack, Problem(model, x, criterion, get_norm("l0")))
    more = ledger.distance.numpy() - known["distance"]
    assert more.min() >= 0
    assert np.quantile(more, 0.95) == 0
