import numpy as np
import pytest
import torch

from robustkit.attacks.gradient.pgd import PGD
from robustkit.combine import Minimise, minimum_norm_pgd
from robustkit.engine.criteria import Misclassification, Targeted
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.errors import BadInput
from robustkit.models.torch import TorchModel
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor, take

NORMS = ("l1", "l2", "linf")


def attack(planted, norm, rows=slice(None), criterion=None, budget=300, **settings):
    chosen = Minimise(PGD(epsilon=1.0, steps=20, **settings)).within(budget)
    criterion = criterion or Misclassification(as_tensor(planted.y[rows]))
    x = as_tensor(planted.x[rows])
    problem = Problem(planted.model(), x, criterion, get_norm(norm))
    return run(chosen, problem, budget=budget)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("random_start", [False, True])
def test_reaches_the_only_boundary_there_is(plant, norm, random_start):
    planted = plant(seed=1, classes=2)
    targets = 1 - planted.y
    exact = planted.exact(norm, targets)
    ledger = attack(
        planted, norm, criterion=Targeted(as_tensor(targets)), random_start=random_start
    )
    distance = ledger.distance.numpy()
    assert (distance >= exact * (1 - 1e-9)).all()
    assert (distance <= exact * (1.05 if random_start else 1.01)).all()


@pytest.mark.parametrize("norm", NORMS)
def test_near_the_nearest_of_several_boundaries(plant, norm):
    planted = plant(seed=2, samples=40)
    exact, distance = planted.exact(norm), attack(planted, norm).distance.numpy()
    assert (distance >= exact * (1 - 1e-9)).all()
    assert np.median(distance / exact) <= 1.001
    assert (distance <= 2.5 * exact).all()


@pytest.mark.parametrize("norm", NORMS)
def test_a_sample_does_not_depend_on_its_company(plant, norm):
    planted = plant(seed=3)
    whole = attack(planted, norm, budget=60, random_start=True)
    for rows in (np.arange(5), np.arange(12)[::-1], np.array([7])):
        part = attack(planted, norm, rows, budget=60, random_start=True)
        assert np.array_equal(part.distance.numpy(), take(whole.distance, rows).numpy())
        assert np.array_equal(part.forwards, whole.forwards[rows])


def test_rounds_that_succeed_end_at_once(plant):
    # 39 steps are one whole round; its radius alone would be 5 % too large.
    planted = plant(seed=4, classes=2)
    chosen = Minimise(PGD(epsilon=1.0, steps=20), steps=39)
    criterion = Misclassification(as_tensor(planted.y))
    problem = Problem(
        planted.model(), as_tensor(planted.x), criterion, get_norm("linf")
    )
    distance = run(chosen, problem).distance.numpy()
    assert np.median(distance / planted.exact("linf")) <= 1.03


def test_nothing_is_found_where_there_is_nothing(plant):
    planted = plant(seed=5, classes=2)
    planted.b = planted.b + np.where(np.arange(2) == planted.y[0], 100.0, 0.0)
    planted.y[:] = planted.y[0]
    ledger = attack(planted, "l2", budget=100)
    assert not ledger.found.numpy().any()
    assert (ledger.forwards == 100).all()
    assert (ledger.backwards == 100).all()


def test_plans_rounds_within_a_budget():
    plan = minimum_norm_pgd().within(1000)
    assert (plan.steps, plan.attack.steps) == (999, 20)
    plan = minimum_norm_pgd().within(31)
    assert (plan.steps, plan.attack.steps) == (30, 6)
    plan = minimum_norm_pgd().within(1)
    assert (plan.steps, plan.attack.steps) == (1, 1)


def test_is_what_the_inner_attack_is(plant):
    combined = minimum_norm_pgd()
    assert combined.norms == PGD.norms
    assert combined.access == PGD.access
    problem = Problem(
        plant().model(),
        as_tensor(plant().x),
        Misclassification(as_tensor(plant().y)),
        get_norm("l0"),
    )
    with pytest.raises(BadInput, match="cannot minimise the norm l0"):
        run(combined, problem)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("norm", "excess"), [("linf", 1.02), ("l2", 1.02), ("l1", 1.05)]
)
def test_real_networks_whose_exact_distances_are_known(shared, norm, excess):
    ratios = []
    for net in ("linear", "toy20", "mlp14_std"):
        known = shared.exact(net, norm)
        model = TorchModel(shared.exact_model(net).double())
        x = as_tensor(torch.tensor(known["x"].astype(np.float64)))
        criterion = Misclassification(as_tensor(torch.tensor(known["y"]).long()))
        problem = Problem(model, x, criterion, get_norm(norm))
        distance = run(minimum_norm_pgd().within(300), problem).distance.numpy()
        assert np.isfinite(distance).all()
        assert (distance >= known["distance"] * (1 - 1e-5)).all()
        ratios.extend(distance / known["distance"])
    assert np.median(ratios) <= excess
