from dataclasses import dataclass, fields

import numpy as np
import pytest

from robustkit.attacks.decision.surfree import SurFree
from robustkit.attacks.gradient.fmn import FMN
from robustkit.attacks.gradient.pgd import PGD
from robustkit.combine import minimum_norm_pgd
from robustkit.engine.attack import Attack
from robustkit.engine.criteria import Misclassification
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.engine.trace import POINTS, Recorder
from robustkit.models.base import Access
from robustkit.models.numpy import NumPyModel
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor, full, take


@dataclass(frozen=True)
class Ray(Attack[None]):
    """In step t asks about x + (t + 1) * 0.01 for all features: known in advance."""

    access = Access.GRADIENT
    norms = frozenset({"linf", "l2"})
    steps: int = 10
    question: str = "gradient"
    at_start: bool = False

    def init(self, p):
        if self.at_start:
            p.score(p.x)

    def step(self, p, s, t):
        point = p.x + 0.01 * (t + 1)
        if self.question == "linearise":
            logits, pull_back = p.linearise(point)
            pull_back(p.criterion.slopes(logits)[1])
        elif self.question == "some":
            p.decide(point, type(p.x)(np.arange(p.size) % 2 == 0))
        elif self.question == "probe":
            p.probe(take(point.expand_dims(1), np.arange(p.size)))
        else:
            getattr(p, self.question)(point)


@pytest.fixture
def planted(plant):
    planted = plant(bounds=(0.0, 1.0), samples=12)
    planted.x = 0.2 + 0.3 * planted.x
    planted.b = -np.median(planted.x @ planted.w, axis=0)
    planted.y = planted.logits(planted.x).argmax(axis=1)
    return planted


def problem_of(planted, norm="linf", rows=slice(None), model=None):
    return Problem(
        model or planted.model(),
        as_tensor(planted.x[rows]),
        Misclassification(as_tensor(planted.y[rows])),
        get_norm(norm),
    )


def traced(attack, problem, budget=None):
    recorder = Recorder(problem.size)
    ledger = run(attack, problem, budget=budget, observers=[recorder])
    return recorder.trace(), ledger


def margins(planted, x):
    scores = planted.logits(x)
    rows = np.arange(len(x))
    own = scores[rows, planted.y].copy()
    scores[rows, planted.y] = -np.inf
    return own - scores.max(axis=1)


@pytest.mark.parametrize("question", ["gradient", "score", "probe", "linearise"])
def test_what_is_recorded_is_what_was_asked(planted, question):
    trace, ledger = traced(Ray(question=question), problem_of(planted))
    expected = np.stack(
        [margins(planted, planted.x + 0.01 * (t + 1)) for t in range(10)], axis=1
    )
    assert (trace.points() == 10).all()
    assert np.allclose(trace.margin[:, :10], expected, atol=1e-6)
    running = np.minimum.accumulate(expected, axis=1)
    assert np.allclose(trace.lowest_margin[:, :10], running, atol=1e-6)
    assert np.allclose(trace.distance[:, :10], 0.01 * np.arange(1, 11), atol=1e-6)
    assert np.isnan(trace.margin[:, 10:]).all()
    won = expected < 0
    first = np.where(won.any(axis=1), won.argmax(axis=1), -2)
    assert won.any()
    assert not won.all()
    assert (trace.first_adversarial == first).all()
    assert np.allclose(trace.best_distance[:, 9], ledger.distance.numpy())
    assert np.allclose(trace.first_margin, expected[:, 0], atol=1e-6)
    assert np.allclose(trace.last_margin, expected[:, -1], atol=1e-6)
    assert (trace.forwards[:, :10] == np.arange(1, 11)).all()


def test_gradients_and_moves(planted):
    trace, _ = traced(Ray(), problem_of(planted))
    for row in range(12):
        for t in range(10):
            scores = planted.logits(planted.x[row : row + 1] + 0.01 * (t + 1))[0]
            own = planted.y[row]
            scores[own] = -np.inf
            slope = planted.w[:, own] - planted.w[:, scores.argmax()]
            assert trace.gradient[row, t] == pytest.approx(np.linalg.norm(slope))
    # The loss descended is the margin here, and every step is as long.
    assert np.array_equal(trace.loss, trace.margin, equal_nan=True)
    assert np.isnan(trace.move[:, 0]).all()
    assert np.allclose(trace.move[:, 1:10], 0.01 * np.sqrt(8))
    brought, _ = traced(Ray(question="linearise"), problem_of(planted))
    assert np.isnan(brought.loss).all()
    assert np.allclose(brought.gradient[:, :10], trace.gradient[:, :10])


def test_the_question_before_the_first_step_is_the_first(planted):
    trace, _ = traced(Ray(at_start=True), problem_of(planted))
    assert np.allclose(trace.first_margin, margins(planted, planted.x), atol=1e-6)
    assert (trace.forwards[:, 0] == 2).all()


def test_samples_not_asked_keep_what_they_had(planted):
    trace, _ = traced(Ray(question="some"), problem_of(planted))
    asked = np.arange(12) % 2 == 0
    assert np.isfinite(trace.margin[asked, :10]).all()
    assert np.isnan(trace.margin[~asked]).all()
    assert (trace.first_adversarial[~asked] == -2).all()


@pytest.mark.parametrize("steps", [POINTS, POINTS + 1, 100, 257])
def test_memory_does_not_grow_with_the_steps(planted, steps):
    trace, _ = traced(Ray(steps=steps), problem_of(planted))
    every = int(trace.stride[0])
    count = int(trace.points()[0])
    assert (trace.stride == every).all()
    assert POINTS / 2 < count <= POINTS
    shown = np.minimum(0.01 * (1 + every * np.arange(count)), 1 - planted.x.min())
    assert np.allclose(trace.distance.max(axis=0)[:count], shown, atol=1e-6)
    assert np.isnan(trace.distance[:, count:]).all()
    assert trace.margin.shape == (12, POINTS)


@dataclass(frozen=True)
class Despair(Ray):
    """Gives up samples of one class never, those of others sooner or later."""

    signed = ("at",)
    at: int = 0
    successor: Attack | None = None

    def init(self, p):
        return full(p.x, 0.0)

    def step(self, p, s, t):
        super().step(p, s, t)
        return s + 1

    def given_up(self, p, s):
        label = p.criterion.labels
        return (s >= self.at + 9 * label).logical_and(label > 0)


ATTACKS = {
    "fmn": FMN(steps=70),
    "minimise": minimum_norm_pgd().within(70),
    "pgd": PGD(epsilon=0.3, steps=70),
    "decisions": SurFree().within(200),
    "given up": Despair(at=40, steps=70, successor=SurFree().within(200)),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_trace_does_not_depend_on_company_and_changes_nothing(planted, name):
    planted.y[4] = (planted.y[4] + 1) % 3
    norm = "l2"
    attack = ATTACKS[name]
    whole, ledger = traced(attack, problem_of(planted, norm))
    unseen = run(attack, problem_of(planted, norm))
    assert np.array_equal(ledger.best.numpy(), unseen.best.numpy())
    assert np.array_equal(ledger.forwards, unseen.forwards)
    # The fourth is misclassified from the start.
    for row in (0, 4, 11):
        alone, _ = traced(attack, problem_of(planted, norm, [row]))
        for field in fields(alone):
            one, other = getattr(alone, field.name)[0], getattr(whole, field.name)[row]
            assert np.array_equal(one, other, equal_nan=True), field.name
    # Samples leave at different times, or at least one did at once.
    assert len(set(whole.steps)) > 1


def test_what_a_successor_finds_before_its_first_step_counts_for_the_last(planted):
    attack = Despair(at=-9, steps=20, successor=SurFree().within(200))
    trace, ledger = traced(attack, problem_of(planted, "l2"))
    # Given up before their first step, and started from an adversarial.
    at_once = planted.y == 1
    assert at_once.any()
    assert ledger.found.numpy()[at_once].all()
    assert (trace.first_adversarial[at_once] == -1).all()
    assert (trace.steps[at_once] > 0).all()


def test_no_pass_is_made_for_a_trace(planted):
    passes = {"forward": 0, "backward": 0}

    def logits(x):
        passes["forward"] += len(x)
        return planted.logits(x)

    def gradient(x, slopes):
        passes["backward"] += len(x)
        return planted.gradient(x, slopes)

    model = NumPyModel(logits, Bounds(0, 1), gradient=gradient)
    _, ledger = traced(FMN(steps=40), problem_of(planted, model=model))
    assert passes["forward"] == ledger.forwards.sum()
    assert passes["backward"] == ledger.backwards.sum()


def test_samples_can_be_picked(planted):
    trace, _ = traced(Ray(), problem_of(planted))
    some = trace.at(np.array([3, 5]))
    assert np.array_equal(some.margin, trace.margin[[3, 5]], equal_nan=True)
    assert len(some.steps) == 2
