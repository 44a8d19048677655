import numpy as np
import pytest
import torch

from robustkit.attacks.gradient.deepfool import DeepFool
from robustkit.engine.criteria import AnyOf, Misclassification, Targeted, TopK
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.models.torch import TorchModel
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor

NORMS = ("l2", "linf")
norms = pytest.mark.parametrize("norm", NORMS)


@norms
def test_steps_exactly_across_the_nearest_boundary(plant, laws, norm):
    planted = plant(seed=1, classes=4, samples=40)
    # So wide a box that nothing is clipped.
    planted.lower, planted.upper = -50.0, 50.0
    ledger = laws.attack(DeepFool(overshoot=1e-3), planted, norm)
    # One step, and what a tie needs: a ten-thousandth of the box.
    exact, distance = planted.exact(norm), ledger.distance.numpy()
    assert (distance >= exact).all()
    assert (distance <= 1.001 * (exact + 0.01) * (1 + 1e-9)).all()
    assert (ledger.forwards == 2).all()


@norms
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-3.0, 5.0)])
def test_always_crosses_where_features_stand_at_bounds(plant, laws, norm, bounds):
    planted = plant(seed=2, samples=40, bounds=bounds)
    exact = planted.exact(norm)
    distance = laws.attack(DeepFool(), planted, norm).distance.numpy()
    assert np.isfinite(exact).all()
    assert np.isfinite(distance).all()
    assert (distance >= exact * (1 - 1e-9)).all()
    assert np.median(distance / exact) <= 1.05


@norms
def test_leaves_a_tie_behind(plant, laws, norm):
    planted = plant(seed=5, samples=1, classes=2)
    gap = np.diff(planted.logits(planted.x)[0])[0]
    planted.b = planted.b - np.array([0.0, gap])
    planted.y = np.array([0])
    ledger = laws.attack(DeepFool(), planted, norm)
    assert ledger.found.numpy().all()
    assert ledger.distance.numpy()[0] <= 1e-3


@norms
def test_more_ways_find_nearer_boundaries(plant, laws, norm):
    planted = plant(seed=3, samples=40, classes=8)
    # The likeliest class has a boundary far away: its score hardly changes.
    planted.w[:, ::2] *= 0.1
    few, many = (
        laws.attack(DeepFool(ways=ways), planted, norm).distance.numpy()
        for ways in (1, 7)
    )
    assert (many <= few * 1.02).mean() > 0.9
    assert many.mean() < few.mean()


@norms
def test_rescaled_inputs_give_the_rescaled_result(plant, laws, norm):
    laws.any_bounds_and_units(DeepFool(), plant(seed=4, bounds=(0.0, 1.0)), norm)


@norms
def test_a_sample_does_not_depend_on_the_others(plant, laws, norm):
    laws.any_batch(DeepFool(), plant(seed=5), norm)


@norms
def test_one_backward_pass_per_open_way_and_no_step_after_success(plant, laws, norm):
    planted = plant(seed=6, classes=5)
    ledger = laws.attack(DeepFool(ways=9), planted, norm)
    assert (ledger.backwards == 4 * ledger.forwards).all()
    assert (ledger.forwards < 20).all()
    laws.passes(DeepFool(steps=1, ways=2), planted, norm, forwards=2, backwards=2)


@norms
def test_serves_other_criteria(plant, laws, norm):
    planted = plant(seed=7, classes=4)
    labels = as_tensor(planted.y)
    ledger = laws.attack(DeepFool(), planted, norm, TopK(labels, k=2))
    logits = planted.logits(ledger.best.numpy())
    own = logits[np.arange(len(logits)), planted.y]
    assert ((logits > own[:, None]).sum(axis=1) >= 2).all()
    either = AnyOf(Targeted((labels + 1) % 4), Targeted((labels + 2) % 4))
    ledger = laws.attack(DeepFool(), planted, norm, either)
    reached = (planted.logits(ledger.best.numpy()).argmax(axis=1) - planted.y) % 4
    assert ledger.found.numpy().all()
    assert set(reached) == {1, 2}


@norms
def test_gives_up_quietly_where_there_is_no_gradient(norm):
    model = TorchModel(lambda x: torch.stack([x.sum(1) * 0 + 1, x.sum(1) * 0], dim=1))
    criterion = Misclassification(as_tensor(torch.zeros(3).long()))
    problem = Problem(model, as_tensor(torch.rand(3, 4)), criterion, get_norm(norm))
    ledger = run(DeepFool(steps=5), problem)
    assert not ledger.found.numpy().any()
    assert np.array_equal(ledger.forwards, [6, 6, 6])


def test_is_planned_for_a_budget(plant, laws):
    planted = plant(seed=8, classes=2)
    assert DeepFool().within(7).steps == 6
    assert laws.attack(DeepFool().within(2), planted, "l2").forwards.max() <= 2
