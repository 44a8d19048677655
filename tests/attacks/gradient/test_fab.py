import numpy as np
import pytest
import torch

import robustkit as rk
from robustkit.attacks.gradient.fab import FAB, TargetedFAB
from robustkit.engine.criteria import AnyOf, Misclassification, Targeted, TopK
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.errors import BadInput
from robustkit.models.torch import TorchModel
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor

NORMS = ("l1", "l2", "linf")
norms = pytest.mark.parametrize("norm", NORMS)
kinds = pytest.mark.parametrize("kind", [FAB, TargetedFAB])


@kinds
@norms
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-3.0, 5.0)])
def test_reaches_the_nearest_boundary_exactly(plant, laws, kind, norm, bounds):
    planted = plant(seed=1, samples=40, classes=3, bounds=bounds)
    ledger = laws.attack(kind(steps=60), planted, norm)
    exact, distance = planted.exact(norm), ledger.distance.numpy()
    assert np.isfinite(exact).all()
    assert (distance >= exact * (1 - 1e-9)).all()
    assert np.median(distance / exact) <= 1.001
    assert (distance <= 1.01 * exact).mean() >= 0.8


@kinds
@norms
def test_nothing_is_found_where_the_box_ends_before_the_boundary(
    plant, laws, kind, norm
):
    planted = plant(seed=3, classes=2)
    planted.b = planted.b + np.where(np.arange(2) == planted.y[0], 100.0, 0.0)
    planted.y[:] = planted.y[0]
    assert np.isinf(planted.exact(norm)).all()
    assert not laws.attack(kind(steps=10), planted, norm).found.numpy().any()


@kinds
@norms
def test_rescaled_inputs_give_the_rescaled_result(plant, laws, kind, norm):
    planted = plant(seed=4, bounds=(0.0, 1.0))
    laws.any_bounds_and_units(kind(steps=30), planted, norm)


@kinds
@norms
def test_a_sample_does_not_depend_on_the_others(plant, laws, kind, norm):
    laws.any_batch(kind(steps=30), plant(seed=5), norm)


@norms
def test_passes(plant, laws, norm):
    planted = plant(seed=6, classes=5)
    laws.passes(FAB(steps=10, ways=2), planted, norm, forwards=11, backwards=20)
    # One class of the five is the label's own.
    laws.passes(FAB(steps=10, ways=9), planted, norm, forwards=11, backwards=40)
    laws.passes(TargetedFAB(steps=10), planted, norm, forwards=12, backwards=14)
    assert FAB().within(51).steps == 50
    assert TargetedFAB().within(52).steps == 50


@norms
def test_targets_share_the_steps_the_nearest_first(plant, laws, norm):
    planted = plant(seed=7, samples=30, classes=6)
    exact = planted.exact(norm)
    one, three = (
        laws.attack(TargetedFAB(steps=60, targets=count), planted, norm)
        for count in (1, 3)
    )
    assert np.median(one.distance.numpy() / exact) <= 1.001
    assert np.median(three.distance.numpy() / exact) <= 1.002
    # The nearest way is gone first, for a third of the steps.
    early = three.distance_after(1 + 20)
    assert np.isfinite(early).mean() > 0.8
    # More targets than steps, or than there are ways, are no mistake.
    laws.passes(TargetedFAB(steps=2, targets=9), planted, norm, 4, 7)
    with pytest.raises(BadInput, match="at least 1 target"):
        laws.attack(TargetedFAB(targets=0), planted, norm)
    with pytest.raises(BadInput, match="at least 1 way"):
        laws.attack(FAB(ways=0), planted, norm)


@kinds
@norms
def test_serves_other_criteria(plant, laws, kind, norm):
    planted = plant(seed=7, classes=4)
    labels = as_tensor(planted.y)
    ledger = laws.attack(kind(steps=60), planted, norm, TopK(labels, k=2))
    logits = planted.logits(ledger.best.numpy())
    own = logits[np.arange(len(logits)), planted.y]
    assert ((logits > own[:, None]).sum(axis=1) >= 2).all()
    either = AnyOf(Targeted((labels + 1) % 4), Targeted((labels + 2) % 4))
    ledger = laws.attack(kind(steps=60), planted, norm, either)
    reached = (planted.logits(ledger.best.numpy()).argmax(axis=1) - planted.y) % 4
    assert ledger.found.numpy().all()
    assert set(reached) == {1, 2}


@pytest.mark.slow
@kinds
@norms
def test_real_networks_whose_exact_distances_are_known(shared, kind, norm):
    ratios = []
    for net in ("linear", "toy20", "mlp14_std"):
        known = shared.exact(net, norm)
        model = TorchModel(shared.exact_model(net).double())
        x = as_tensor(torch.tensor(known["x"].astype(np.float64)))
        criterion = Misclassification(as_tensor(torch.tensor(known["y"]).long()))
        problem = Problem(model, x, criterion, get_norm(norm))
        distance = run(kind(steps=100), problem).distance.numpy()
        assert (distance >= known["distance"] * (1 - 1e-5)).all()
        ratios.extend(distance / known["distance"])
    assert np.isfinite(ratios).mean() >= 0.98
    assert np.median(ratios) <= 1.02


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_ways_that_are_closed_to_some_do_not_matter_to_others(norm):
    """One sample has two open ways and goes each for half of the steps."""
    rng = np.random.default_rng(3)
    weights, bends = rng.normal(size=(2, 12, 6))
    x = rng.uniform(0.3, 0.7, size=(2, 12))
    x[:, 0] = 0.2, 0.8

    def logits(x):
        scores = np.tanh(2 * x - 1) @ weights + x**2 @ bends
        scores[np.ix_(x[:, 0] < 0.5, [2, 3, 4])] = -np.inf
        return scores

    def gradient(x, slopes):
        bent = 2 * (1 - np.tanh(2 * x - 1) ** 2) * (slopes @ weights.T)
        return bent + 2 * x * (slopes @ bends.T)

    model = rk.NumPyModel(logits, gradient=gradient)
    y = logits(x).argmax(axis=1)
    together, alone = (
        rk.run(TargetedFAB(steps=20), model, x[:n], y[:n], norm=norm) for n in (2, 1)
    )
    gap = np.abs(together.x_adversarial[:1] - alone.x_adversarial).max()
    assert gap < 1e-12
