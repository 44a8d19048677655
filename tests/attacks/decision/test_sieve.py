import numpy as np
import pytest

from robustkit.attacks.decision import sieve, subsets
from robustkit.attacks.decision.pointwise import Pointwise
from robustkit.attacks.decision.sieve import Sieve
from robustkit.engine.criteria import Misclassification
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.models.numpy import NumPyModel
from robustkit.models.torch import TorchModel
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor


def attacked(model, x, y, norm, budget, attack=None, **more):
    criterion = Misclassification(as_tensor(y))
    p = Problem(model, as_tensor(x), criterion, get_norm(norm), **more)
    return run((attack or Sieve()).within(budget), p, budget=budget)


def two_classes(score):
    return np.stack([score, np.zeros_like(score)], axis=1)


def test_the_few_features_that_matter_are_found_among_many():
    """Where the weights of some hundred fall off slowly; from no start at all."""
    rng = np.random.default_rng(0)
    slopes = np.sort(rng.exponential(size=(1, 16, 16)), axis=None)[::-1]
    slopes = rng.permutation(slopes).reshape(1, 16, 16)

    def function(x):
        return two_classes(6.0 - ((x - 0.5) * slopes).sum(axis=(1, 2, 3)))

    x = np.full((6, 1, 16, 16), 0.5)
    y = np.zeros(6, dtype=np.int64)
    keys = np.arange(6, dtype=np.uint64)
    largest = np.sort(slopes, axis=None)[::-1]
    exact = np.searchsorted(0.5 * largest.cumsum(), 6.0) + 1
    for norm, least in (("l0", exact), ("l1", 0.5 * exact)):
        found = {}
        for attack in (Sieve(), Pointwise()):
            ledger = attacked(
                NumPyModel(function), x, y, norm, 1000, attack=attack, keys=keys
            )
            found[type(attack)] = np.median(ledger.distance.raw)
        assert found[Sieve] <= 1.35 * least
        assert found[Sieve] <= 0.85 * found[Pointwise]


def test_what_features_bring_far_out_is_learned_there(monkeypatch):
    """Half of them are steep where the descent ends, and level beyond."""
    steep = np.arange(256).reshape(1, 16, 16) % 2 == 0

    def function(x):
        moved = np.abs(x - 0.5)
        brings = np.where(steep, 4 * moved.clip(max=0.05), moved)
        return two_classes(4.2 - brings.sum(axis=(1, 2, 3)))

    x = np.full((8, 1, 16, 16), 0.5)
    y, keys = np.zeros(8, dtype=np.int64), np.arange(8, dtype=np.uint64)

    def mean():
        ledger = attacked(NumPyModel(function), x, y, "l0", 1500, keys=keys)
        # Nine of those that are not steep are the least.
        assert (ledger.distance.raw >= 9).all()
        return ledger.distance.raw.mean()

    learned = mean()
    monkeypatch.setattr(subsets, "_NEW", 0.0)
    assert learned < mean() - 0.5


@pytest.mark.parametrize("norm", ["l0", "l1"])
def test_nothing_is_asked_about_fewer_candidates_than_are_needed(norm, monkeypatch):
    asked = []

    def spy(p, *others):
        before = p.ledger.forwards.sum()
        weight = subsets.learned(p, *others)
        asked.append(p.ledger.forwards.sum() - before)
        return weight

    monkeypatch.setattr(sieve, "learned", spy)
    monkeypatch.setattr(sieve, "MOST", 16)

    def function(x):
        return two_classes(9.8 - (x - 0.5).sum(axis=1))

    x, y = np.full((2, 40), 0.5), np.zeros(2, dtype=np.int64)
    ledger = attacked(NumPyModel(function), x, y, norm, 500)
    assert ledger.distance.raw == pytest.approx(20 if norm == "l0" else 9.8, rel=0.03)
    assert sum(asked) == 0


def test_in_l1_changes_are_halved_where_learning_brings_no_more():
    def function(x):
        return two_classes(0.25 - (x[:, 2] - 0.5))

    x, y = np.full((3, 9), 0.5), np.zeros(3, dtype=np.int64)
    ledger = attacked(NumPyModel(function), x, y, "l1", 300)
    assert ledger.distance.raw == pytest.approx(0.25, rel=0.03)


def test_one_feature_is_the_fewest():
    def function(x):
        return two_classes(0.25 - (x[:, 2] - 0.5))

    x, y = np.full((3, 9), 0.5), np.zeros(3, dtype=np.int64)
    ledger = attacked(NumPyModel(function), x, y, "l0", 2000)
    assert (ledger.distance.raw == 1).all()
    assert (ledger.forwards < 300).all()


def test_where_units_are_counted_those_that_can_go_far_matter_more():
    p = Problem(
        NumPyModel(two_classes),
        as_tensor(np.array([[0.1, 0.9]])),
        Misclassification(as_tensor(np.array([0]))),
        get_norm("l0"),
    )
    corner, weight = sieve._corner(p, as_tensor(np.array([[0.04, 0.05]])))
    assert corner.raw == pytest.approx(np.array([[0.9, 0.1]]))
    assert weight.raw == pytest.approx(np.array([[0.036, 0.005]]))


def test_a_pixel_is_one_unit_with_all_its_channels():
    def function(x):
        return two_classes(0.9 - x[:, :, 1, 2].sum(axis=1) / 3)

    x, y = np.full((2, 3, 4, 4), 0.5), np.zeros(2, dtype=np.int64)
    ledger = attacked(NumPyModel(function), x, y, "l0-pixels", 300)
    assert (ledger.distance.raw == 1).all()
    assert (ledger.best.raw[:, :, 1, 2] == 1).all()


@pytest.mark.parametrize("norm", ["l0", "l1"])
def test_no_question_is_asked_beyond_the_budget(plant, norm):
    planted = plant(samples=6, features=12, classes=3)
    for budget in (1, 2, 30, *range(150, 190)):
        ledger = attacked(planted.model(), planted.x, planted.y, norm, budget)
        assert (ledger.forwards <= budget).all()


def test_the_descent_gets_its_share():
    planned = [Sieve().within(budget).scouting for budget in (1, 250, 1000, 2000)]
    assert planned == sorted(planned)
    assert planned[0] == 1
    asked = sum(12 * np.sqrt(t + 1) + 6 for t in range(planned[2]))
    assert 450 <= asked < 450 + 12 * np.sqrt(planned[2]) + 6
    assert Sieve(share=0.1).within(1000).scouting < planned[2]
    # Not more of large budgets, so that few features are known by then.
    assert Sieve().within(10_000).scouting == planned[3]


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["l0", "l1"])
def test_it_is_far_ahead_of_resets_alone_on_images(shared, norm):
    import torch

    model = shared.torch_model("cifar_conv_small_pgd")
    images, labels = shared.images("cifar10")
    with torch.no_grad():
        right = model(torch.tensor(images[:40])).argmax(1).numpy() == labels[:40]
    rows = np.flatnonzero(right)[:8]
    x, y = torch.tensor(images[rows]), torch.tensor(labels[rows])
    found = {}
    for attack in (Sieve(), Pointwise()):
        ledger = attacked(TorchModel(model), x, y, norm, 600, attack=attack)
        found[type(attack)] = np.log(ledger.distance.numpy()).mean()
    assert found[Sieve] < found[Pointwise] + np.log(0.7)
