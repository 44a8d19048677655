"""Gradients that lie about a model whose distances are known."""

import dataclasses

import numpy as np
import pytest
import torch

from robustkit.attacks.gradient import trust as trusting
from robustkit.attacks.gradient.trust import Trust
from robustkit.engine.criteria import Misclassification
from robustkit.engine.loop import run
from robustkit.engine.problem import GradientAnswer, Problem
from robustkit.models.numpy import NumPyModel
from robustkit.models.torch import TorchModel
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor, full
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
    assert np.median(distance / exact) <= 1.01
    assert (ledger.forwards <= 200).all()


def test_without_doubt_the_same_gradients_mislead(plant, monkeypatch):
    planted = plant(seed=1, samples=12, features=40)

    def median():
        ledger = run(auto("l2").within(200), masked(planted, "reversed", "l2"))
        return np.median(ledger.distance.numpy() / planted.exact("l2"))

    doubting = median()
    monkeypatch.setattr(trusting, "_FEW", np.inf)
    assert median() > 1.2 * doubting


@every_norm
def test_neighbours_in_the_batch_change_nothing(plant, norm):
    planted = plant(seed=2, samples=4)
    attack = auto(norm).within(60)
    together = run(attack, masked(planted, "noise", norm)).distance.numpy()
    for rows in (slice(0, 1), slice(1, 4)):
        apart = run(attack, masked(planted, "noise", norm, rows))
        assert np.allclose(apart.distance.numpy(), together[rows], rtol=1e-9)


@every_norm
def test_nothing_to_find_ends_well(norm):
    """Neither gradients nor what follows them find an adversarial."""
    never = NumPyModel(
        lambda x: np.stack([1 + 0 * x[:, 0], 0 * x[:, 0]], axis=1),
        Bounds(0.0, 1.0),
        gradient=lambda x, slopes: 0 * x,
    )
    labels = Misclassification(as_tensor(np.zeros(3, dtype=np.int64)))
    x = as_tensor(np.random.default_rng(0).random((3, 8)))
    ledger = run(auto(norm, 90), Problem(never, x, labels, get_norm(norm)))
    assert not bool(ledger.found.any())
    assert (ledger.forwards <= 90).all()
    assert (ledger.unknown == 0).all()


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


def told(margin, gradient, delta):
    """An answer about one sample, whatever a model would have said."""
    x = as_tensor(np.array([[0.8, 0.4]]))
    margin, gradient = as_tensor(np.array([margin])), as_tensor(np.array([gradient]))
    size = get_norm("l2")(delta)
    return GradientAnswer(x + delta, x, size, margin < 0, margin, gradient)


def asked(came, small_came, steps, gradient=(1.0, -1.0)):
    """The trust after some steps, and which of them were small.

    Args:
        came: Of what large steps foretell, the share that comes.
        small_came: The same of small steps.
        steps: How many.
        gradient: That is told; or a function of the step.
    """
    labels = Misclassification(as_tensor(np.array([0])))
    model = NumPyModel(lambda x: x, Bounds(0.0, 1.0))
    x = as_tensor(np.array([[0.8, 0.4]]))
    p = Problem(model, x, labels, get_norm("l2"))
    trust, margin, delta = Trust.unknown(p), 1.0, as_tensor(np.zeros((1, 2)))
    small = []
    for step in range(steps):
        slope = gradient(step) if callable(gradient) else gradient
        a = told(margin, slope, delta)
        trust = trust.judged(a)
        # To and fro, so that it stays in the box.
        shift = as_tensor(np.array([[0.05, -0.05]]))
        delta, trust = trust.foretelling(p, a, shift if step % 2 else -shift)
        small.append(bool(trust.small.item()))
        margin += trust.foretold.item() * (small_came if small[-1] else came)
    return trust, small


@pytest.mark.parametrize(
    ("came", "doubted"), [(1.0, False), (0.2, False), (0.0, True), (-1.0, True)]
)
def test_doubt_follows_what_came_of_what_was_foretold(came, doubted):
    trust, small = asked(came, 0.0, 30)
    assert any(small) == bool(trust.lost.item()) == doubted


def test_small_steps_decide_every_other_question():
    trust, small = asked(0.0, 0.0, 20)
    # The first answer was foretold by nothing.
    assert [step for step, one in enumerate(small) if one][:4] == [8, 10, 12, 14]
    assert bool(trust.lost.item())
    for small_came, lost in ((0.6, False), (0.4, True), (-1.0, True)):
        trust, _ = asked(0.0, small_came, 40)
        assert bool(trust.lost.item()) == lost
    # Trusted for twice as long each time; the step back after a small one is none.
    _, small = asked(0.0, 1.0, 80)
    assert np.flatnonzero(small).tolist() == [8, 8 + 2 + 16, 8 + 2 + 16 + 2 + 32]


def test_flat_parts_are_believed_unless_all_is_flat():
    trust, _ = asked(0.0, 0.0, 40, (0.0, 0.0))
    assert bool(trust.lost.item())
    trust, small = asked(0.0, 0.0, 40, lambda t: (0.0, 0.0) if t else (1.0, -1.0))
    assert not any(small)
    assert not bool(trust.lost.item())


def test_small_steps_stay_in_the_box_and_are_short():
    x = np.array([[1.0, 0.0, 0.5], [1.0, 0.0, 1.0]])
    labels = Misclassification(as_tensor(np.array([0, 0])))
    p = Problem(NumPyModel(lambda x: x), as_tensor(x), labels, get_norm("linf"))
    zero = p.x.zeros_like()
    gradient = as_tensor(np.array([[-1.0, 1.0, 0.0], [-1.0, 1.0, -1.0]]))
    a = GradientAnswer(p.x, p.x, p.norm(zero), p.x[:, 0] < 0, p.x[:, 0], gradient)
    doubted = dataclasses.replace(Trust.unknown(p), trials=full(p.x, 8.0))
    delta, trust = doubted.foretelling(p, a, zero)
    inside = (p.x + delta).numpy()
    assert inside.min() >= 0
    assert inside.max() <= 1
    # Both have room upwards only, against what goes down.
    assert (trust.foretold.numpy() > 0).all()
    assert np.allclose(np.linalg.norm(delta.numpy(), axis=1), 1e-4 * np.sqrt(3))


def test_a_small_step_that_was_not_taken_fails_nothing(plant):
    p = masked(plant(seed=1, samples=8), "reversed", "l2")
    a = p.gradient(p.x)
    known = Trust.unknown(p).judged(a)
    doubted = dataclasses.replace(known, trials=full(p.x, 8.0))
    _, trust = doubted.foretelling(p, a, p.x.zeros_like())
    assert bool(trust.small.all())
    # Nothing changed.
    assert (trust.judged(a).failed.numpy() == 1).all()
    # Another leg began instead.
    assert (trust.silent().judged(a).failed.numpy() == 0).all()


def test_whose_last_gradient_was_zero_is_known(plant):
    planted = plant(seed=1, samples=8)
    p, silent = masked(planted, "reversed", "l2"), masked(planted, "zero", "l2")
    trust = Trust.unknown(p)
    for problem, flat in ((p, False), (silent, True), (p, False)):
        trust = trust.judged(problem.gradient(problem.x))
        assert (trust.flat.numpy() == flat).all()
    assert (trust.steep.numpy()).all()


@every_norm
def test_what_was_not_foretold_proves_nothing(plant, norm):
    p = plant(seed=1, samples=8)
    p = masked(p, "reversed", norm)
    trust = Trust.unknown(p)
    for _ in range(20):
        trust = trust.judged(p.gradient(p.x)).silent()
    assert not bool(trust.lost.any())
    assert (trust.trials.numpy() == 0).all()
