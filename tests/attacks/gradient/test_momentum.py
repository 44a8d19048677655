import numpy as np
import pytest

from robustkit.attacks.gradient.momentum import MIFGSM
from robustkit.combine import Minimise
from robustkit.engine.criteria import Misclassification, Targeted
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.errors import BadInput
from robustkit.models.numpy import NumPyModel
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor, take

NORMS = ("l1", "l2", "linf")
ORDER = {"l1": 1, "l2": 2, "linf": np.inf}


def problem_of(planted, norm, rows=slice(None), criterion=None):
    criterion = criterion or Misclassification(as_tensor(planted.y[rows]))
    x = as_tensor(planted.x[rows])
    return Problem(planted.model(), x, criterion, get_norm(norm))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("nesterov", [False, True])
def test_minimised_it_reaches_the_only_boundary_there_is(plant, norm, nesterov):
    planted = plant(seed=1, classes=2)
    criterion = Targeted(as_tensor(1 - planted.y))
    inner = MIFGSM(1.0, steps=20, nesterov=nesterov, loss="margin")
    problem = problem_of(planted, norm, criterion=criterion)
    distance = run(Minimise(inner).within(300), problem).distance.numpy()
    exact = planted.exact(norm, 1 - planted.y)
    assert (distance >= exact * (1 - 1e-9)).all()
    assert np.median(distance / exact) <= 1.02
    assert (distance <= exact * 1.3).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("nesterov", [False, True])
def test_every_question_lies_in_ball_and_box(plant, norm, nesterov):
    planted = plant(seed=2, bounds=(-1.0, 3.0))
    epsilon, asked = 1.3, []
    model = NumPyModel(
        lambda x: (asked.append(x), planted.logits(x))[1],
        Bounds(-1.0, 3.0),
        gradient=planted.gradient,
    )
    criterion = Misclassification(as_tensor(planted.y))
    attack = MIFGSM(epsilon, nesterov=nesterov, stop=False)
    problem = Problem(model, as_tensor(planted.x), criterion, get_norm(norm))
    ledger = run(attack, problem)
    assert (ledger.forwards == 11).all()
    assert (ledger.backwards == 10).all()
    assert np.array_equal(asked[0], planted.x)
    for point in asked:
        assert ((point >= -1) & (point <= 3)).all()
        size = np.linalg.norm(point - planted.x, ord=ORDER[norm], axis=1)
        assert (size <= epsilon * (1 + 1e-9)).all()


@pytest.mark.parametrize("nesterov", [False, True])
def test_steps_follow_the_published_formula(nesterov):
    """By hand for Linf: g <- decay g + grad / mean|grad|, x <- x - alpha sign(g)."""
    rng = np.random.default_rng(0)
    w, v = rng.normal(size=(2, 5))
    points = []

    def logits(x):
        points.append(x.copy())
        waves = np.sin(20 * x) @ w + x @ v + 30
        return np.stack([waves, np.zeros_like(waves)], axis=1)

    def slope(x):
        return 20 * np.cos(20 * x) * w + v

    model = NumPyModel(logits, gradient=lambda x, s: s[:, :1] * slope(x))
    x = rng.uniform(0.4, 0.6, size=(1, 5))
    epsilon, steps, decay = 0.2, 8, 0.7
    criterion = Misclassification(as_tensor(np.array([0])))
    attack = MIFGSM(epsilon, steps, decay, nesterov=nesterov, loss="margin")
    run(attack, Problem(model, as_tensor(x), criterion, get_norm("linf")))
    here, momentum, alpha, expected = x.copy(), np.zeros_like(x), epsilon / steps, []
    for _ in range(steps):
        ahead = here - alpha * decay * momentum if nesterov else here
        ahead = ahead.clip(x - epsilon, x + epsilon)
        expected.append(ahead)
        gradient = slope(ahead)
        momentum = decay * momentum + gradient / np.abs(gradient).mean()
        here = (here - alpha * np.sign(momentum)).clip(x - epsilon, x + epsilon)
    assert np.allclose(points, [*expected, here])


def test_a_sample_does_not_depend_on_its_company(plant):
    planted = plant(seed=3)
    attack = Minimise(MIFGSM(1.0, steps=8, nesterov=True), steps=60)
    whole = run(attack, problem_of(planted, "l2")).distance
    rows = np.array([7, 2, 5])
    part = run(attack, problem_of(planted, "l2", rows)).distance
    assert np.array_equal(part.numpy(), take(whole, rows).numpy())


def test_stops_at_the_first_success(plant):
    planted = plant(seed=4)
    epsilon = float(np.median(planted.exact("linf")))
    ledger = run(MIFGSM(epsilon, steps=30), problem_of(planted, "linf"))
    found = ledger.found.numpy()
    assert 0 < found.sum() < len(found)
    assert (ledger.forwards[found] < 31).any()
    assert (ledger.forwards[~found] == 31).all()


def test_plans_its_last_question():
    assert MIFGSM(epsilon=1.0).within(50).steps == 49


def test_bad_settings(plant):
    for settings, message in (
        ({"decay": -1.0}, "the decay of MIFGSM must be at least 0"),
        ({"reach": 0.0}, "needs its reach to be above 0"),
        ({"decay": float("nan")}, "the decay of MIFGSM must be a finite number"),
    ):
        with pytest.raises(BadInput, match=message):
            run(MIFGSM(1.0, **settings), problem_of(plant(), "l2"))
    with pytest.raises(BadInput, match="epsilon above 0"):
        run(MIFGSM(epsilon=0.0), problem_of(plant(), "l2"))
