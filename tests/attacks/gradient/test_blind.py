"""Gradients that lie about a model whose distances are known."""

import numpy as np
import pytest
import torch

from robustkit.attacks.gradient import blind
from robustkit.attacks.gradient.blind import Trust, search
from robustkit.engine.criteria import Misclassification
from robustkit.engine.loop import run
from robustkit.engine.problem import GradientAnswer, Problem
from robustkit.models.numpy import NumPyModel
from robustkit.models.torch import TorchModel
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor
from robustkit.presets import auto

NORMS = ("l0", "l1", "l2", "linf")
every_norm = pytest.mark.parametrize("norm", NORMS)


def lying(planted, lie):
    """The gradient of a planted model, replaced."""
    return {
        "zero": lambda x, slopes: np.zeros_like(x),
        "broken": lambda x, slopes: np.full_like(x, np.nan),
        "reversed": lambda x, slopes: -planted.gradient(x, slopes),
        # A function of the point, so that a batch changes nothing.
        "noise": lambda x, slopes: np.sin(1e4 * x + np.arange(x.shape[1])),
    }[lie]


def masked(planted, lie, norm, rows=slice(None)):
    bounds = Bounds(planted.lower, planted.upper)
    model = NumPyModel(planted.logits, bounds, gradient=lying(planted, lie))
    labels = Misclassification(as_tensor(planted.y[rows]))
    return Problem(model, as_tensor(planted.x[rows]), labels, get_norm(norm))


@pytest.mark.parametrize(
    ("norm", "lie"),
    [
        *((norm, lie) for norm in NORMS for lie in ("zero", "reversed")),
        *(("l2", "broken"), ("linf", "noise")),
    ],
)
def test_auto_comes_near_although_gradients_lie(plant, norm, lie):
    planted = plant(seed=1, samples=8)
    ledger = run(auto(norm).within(200), masked(planted, lie, norm))
    exact, distance = planted.exact(norm), ledger.distance.numpy()
    assert np.isfinite(distance).all()
    assert (distance >= exact * (1 - 1e-9)).all()
    # Random steps shorten an L1 perturbation slowly.
    assert np.median(distance / exact) <= (1.35 if norm == "l1" else 1.15)
    assert (ledger.forwards <= 200).all()


def test_without_doubt_the_same_gradients_mislead(plant, monkeypatch):
    planted = plant(seed=1, samples=12, features=40)

    def median():
        ledger = run(auto("l2").within(200), masked(planted, "reversed", "l2"))
        return np.median(ledger.distance.numpy() / planted.exact("l2"))

    doubting = median()
    monkeypatch.setattr(blind, "_FEW", np.inf)
    assert median() > 1.2 * doubting


@every_norm
def test_neighbours_in_the_batch_change_nothing(plant, norm):
    planted = plant(seed=2, samples=4)
    attack = auto(norm).within(60)
    together = run(attack, masked(planted, "noise", norm)).distance.numpy()
    for rows in (slice(0, 1), slice(1, 4)):
        apart = run(attack, masked(planted, "noise", norm, rows))
        assert np.allclose(apart.distance.numpy(), together[rows], rtol=1e-9)


class Quantised(torch.nn.Module):
    """Rounds its input to 16 levels, by which every gradient vanishes."""

    def forward(self, x):
        value = (torch.round(x * 15) / 15).sum(dim=1)
        return torch.stack([0.5 * x.shape[1] - value, value * 0], dim=1)


@every_norm
def test_quantised_inputs(norm):
    x = as_tensor(torch.full((2, 12), 0.4))
    labels = Misclassification(as_tensor(torch.zeros(2, dtype=torch.long)))
    problem = Problem(TorchModel(Quantised().eval()), x, labels, get_norm(norm))
    distance = run(auto(norm).within(150), problem).distance.numpy()
    # Each feature stands at 6 / 15 and must gain 1.2 levels; the sum, 18.
    some = {"l0": 3, "l1": 1.8, "l2": 0.9, "linf": 1.5 / 15}[norm]
    assert np.isfinite(distance).all()
    assert (distance <= some * 1.001).all()


def answer(p, margin, gradient, delta):
    margin = as_tensor(np.array([margin]))
    delta = as_tensor(np.array([delta]))
    gradient = as_tensor(np.array([gradient]))
    return GradientAnswer(p.x + delta, p.x, p.norm(delta), margin < 0, margin, gradient)


@pytest.mark.parametrize(
    ("came", "doubted"), [(1.0, False), (0.2, False), (0.0, True), (-1.0, True)]
)
def test_doubt_follows_what_came_of_what_was_foretold(came, doubted):
    labels = Misclassification(as_tensor(np.array([0])))
    model = NumPyModel(lambda x: x, Bounds(0.0, 1.0))
    p = Problem(model, as_tensor(np.array([[0.8, 0.4]])), labels, get_norm("l2"))
    trust, margin, delta = Trust.unknown(p), 1.0, np.zeros(2)
    for _ in range(20):
        a = answer(p, margin, [1.0, -1.0], delta)
        trust = trust.judged(a)
        delta = delta + np.array([-0.05, 0.05])
        trust = trust.foretelling(a, as_tensor(delta[None]))
        margin -= 0.1 * came
    assert bool(trust.doubted.item()) == doubted
    # What was not foretold proves nothing.
    quiet = Trust.unknown(p)
    for _ in range(20):
        quiet = quiet.judged(a).silent()
    assert quiet.trials.item() == 0


def test_a_search_halves_the_way_to_the_boundary():
    labels = Misclassification(as_tensor(np.array([0])))
    model = NumPyModel(lambda x: np.stack([x[:, 0], 0.5 + 0 * x[:, 0]], axis=1))
    p = Problem(model, as_tensor(np.array([[1.0]])), labels, get_norm("l2"))
    a, trust, asked = p.score(p.x - 1.0), Trust.unknown(p), []
    for step in range(4):
        delta, trust = search(p, trust, a, step, np.arange(1))
        asked.append(delta.item())
        a = p.score(p.x + delta)
    assert np.allclose(asked, [-0.5, -0.75, -0.625, -0.5625])
