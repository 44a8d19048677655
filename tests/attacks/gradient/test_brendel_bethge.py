import numpy as np
import pytest
import torch

from robustkit.attacks.gradient.brendel_bethge import BrendelBethge
from robustkit.engine.criteria import AnyOf, Misclassification, Targeted
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.models.numpy import NumPyModel
from robustkit.models.torch import TorchModel
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor

NORMS = ("l0", "l1", "l2", "linf")
every_norm = pytest.mark.parametrize("norm", NORMS)


def attack(planted, norm, steps=60, criterion=None, rows=slice(None), **options):
    criterion = criterion or Misclassification(as_tensor(planted.y[rows]))
    x = as_tensor(planted.x[rows])
    problem = Problem(planted.model(), x, criterion, get_norm(norm), **options)
    return run(BrendelBethge(steps=steps), problem)


@every_norm
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-3.0, 5.0)])
def test_reaches_the_only_boundary_there_is(plant, norm, bounds):
    planted = plant(seed=1, classes=2, bounds=bounds)
    targets = 1 - planted.y
    ledger = attack(planted, norm, criterion=Targeted(as_tensor(targets)))
    exact, distance = planted.exact(norm, targets), ledger.distance.numpy()
    assert np.isfinite(exact).all()
    assert (distance >= exact * (1 - 1e-9)).all()
    assert (distance <= exact * (1 + 1e-4)).all()


@every_norm
def test_the_nearest_of_several_boundaries(plant, norm):
    planted = plant(seed=2, samples=40, classes=3)
    exact, distance = planted.exact(norm), attack(planted, norm, 100).distance.numpy()
    assert np.isfinite(exact).all()
    assert (distance >= exact * (1 - 1e-9)).all()
    assert np.median(distance / exact) <= 1.0001
    assert (distance <= 1.001 * exact).mean() > 0.8


@every_norm
def test_nothing_is_found_where_the_box_ends_before_the_boundary(plant, norm):
    planted = plant(seed=3, classes=2)
    planted.b = planted.b + np.where(np.arange(2) == planted.y[0], 100.0, 0.0)
    planted.y[:] = planted.y[0]
    assert np.isinf(planted.exact(norm)).all()
    assert not attack(planted, norm, steps=20).found.numpy().any()


@every_norm
def test_rescaled_inputs_give_the_rescaled_result(plant, norm):
    planted = plant(seed=4, bounds=(0.0, 1.0))
    scale, shift = 255.0, -20.0
    moved = NumPyModel(
        lambda x: planted.logits((x - shift) / scale),
        Bounds(shift, shift + scale),
        gradient=lambda x, slopes: planted.gradient(x, slopes) / scale,
    )
    x = as_tensor(planted.x * scale + shift)
    criterion = Misclassification(as_tensor(planted.y))
    problem = Problem(moved, x, criterion, get_norm(norm))
    found = run(BrendelBethge(steps=60), problem).distance.numpy()
    expected = attack(planted, norm).distance.numpy()
    # Noise differs with the inputs, so a few samples may end in another valley.
    expected = expected * (1.0 if norm == "l0" else scale)
    assert np.isclose(found, expected, rtol=1e-3).sum() >= 10


@every_norm
def test_a_sample_alone_fares_as_in_a_batch(plant, norm):
    planted = plant(seed=5, samples=6)
    together = attack(planted, norm).distance.numpy()
    for rows in (slice(0, 1), slice(1, 6)):
        apart = attack(planted, norm, rows=rows).distance.numpy()
        assert np.allclose(apart, together[rows], rtol=1e-9)


def test_one_forward_and_one_backward_per_step(plant):
    planted = plant(seed=6, samples=4)
    ledger = attack(planted, "l2", steps=15)
    search = ledger.decisions
    assert (ledger.forwards == search + 15 + 1).all()
    assert (ledger.backwards == 15).all()


def test_a_budget_is_kept_and_mostly_used(plant):
    planted = plant(seed=7, samples=10)
    x, criterion = as_tensor(planted.x), Misclassification(as_tensor(planted.y))
    for budget in (10, 30, 100):
        problem = Problem(planted.model(), x, criterion, get_norm("linf"))
        planned = BrendelBethge().within(budget)
        assert (run(planned, problem).backwards <= budget).all()
        assert 0.7 * budget <= planned.steps < budget


@pytest.mark.parametrize("norm", ["l0", "l1", "l2", "linf"])
@pytest.mark.parametrize("budget", [2, 10, 30])
def test_few_questions_are_not_spent_on_a_start(plant, norm, budget):
    planted = plant(seed=8, classes=2)
    x, criterion = as_tensor(planted.x), Misclassification(as_tensor(planted.y))
    problem = Problem(planted.model(), x, criterion, get_norm(norm))
    ledger = run(BrendelBethge().within(budget), problem)
    assert (ledger.forwards <= budget).all()
    exact = planted.exact(norm)
    assert np.median(ledger.distance.numpy() / exact) <= (2.0 if norm == "l0" else 1.2)


def test_a_walk_that_gains_nothing_more_ends(plant):
    planted = plant(seed=8, classes=2)
    steps = attack(planted, "l2", steps=400).steps
    # The last walk has 140 steps.
    assert (steps >= 260).all()
    assert (steps < 360).all()


def test_several_starts_find_the_nearer_of_two_valleys():
    # Adversarial below 0.35 and above 0.9, where the one given start lies.
    def logits(x):
        high = np.maximum(0.35 - x[:, 0], x[:, 0] - 0.9)
        return np.stack([np.zeros_like(high), high], axis=1)

    def gradient(x, slopes):
        slope = np.where(x[:, 0] < 0.625, -1.0, 1.0)
        return np.stack([slopes[:, 1] * slope, 0 * slope], axis=1)

    def distance(walks):
        problem = Problem(
            NumPyModel(logits, gradient=gradient),
            as_tensor(np.array([[0.5, 0.5]])),
            Misclassification(as_tensor(np.array([0]))),
            get_norm("l2"),
            starts=as_tensor(np.array([[1.0, 0.5]])),
        )
        return run(BrendelBethge(steps=40, walks=walks), problem).distance.item()

    assert distance(1) == pytest.approx(0.4, rel=1e-3)
    assert distance(3) == pytest.approx(0.15, rel=1e-3)


def test_other_criteria(plant):
    planted = plant(seed=9, classes=4, samples=8)
    labels = as_tensor(planted.y)
    others = [as_tensor((planted.y + k) % 4) for k in (1, 2)]
    either = AnyOf(*(Targeted(other) for other in others))
    found = attack(planted, "l2", criterion=either).distance.numpy()
    single = [
        attack(planted, "l2", criterion=Targeted(o)).distance.numpy() for o in others
    ]
    untargeted = attack(planted, "l2", criterion=Misclassification(labels))
    assert (found <= np.minimum(*single) * 1.2).all()
    assert np.median(found / np.minimum(*single)) <= 1.001
    assert np.median(untargeted.distance.numpy() / found) <= 1.001


@pytest.mark.slow
@every_norm
def test_real_networks_whose_exact_distances_are_known(shared, norm):
    ratios = []
    for net in ("linear",) if norm == "l0" else ("linear", "toy20", "mlp14_std"):
        known = shared.exact(net, norm)
        model = TorchModel(shared.exact_model(net).double())
        x = as_tensor(torch.tensor(known["x"].astype(np.float64)[:24]))
        criterion = Misclassification(as_tensor(torch.tensor(known["y"]).long()[:24]))
        ledger = run(BrendelBethge(), Problem(model, x, criterion, get_norm(norm)))
        distance, exact = ledger.distance.numpy(), known["distance"][:24]
        assert np.isfinite(distance).all()
        assert (distance >= exact * (1 - 1e-5)).all()
        ratios.extend(distance / exact)
    # Rounding, which differs between processors, may end a walk in L1 elsewhere:
    # medians of 1.001 and 1.004 were seen.
    assert np.median(ratios) <= {"l0": 1.0, "l1": 1.006}.get(norm, 1.002)
    assert np.mean(ratios) <= (1.25 if norm == "l0" else 1.05)
