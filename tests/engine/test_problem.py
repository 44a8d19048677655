import numpy as np
import pytest
import torch

from robustkit.engine.criteria import Misclassification
from robustkit.engine.problem import Problem
from robustkit.errors import BadInput
from robustkit.models.base import Access, NoGradient
from robustkit.models.numpy import NumPyModel
from robustkit.models.torch import TorchModel
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor, to_numpy


@pytest.fixture
def planted(plant):
    return plant(seed=0, samples=6)


def problem_of(planted, norm="l2", model=None, **options):
    criterion = Misclassification(as_tensor(planted.y))
    model = model or planted.model()
    return Problem(model, as_tensor(planted.x), criterion, get_norm(norm), **options)


def torch_problem_of(planted, norm):
    weights, biases = torch.from_numpy(planted.w), torch.from_numpy(planted.b)
    model = TorchModel(
        lambda x: x @ weights + biases, Bounds(planted.lower, planted.upper)
    )
    x, y = torch.from_numpy(planted.x.copy()), torch.from_numpy(planted.y)
    criterion = Misclassification(as_tensor(y))
    return Problem(model, as_tensor(x), criterion, get_norm(norm))


def margins(planted, x):
    scores = planted.logits(x)
    own = np.eye(scores.shape[1], dtype=bool)[planted.y]
    return scores[own] - np.where(own, -np.inf, scores).max(axis=1)


@pytest.mark.parametrize("question", ["decide", "score", "gradient"])
def test_a_question_is_clipped_answered_billed_and_kept(planted, question):
    p = problem_of(planted)
    wanted = planted.x + np.random.default_rng(0).normal(size=planted.x.shape) * 4
    inside = wanted.clip(planted.lower, planted.upper)
    expected = margins(planted, inside)
    distance = np.linalg.norm(inside - planted.x, axis=1)
    answer = getattr(p, question)(as_tensor(wanted))
    adversarial = answer if question == "decide" else answer.adversarial
    assert np.array_equal(adversarial.numpy(), expected < 0)
    assert (expected < 0).any()
    assert (expected > 0).any()
    ledger = p.ledger
    assert np.array_equal(ledger.forwards, np.ones(6))
    assert np.array_equal(ledger.backwards, np.full(6, question == "gradient"))
    assert np.array_equal(ledger.decisions, np.full(6, question == "decide"))
    best = np.where(expected < 0, distance, np.inf)
    assert np.allclose(ledger.distance.numpy(), best)
    kept = np.where(expected[:, None] < 0, inside, planted.x)
    assert np.array_equal(ledger.best.numpy(), kept)
    if question != "decide":
        assert np.allclose(answer.margin.numpy(), expected)
        assert np.array_equal(answer.point.numpy(), inside)
        assert np.allclose(answer.delta.numpy(), inside - planted.x)
        assert np.allclose(answer.distance.numpy(), distance)


def test_gradient_is_that_of_the_loss(planted):
    p = problem_of(planted)
    for loss in ("margin", "cross-entropy"):
        gradient = p.gradient(p.x, loss).gradient.numpy()
        for feature in range(gradient.shape[1]):
            shift = np.eye(gradient.shape[1])[feature] * 1e-5

            def value(x, loss=loss):
                if loss == "margin":
                    return margins(planted, x)
                z = planted.logits(x)
                z = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
                return z[np.arange(6), planted.y]

            rise = value(planted.x + shift) - value(planted.x - shift)
            assert np.allclose(rise / 2e-5, gradient[:, feature], atol=1e-6)


def test_decisions_can_be_asked_about_some_samples(planted):
    p = problem_of(planted)
    far = np.where(planted.x > 1, planted.lower, planted.upper)
    asked = np.array([True, False, True, False, False, True])
    answer = p.decide(as_tensor(far), as_tensor(asked)).numpy()
    assert np.array_equal(answer, (margins(planted, far) < 0) & asked)
    assert np.array_equal(p.ledger.forwards, asked)
    assert np.array_equal(p.ledger.found.numpy(), answer)
    assert not p.decide(as_tensor(far), as_tensor(np.zeros(6, bool))).numpy().any()
    assert np.array_equal(p.ledger.forwards, asked)


def test_geometry_of_the_box(planted):
    p = problem_of(planted, "linf")
    assert np.allclose(p.low.numpy(), planted.lower - planted.x)
    assert np.allclose(p.high.numpy(), planted.upper - planted.x)
    room = np.maximum(planted.x - planted.lower, planted.upper - planted.x)
    assert np.allclose(p.largest.numpy(), room.max(axis=1))


@pytest.mark.parametrize("norm", ["l0", "l1", "l2", "linf"])
def test_a_descent_is_a_stride_and_the_way_back(planted, norm):
    p = torch_problem_of(planted, norm)
    here = p.gradient(p.x)
    parts = [to_numpy(v).copy() for v in (here.point, here.delta, here.gradient)]
    radius = p.largest * 0.2
    stride = p.norm.stride(here.gradient, radius, 0.7, here.point, p.bounds)
    delta = p.norm.project_box(here.delta - stride, radius, p.low, p.high)
    point = p.descend(here, radius, 0.7)
    assert np.allclose(to_numpy(point), to_numpy(p.x + delta), atol=1e-12)
    assert to_numpy(point).min() >= planted.lower
    assert to_numpy(point).max() <= planted.upper
    # What was answered, and the originals, are nobody's scratch memory.
    for before, after in zip(
        parts, (here.point, here.delta, here.gradient), strict=True
    ):
        assert np.array_equal(before, to_numpy(after))
    assert np.array_equal(to_numpy(p.x), planted.x)


@pytest.mark.parametrize("norm", ["l0", "l1", "l2", "linf"])
def test_a_placed_perturbation_is_answered_as_its_point_is(planted, norm):
    p = torch_problem_of(planted, norm)
    moved = p.rng(0).normal(p.x.shape[1:])
    plain = p.gradient(p.x + moved)
    point = p.place(moved)
    for answer in (p.gradient(point), p.gradient(point)):
        for name in ("point", "delta", "distance", "margin", "gradient"):
            one, other = (to_numpy(getattr(a, name)) for a in (plain, answer))
            assert np.array_equal(one, other)
    assert (p.ledger.forwards == 3).all()


def test_dropped_samples_leave_every_attribute(planted):
    starts = as_tensor(planted.x[::-1].copy())
    p = problem_of(planted, starts=starts)
    numbers = to_numpy(p.rng(2).uniform((3,)))
    p.drop(np.array([True, False, True, False, False, False]))
    kept = [1, 3, 4, 5]
    assert p.size == 4
    assert np.array_equal(p.x.numpy(), planted.x[kept])
    assert np.array_equal(p.starts.numpy(), planted.x[::-1][kept])
    assert np.array_equal(p.low.numpy(), planted.lower - planted.x[kept])
    assert np.array_equal(to_numpy(p.rng(2).uniform((3,))), numbers[kept])
    expected = margins(planted, planted.x)[kept]
    assert np.allclose(p.score(p.x).margin.numpy(), expected)
    back = [0, 4]
    p.reopen(np.array(back))
    assert np.array_equal(p.x.numpy(), planted.x[back])
    assert np.array_equal(p.starts.numpy(), planted.x[::-1][back])
    assert np.array_equal(p.high.numpy(), planted.upper - planted.x[back])
    assert np.array_equal(to_numpy(p.rng(2).uniform((3,))), numbers[back])
    assert np.allclose(p.score(p.x).margin.numpy(), margins(planted, planted.x)[back])
    p.ledger.close()
    assert p.ledger.forwards.tolist() == [1, 1, 0, 1, 2, 1]


def test_scores_and_gradients_for_attacks_with_their_own_loss(planted):
    p = problem_of(planted)
    rows = np.array([4, 1])
    x = as_tensor(planted.x[rows])
    assert np.allclose(p.logits(x, rows).numpy(), planted.logits(planted.x[rows]))
    logits, pull_back = p.linearise(x, rows)
    assert p.ledger.forwards.tolist() == [0, 2, 0, 0, 2, 0]
    assert p.ledger.backwards.sum() == 0
    slopes = np.ones((2, 3))
    gradient = pull_back(as_tensor(slopes)).numpy()
    assert np.allclose(gradient, planted.gradient(planted.x[rows], slopes))
    assert p.ledger.backwards.tolist() == [0, 1, 0, 0, 1, 0]
    assert logits.shape == (2, 3)


def test_an_attack_sees_no_more_than_it_declared(planted):
    p = problem_of(planted)
    p.limit(Access.DECISION, None)
    p.decide(p.x)
    for question in (p.score, p.gradient, p.logits, p.linearise):
        with pytest.raises(BadInput, match="only decision access is given"):
            question(p.x)
    p.limit(Access.SCORE, None)
    p.score(p.x)
    with pytest.raises(BadInput, match="only score access is given"):
        p.gradient(p.x)
    assert (p.ledger.forwards == 2).all()


def test_a_model_without_gradients_says_so(planted):
    model = NumPyModel(planted.logits, Bounds(-3, 5), name="scores only")
    p = problem_of(planted, model=model)
    with pytest.raises(NoGradient, match="'scores only' gives no gradients"):
        p.gradient(p.x)


def test_parameters_get_no_gradients_and_stay_trainable():
    module = torch.nn.Linear(4, 3).eval()
    x, labels = as_tensor(torch.rand(5, 4)), as_tensor(torch.zeros(5).long())
    p = Problem(TorchModel(module), x, Misclassification(labels), get_norm("l2"))
    answer = p.gradient(p.x)
    assert module.weight.grad is None
    assert module.weight.requires_grad
    assert not answer.gradient.raw.requires_grad
    assert not answer.margin.raw.requires_grad


def test_gradients_that_are_no_numbers_become_zero_feature_by_feature(planted):
    def broken(x, slopes):
        gradient = planted.gradient(x, slopes)
        gradient[1, 2], gradient[3, 0], gradient[3, 1] = np.nan, np.inf, -np.inf
        return gradient

    model = NumPyModel(planted.logits, Bounds(-3, 5), gradient=broken)
    broken_one = problem_of(planted, model=model).gradient
    expected = (
        problem_of(planted).gradient(as_tensor(planted.x)).gradient.numpy().copy()
    )
    expected[1, 2] = expected[3, 0] = expected[3, 1] = 0
    assert np.array_equal(broken_one(as_tensor(planted.x)).gradient.numpy(), expected)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seeds_out_of_range(planted, seed):
    with pytest.raises(BadInput, match="seed must be between"):
        problem_of(planted, seed=seed)


@pytest.mark.parametrize("question", ["probe", "probe_scores"])
def test_several_points_per_sample_are_asked_in_the_order_of_their_columns(
    planted, question, monkeypatch
):
    # So that the model is shown them in several parts.
    monkeypatch.setattr("robustkit.engine.problem._AT_ONCE", 4)
    rng = np.random.default_rng(1)
    wanted = planted.x[:, None] + rng.normal(size=(6, 5, planted.x.shape[1])) * 4
    asked = rng.random((6, 5)) < 0.7
    p, q = problem_of(planted), problem_of(planted)
    p.limit(Access.SCORE, 3)
    q.limit(Access.SCORE, 3)
    given = getattr(p, question)(as_tensor(wanted), as_tensor(asked)).numpy()
    for column in range(5):
        margin = margins(planted, wanted[:, column].clip(-3, 5))
        asked_now = asked[:, column]
        if question == "probe":
            assert np.array_equal(given[:, column], (margin < 0) & asked_now)
        else:
            expected = np.where(asked_now, margin, np.inf)
            assert np.allclose(given[:, column], expected)
        for row in np.flatnonzero(asked_now):
            only = np.arange(6) == row
            q.decide(as_tensor(wanted[:, column]), as_tensor(only))
    assert np.array_equal(p.ledger.forwards, asked.sum(axis=1))
    shown = asked.sum(axis=1) if question == "probe" else np.zeros(6)
    assert np.array_equal(p.ledger.decisions, shown)
    assert np.allclose(p.ledger.distance.numpy(), q.ledger.distance.numpy())
    assert np.allclose(p.ledger.best.numpy(), q.ledger.best.numpy())
    assert p.ledger.found.numpy().any()
    for questions in range(6):
        assert np.allclose(
            p.ledger.distance_after(questions), q.ledger.distance_after(questions)
        )


def test_probes_that_are_no_numbers_are_no_adversarials(planted):
    def logits(x):
        scores = planted.logits(x)
        scores[x[:, 0] > 4.9] = np.nan
        return scores

    model = NumPyModel(logits, Bounds(-3, 5), name="NaN at some points")
    p = problem_of(planted, model=model)
    points = np.stack([planted.x, np.full_like(planted.x, 5.0)], axis=1)
    assert np.isposinf(p.probe_scores(as_tensor(points)).numpy()[:, 1]).all()
    assert p.ledger.unknown.tolist() == [
        1 + int(first > 4.9) for first in planted.x[:, 0]
    ]
    assert not p.ledger.found.numpy().any()


def test_margins_are_never_minus_infinity():
    def logits(x):
        # Logarithms of probabilities, one of which vanishes.
        own = np.where(x[:, 0] < 0.5, -np.inf, -0.1)
        return np.stack([own, np.full(len(x), -2.0)], axis=1)

    model = NumPyModel(logits, gradient=lambda x, slopes: np.ones_like(x))
    x, y = as_tensor(np.full((2, 3), 0.6)), as_tensor(np.zeros(2, int))
    p = Problem(model, x, Misclassification(y), get_norm("l2"))
    points = np.array([[0.4, 0.6, 0.6], [0.6, 0.6, 0.6]])
    for margin in (
        p.score(as_tensor(points)).margin.numpy(),
        p.gradient(as_tensor(points)).margin.numpy(),
        p.probe_scores(as_tensor(points[:, None])).numpy()[:, 0],
    ):
        assert np.isfinite(margin).all()
        assert (margin < 0).tolist() == [True, False]


@pytest.mark.parametrize("clipped", [False, True])
def test_some_samples_may_be_asked_about_alone(planted, clipped):
    """By their rows, as if all were asked about with a mask."""
    rows = np.array([3, 1])
    points = np.clip(planted.x[rows][:, None] * [[3.0], [-2.0]], -9, 9)
    some, masked = problem_of(planted), problem_of(planted)
    given = as_tensor(points.copy())
    answers = some.probe(some.clip(given) if clipped else given, rows=rows).numpy()

    everyone = np.repeat(planted.x[:, None], 2, axis=1)
    everyone[rows] = points
    asked = np.isin(np.arange(len(planted.x)), rows)[:, None] & [True, True]
    expected = masked.probe(as_tensor(everyone), as_tensor(asked)).numpy()
    assert answers.any()
    assert (answers == expected[rows]).all()
    assert (some.ledger.forwards == masked.ledger.forwards).all()
    assert (some.ledger.distance.numpy() == masked.ledger.distance.numpy()).all()
    assert (some.ledger.best.numpy() == masked.ledger.best.numpy()).all()
    for count in (1, 2):
        after = some.ledger.distance_after(count)
        assert (after == masked.ledger.distance_after(count)).all()

    ascending = np.sort(rows)
    single = as_tensor(planted.x[ascending] * 3.0)
    decided = some.decide(some.clip(single) if clipped else single, rows=ascending)
    expected = masked.decide(as_tensor(planted.x * 3.0), as_tensor(asked[:, 0]))
    assert (decided.numpy() == expected.numpy()[ascending]).all()
    assert (some.ledger.forwards == masked.ledger.forwards).all()
    assert some.decide(single, rows=rows[:0]).shape == (0,)
    assert (some.ledger.forwards == masked.ledger.forwards).all()


def test_points_decided_about_may_be_written_over_afterwards(planted):
    p = problem_of(planted)
    point = (planted.x * -3.0).clip(-3, 5)
    given = point.copy()
    passed = p.decide(as_tensor(given), inside=True).numpy()
    assert (passed == (margins(planted, point) < 0)).all()
    given[:] = np.nan
    assert passed.any()
    assert (p.ledger.best.numpy()[passed] == point[passed]).all()
    # Even where all have improved, and their points are the best of everyone.
    everyone = Problem(
        NumPyModel(lambda x: np.tile([0.0, 1.0], (len(x), 1)), Bounds(-3, 5)),
        as_tensor(planted.x),
        Misclassification(as_tensor(np.zeros(len(planted.x), dtype=np.int64))),
        get_norm("l2"),
    )
    given = point.copy()
    assert everyone.decide(as_tensor(given), inside=True).numpy().all()
    given[:] = np.nan
    assert (everyone.ledger.best.numpy() == point).all()


def test_listeners_hear_every_distance_of_a_decision(planted):
    heard = []

    class Listening:
        def before_step(self, p, step):
            pass

        def after_question(self, p, margin, distance, rows):
            heard.append((margin, distance, rows))

        def after_gradient(self, p, point, loss, gradient, rows):
            pass

    p, rows = problem_of(planted), np.array([0, 2])
    p.tell((Listening(),))
    point = planted.x[rows] + 0.25
    p.decide(as_tensor(point), rows=rows)
    ((margin, distance, whose),) = heard
    everyone = planted.x + 0.25
    assert margin == pytest.approx(margins(planted, everyone.clip(-3, 5))[rows])
    moved = point.clip(-3, 5) - planted.x[rows]
    assert distance == pytest.approx(np.linalg.norm(moved, axis=1))
    assert (whose == rows).all()


def test_probes_need_the_access_declared(planted):
    p = problem_of(planted)
    p.limit(Access.DECISION, None)
    points = as_tensor(planted.x[:, None])
    p.probe(points)
    with pytest.raises(BadInput, match="only decision access is given"):
        p.probe_scores(points)
