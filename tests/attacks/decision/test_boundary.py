import dataclasses

import numpy as np
import pytest

from robustkit.attacks.decision.boundary import Boundary
from robustkit.engine.criteria import Misclassification
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.errors import BadInput
from robustkit.models.base import Access
from robustkit.models.numpy import NumPyModel
from robustkit.models.torch import TorchModel
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor

NORMS = ("l1", "l2", "linf")


def half_space(weights, offset, bounds=None, log=None):
    """Class 0 where weights . x > offset, else class 1."""

    def function(x):
        if log is not None:
            log.append(x)
        # Row by row, so that a sample's scores do not depend on the batch.
        score = (x * weights).sum(axis=1) - offset
        return np.stack([score, np.zeros_like(score)], axis=1)

    return NumPyModel(function, bounds)


def planted(count=6, features=12, seed=0):
    """Points around the middle of the box, and a half-space that is near to them all.

    So near that the box does not matter: the closest point of it is margin / |w|.
    """
    generator = np.random.default_rng(seed)
    weights = generator.normal(size=features)
    margin = generator.uniform(0.05, 0.15, count)
    middle = generator.uniform(-0.1, 0.1, (count, features))
    rest = margin - (middle * weights).sum(axis=1)
    x = 0.5 + middle + (rest / (weights**2).sum())[:, None] * weights
    offset = 0.5 * weights.sum()
    exact = {
        "l1": margin / np.abs(weights).max(),
        "l2": margin / np.sqrt((weights**2).sum()),
        "linf": margin / np.abs(weights).sum(),
    }
    return x, weights, offset, exact


def attacked(model, x, norm="l2", budget=None, attack=None, labels=None, **more):
    x = as_tensor(np.asarray(x))
    labels = np.zeros(x.shape[0], dtype=np.int64) if labels is None else labels
    p = Problem(model, x, Misclassification(as_tensor(labels)), get_norm(norm), **more)
    return run(attack or Boundary(), p, budget=budget)


def test_the_planted_answer_is_the_minimum():
    x, weights, offset, exact = planted()
    assert 0 <= x.min() <= x.max() <= 1
    closest = x - (exact["l2"] / np.sqrt((weights**2).sum()))[:, None] * weights
    assert closest @ weights - offset == pytest.approx(0, abs=1e-12)
    assert 0 <= closest.min() <= closest.max() <= 1


# Factors of the exact minimum after 300 and 2,000 questions.
@pytest.mark.parametrize(
    ("norm", "early", "late"),
    [("l2", 1.01, 1.001), ("linf", 1.02, 1.001), ("l1", 1.5, 1.1)],
)
def test_it_comes_close_to_the_planted_minimum_and_never_below(norm, early, late):
    x, weights, offset, exact = planted()
    ledger = attacked(half_space(weights, offset), x, norm, budget=2000)
    for questions, factor in [(300, early), (2000, late)]:
        ratio = ledger.distance_after(questions) / exact[norm]
        assert (ratio >= 1 - 1e-9).all()
        assert np.median(ratio) < factor
    best = ledger.best.raw
    assert (((best * weights).sum(axis=1) - offset) < 0).all()
    assert (get_norm(norm)(as_tensor(best - x)).raw == ledger.distance.raw).all()


def test_near_the_exact_minimum_of_a_classifier_of_digits(shared):
    data = shared.exact("linear", "l2")
    weights = dict(np.load(shared.HERE / "exact" / "net_linear.npz"))
    matrix, bias = (weights[name].astype(np.float64) for name in sorted(weights)[::-1])
    rows = slice(0, 8)
    x = data["x"][rows].astype(np.float64).reshape(8, -1)
    ledger = attacked(
        NumPyModel(lambda images: images @ matrix.T + bias),
        np.clip(x, 0, 1),
        budget=1000,
        labels=data["y"][rows].astype(np.int64),
    )
    ratio = ledger.distance.raw / data["distance"][rows]
    assert ledger.found.all()
    assert ratio.min() >= 1 - 1e-5
    assert np.median(ratio) < 3


@pytest.mark.parametrize("norm", NORMS)
def test_bounds_scaled_by_a_power_of_two_scale_the_result_exactly(norm):
    x, weights, offset, _ = planted()
    keys = np.arange(6, dtype=np.uint64)
    options = {"norm": norm, "budget": 300, "keys": keys}
    result = attacked(half_space(weights, offset), x, **options)
    large = half_space(weights, 256 * offset, Bounds(0, 256))
    scaled = attacked(large, 256 * x, **options)
    if norm == "linf":
        assert (scaled.distance.raw == 256 * result.distance.raw).all()
    assert scaled.distance.raw == pytest.approx(256 * result.distance.raw, rel=1e-9)


@pytest.mark.parametrize(("lower", "upper"), [(-1e-6, 1e-6), (1e3, 5e3)])
def test_bounds_of_any_size_serve_as_well(lower, upper):
    x, weights, offset, exact = planted()
    width, norm = upper - lower, "l2"

    def function(images):
        score = ((images - lower) / width * weights).sum(axis=1) - offset
        return np.stack([score, np.zeros_like(score)], axis=1)

    model = NumPyModel(function, Bounds(lower, upper))
    images = np.clip(lower + width * x, lower, upper)
    ledger = attacked(model, images, norm, budget=1000)
    ratio = ledger.distance.raw / (width * exact[norm])
    assert (ratio > 1 - 1e-9).all()
    assert np.median(ratio) < 1.05
    assert ledger.best.raw.min() >= lower
    assert ledger.best.raw.max() <= upper


def test_every_question_is_a_counted_decision():
    x, weights, offset, _ = planted()
    log = []
    ledger = attacked(half_space(weights, offset, log=log), x, budget=100)
    assert sum(len(images) for images in log) == ledger.decisions.sum()
    assert (ledger.decisions == ledger.forwards).all()
    assert (ledger.forwards == 100).all()
    assert (ledger.backwards == 0).all()


def test_a_planned_number_of_steps_is_that_many_questions_after_the_start():
    x, weights, offset, _ = planted()
    ledger = attacked(half_space(weights, offset), x, attack=Boundary().within(50))
    none = attacked(half_space(weights, offset), x, attack=Boundary(steps=1))
    assert (ledger.forwards == none.forwards + 49).all()


def test_the_budget_is_not_rewarded_beyond():
    x, weights, offset, _ = planted()
    model = half_space(weights, offset)
    whole = attacked(model, x, budget=400)
    for budget in (1, 7, 60):
        part = attacked(model, x, budget=budget)
        assert (part.distance.raw == whole.distance_after(budget)).all()
        assert (part.forwards <= budget).all()


def test_the_best_point_is_never_lost():
    x, weights, offset, _ = planted()
    ledger = attacked(half_space(weights, offset), x, budget=300)
    curve = np.array([ledger.distance_after(q) for q in range(1, 301)])
    assert (curve[1:] <= curve[:-1]).all()
    assert (curve[-1] == ledger.distance.raw).all()


def test_a_constant_model_has_no_adversarial_and_that_is_no_error():
    model = NumPyModel(lambda x: np.ones((len(x), 2)) * [1, 0])
    ledger = attacked(model, np.full((3, 5), 0.5), attack=Boundary(tries=7))
    assert not ledger.found.any()
    assert (ledger.forwards <= 77).all()
    assert (ledger.steps == 0).all()


def test_only_samples_without_a_start_are_given_up():
    x, weights, offset, _ = planted()

    def function(images):
        score = (images * weights).sum(axis=1) - offset
        return np.stack([score, np.zeros_like(score)], axis=1)

    whole = attacked(NumPyModel(function), x, budget=200)

    class Stubborn(Misclassification):
        # A label other than 0 marks a sample that nothing makes adversarial.
        def margin(self, logits):
            free = as_tensor((self.labels.raw == 0).astype(float))
            return super().margin(logits) * free + (1 - free)

    mixed = as_tensor(np.array([0, 1, 0, 1, 0, 0]))
    p = Problem(NumPyModel(function), as_tensor(x), Stubborn(mixed), get_norm("l2"))
    ledger = run(Boundary(), p, budget=200)
    free = mixed.raw == 0
    assert (ledger.found.raw == free).all()
    assert (ledger.distance.raw[free] == whole.distance.raw[free]).all()
    assert (ledger.steps[~free] == 0).all()


def test_given_starts_are_used_where_noise_finds_none():
    # Adversarial only within a small ball, which no noise hits.
    centre = np.linspace(0.2, 0.8, 40)

    def function(images):
        score = ((images - centre) ** 2).sum(axis=1) - 0.1
        return np.stack([score, np.zeros_like(score)], axis=1)

    x = np.clip(centre + np.array([[0.15], [-0.2]]), 0, 1)
    model = NumPyModel(function)
    assert not attacked(model, x, budget=200).found.any()
    starts = as_tensor(np.stack([centre, centre]))
    ledger = attacked(model, x, budget=500, starts=starts)
    exact = np.sqrt(((x - centre) ** 2).sum(axis=1)) - np.sqrt(0.1)
    ratio = ledger.distance.raw / exact
    assert (ratio > 1 - 1e-9).all()
    assert (ratio < 1.05).all()
    pooled = attacked(model, x, budget=500, pool=as_tensor(centre[None]))
    assert pooled.found.all()


def test_an_original_that_is_adversarial_already_costs_no_walk():
    x, weights, offset, _ = planted()
    ledger = attacked(half_space(weights, offset + 10), x)
    assert (ledger.distance.raw < 1e-12).all()
    assert ledger.forwards.max() < 200


def test_a_sample_is_finished_when_its_source_step_is_tiny():
    x, weights, offset, _ = planted()
    attack = Boundary(converged=1e-3)
    ledger = attacked(half_space(weights, offset), x, attack=attack)
    assert (ledger.steps < attack.steps).all()


@pytest.mark.parametrize("norm", NORMS)
def test_one_feature_is_enough(norm):
    ledger = attacked(half_space(np.ones(1), 0.25), [[0.75]], norm, budget=200)
    assert 0.5 <= ledger.distance.raw[0] < 0.5 * 1.001


def test_it_needs_decisions_only_and_says_which_norms_it_can_minimise():
    assert Boundary.access is Access.DECISION
    x, weights, offset, _ = planted()
    with pytest.raises(BadInput, match="Boundary cannot minimise the norm l0"):
        attacked(half_space(weights, offset), x, "l0")


def test_the_state_is_per_sample():
    x, weights, offset, _ = planted()
    labels = as_tensor(np.zeros(6, dtype=np.int64))
    p = Problem(
        half_space(weights, offset),
        as_tensor(x),
        Misclassification(labels),
        get_norm("l2"),
    )
    state = Boundary().init(p)
    for field in dataclasses.fields(state):
        assert getattr(state, field.name).shape[0] == 6


@pytest.mark.parametrize(("norm", "factor"), [("l2", 0.9), ("l1", 1.0)])
def test_low_frequencies_find_smooth_boundaries_in_fewer_questions(norm, factor):
    rows, columns = np.indices((8, 8)) + 0.5
    weights = np.cos(rows * np.pi / 8) + np.cos(columns * np.pi / 8)
    x = np.random.default_rng(0).uniform(0.4, 0.6, (6, 1, 8, 8))
    offset = (x * weights).sum(axis=(1, 2, 3)).min() - 1.0

    def function(images):
        score = (images * weights).reshape(len(images), -1).sum(axis=1) - offset
        return np.stack([score, np.zeros_like(score)], axis=1)

    low, all_of_them = (
        attacked(NumPyModel(function), x, norm, 150, Boundary(frequencies=share))
        for share in (0.25, 1.0)
    )
    assert np.median(low.distance.raw / all_of_them.distance.raw) < factor


@pytest.mark.slow
def test_at_least_as_good_as_foolbox_after_2000_questions(shared):
    import torch

    foolbox = pytest.importorskip("foolbox")
    model = shared.torch_model("mnist_cnn_a_adv")
    images, labels = shared.images("mnist")
    with torch.no_grad():
        right = model(torch.tensor(images[:100])).argmax(1).numpy() == labels[:100]
    rows = np.flatnonzero(right)[:16]
    x, y = torch.tensor(images[rows]), torch.tensor(labels[rows])
    p = Problem(
        TorchModel(model), as_tensor(x), Misclassification(as_tensor(y)), get_norm("l2")
    )
    ours = run(Boundary(), p, budget=2000).distance.numpy()

    theirs, questions = np.full(16, np.inf), 0

    class Watched(torch.nn.Module):
        def forward(self, points):
            nonlocal theirs, questions
            logits, questions = model(points), questions + 1
            distance = (points - x).flatten(1).norm(dim=1)
            wrong = logits.argmax(1) != y
            reached = torch.where(wrong, distance, torch.inf).numpy()
            if questions <= 2000:
                theirs = np.minimum(theirs, reached)
            return logits

    # Foolbox draws from torch's global generator, which is given back as it was.
    with torch.random.fork_rng(), torch.no_grad():
        torch.random.default_generator.manual_seed(0)
        # Every tenth step asks twice, and the linear search up to 50 times.
        foolbox.attacks.BoundaryAttack(steps=1880).run(
            foolbox.PyTorchModel(Watched().eval(), bounds=(0, 1)),
            x,
            foolbox.criteria.Misclassification(y),
        )
    assert questions > 2000
    assert np.median(ours) <= 1.02 * np.median(theirs)
