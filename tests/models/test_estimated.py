import numpy as np
import pytest
import torch

import robustkit as rk
from robustkit.attacks.gradient.fmn import FMN
from robustkit.attacks.gradient.pgd import PGD
from robustkit.engine.criteria import Misclassification
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.errors import BadInput
from robustkit.models.base import Access
from robustkit.models.estimated import Estimated
from robustkit.models.numpy import NumPyModel
from robustkit.models.torch import TorchModel
from robustkit.models.wrappers import Preprocessed
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor

METHODS = ("nes", "spsa", "zoo")


class Linear:
    """Scores x @ w, and how many rows were asked about."""

    def __init__(self, features=6, classes=3, seed=0):
        self.w = np.random.default_rng(seed).normal(size=(features, classes))
        self.rows = 0
        self.seen = []

    def __call__(self, x):
        self.rows += len(x)
        self.seen.append(x.copy())
        return (x.reshape(len(x), -1)[:, :, None] * self.w).sum(axis=1)

    def model(self):
        return NumPyModel(self)


def gradient(model, x, slopes):
    with model.session():
        logits, pull_back = model.linearise(as_tensor(x))
        return logits.numpy(), pull_back(as_tensor(slopes)).numpy()


@pytest.mark.parametrize("method", METHODS)
def test_the_mean_is_the_gradient_also_at_the_bounds(method):
    linear = Linear()
    x = np.array([[0.0, 1.0, 0.5, 0.0, 1.0, 0.2]])
    slopes = np.array([[1.0, -2.0, 0.5]])
    exact = slopes @ linear.w.T
    means = []
    for seed in range(400):
        model = Estimated(linear.model(), 12, method, sigma=0.05, seed=seed)
        means.append(gradient(model, x, slopes)[1])
    means = np.array(means)
    error = means.mean(axis=0) - exact
    noise = means.std(axis=0) / np.sqrt(len(means))
    assert (np.abs(error) <= 4.5 * noise + 1e-9).all()
    if method == "zoo":
        # All features are asked about.
        np.testing.assert_allclose(means[0], exact)


def test_zoo_asks_about_some_features_and_knows_nothing_of_the_others():
    linear = Linear()
    slopes = np.array([[1.0, -2.0, 0.5], [0.0, 1.0, 0.0]])
    x = np.random.default_rng(0).random((2, 6))
    _, found = gradient(Estimated(linear.model(), 4, "zoo"), x, slopes)
    assert ((found != 0).sum(axis=1) == 2).all()
    exact = slopes @ linear.w.T
    np.testing.assert_allclose(found[found != 0], exact[found != 0])


@pytest.mark.parametrize("method", METHODS)
def test_what_is_asked_is_what_is_billed_and_stays_in_the_box(method):
    linear = Linear()
    x = np.random.default_rng(1).random((3, 2, 3))
    y = linear(x).argmax(axis=1)
    linear.rows, linear.seen = 0, []
    model = Estimated(linear.model(), 8, method, sigma=0.5)
    problem = Problem(
        model, as_tensor(x), Misclassification(as_tensor(y)), get_norm("l2")
    )
    ledger = run(FMN(steps=5), problem)
    assert ledger.forwards.sum() == linear.rows
    assert (ledger.forwards == 9 * ledger.steps).all()
    assert (ledger.backwards == 0).all()
    assert all(((seen >= 0) & (seen <= 1)).all() for seen in linear.seen)


def test_each_way_back_is_billed():
    linear = Linear()
    x = np.random.default_rng(1).random((3, 6))
    criterion = Misclassification(as_tensor(np.zeros(3, dtype=int)))
    problem = Problem(
        Estimated(linear.model(), 8), as_tensor(x), criterion, get_norm("l2")
    )
    rows = np.array([0, 2])
    logits, pull_back = problem.linearise(as_tensor(x[rows]), rows)
    pull_back(logits)
    pull_back(logits)
    np.testing.assert_array_equal(problem.ledger.forwards, [17, 0, 17])
    assert linear.rows == 34


@pytest.mark.parametrize("method", METHODS)
def test_the_directions_are_the_samples_own(method):
    linear, rng = Linear(30), np.random.default_rng(2)
    x, slopes = rng.random((4, 30)), rng.normal(size=(4, 3))

    def estimate(rows, seed=0):
        model = Estimated(linear.model(), 6, method, seed=seed)
        return gradient(model, x[rows], slopes[rows])[1]

    whole = estimate(np.arange(4))
    np.testing.assert_array_equal(estimate(np.array([3, 1])), whole[[3, 1]])
    assert not np.allclose(estimate(np.arange(4), seed=1), whole)
    assert not np.allclose(whole[0] != 0, whole[1] != 0) or method != "zoo"


def test_asked_again_it_takes_new_directions_and_a_session_repeats_the_old_ones():
    linear = Linear(30)
    x, slopes = np.full((1, 30), 0.5), np.array([[1.0, 0.0, 0.0]])
    model = Estimated(linear.model(), 6)
    runs = []
    for _ in range(2):
        with model.session():
            _, pull_back = model.linearise(as_tensor(x))
            runs.append([pull_back(as_tensor(slopes)).numpy() for _ in range(3)])
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.allclose(runs[0][0], runs[0][1])
    assert not np.allclose(runs[0][1], runs[0][2])


def test_a_whole_attack_does_not_depend_on_the_batch():
    linear = Linear(20)
    x = np.random.default_rng(3).random((5, 20))
    y = linear(x).argmax(axis=1)
    model = Estimated(linear.model(), 6)

    def distance(rows):
        attack = rk.Minimise(PGD(1.0, steps=10), steps=40)
        return rk.run(attack, model, x[rows], y[rows], norm="linf").distance

    whole = distance(np.arange(5))
    np.testing.assert_array_equal(distance(np.array([4, 2])), whole[[4, 2]])


def test_large_batches_of_questions_are_cut(monkeypatch):
    linear = Linear()
    x, slopes = np.full((3, 6), 0.5), np.ones((3, 3))
    whole = gradient(Estimated(linear.model(), 20), x, slopes)[1]
    linear.seen = []
    monkeypatch.setattr("robustkit.models.estimated._AT_ONCE", 12)
    cut = gradient(Estimated(linear.model(), 20), x, slopes)[1]
    assert {len(seen) for seen in linear.seen} == {3, 12}
    np.testing.assert_allclose(cut, whole)


def test_a_gradient_attack_breaks_a_model_without_gradients():
    module = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh())
    module.append(torch.nn.Linear(16, 3)).eval()
    x = torch.rand(6, 8, generator=torch.Generator().manual_seed(0))
    y = module(x).argmax(dim=1)
    open_box = rk.run(FMN(), module, x, y, norm="l2", bounds=(-9.0, 9.0))
    bounds = rk.Bounds(-9.0, 9.0)
    black_box = Estimated(TorchModel(module, bounds), 40, sigma=1e-4)
    blind = rk.run(FMN(), black_box, x, y, norm="l2")
    assert blind.found.all()
    assert (blind.distance / open_box.distance).median() <= 1.1


def test_attacks_are_planned_for_what_the_budget_is_enough_for():
    linear = Linear()
    x = np.random.default_rng(1).random((4, 6)).astype(np.float32)
    y = linear(x).argmax(axis=1)
    model = Estimated(linear.model(), 8)
    results = rk.evaluate(model, (x, y), attacks=["fmn", "square"], budget=90)
    planned = results.run["config"]["attacks"]["linf"]
    assert "steps=10," in planned["fmn"]
    assert "steps=90" in planned["square"]
    costs = results.summary()["norms"]["linf"]["attacks"]["fmn"]
    assert costs["forward_passes"] == 4 * 90
    assert any("8 questions each" in note for note in results.run["notes"])


def test_auto_asks_as_many_questions_as_it_was_planned_for():
    linear = Linear()
    x = np.random.default_rng(1).random((4, 6)).astype(np.float32)
    y = linear(x).argmax(axis=1)
    for samples in (2, 8):
        model = Estimated(linear.model(), samples)
        result = rk.run(rk.auto("l2", 20), model, x, y, norm="l2")
        assert (result.ledger.forwards == 20 * (1 + samples)).all()


def test_what_is_normalised_first_says_what_it_costs():
    model = Estimated(Preprocessed(Linear().model(), [0.5], [2.0]), 8)
    assert (model.passes_per_question, model.passes_per_gradient) == (1, 8)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "nse"}, "did you mean 'nes'"),
        ({"samples": 7}, "even number"),
        ({"samples": 0}, "even number"),
        ({"samples": "8"}, "whole number"),
        ({"sigma": 0.0}, "between 0 and 1"),
        ({"sigma": "1"}, "must be a number"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(BadInput, match=message):
        Estimated(Linear().model(), **settings)


def test_decisions_are_not_enough():
    model = Linear().model()
    model.access = Access.DECISION
    with pytest.raises(BadInput, match="shows decisions only"):
        Estimated(model)


@pytest.mark.parametrize("method", METHODS)
def test_a_class_that_is_never_given_does_not_hide_the_others(method):
    scores = Linear(classes=3)

    def masked(x):
        return scores(x) + np.array([0.0, 0.0, -np.inf])

    x = np.random.default_rng(1).random((3, 6))
    slopes = np.tile([1.0, -1.0, 0.0], (3, 1))
    found = gradient(Estimated(NumPyModel(masked), 4, method), x, slopes)[1]
    known = gradient(Estimated(scores.model(), 4, method), x, slopes)[1]
    np.testing.assert_allclose(found, known, atol=1e-6)
