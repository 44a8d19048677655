import numpy as np
import pytest
import torch

from robustkit.attacks.gradient.apgd import APGD
from robustkit.combine import Minimise
from robustkit.engine.criteria import AnyOf, Misclassification, Targeted, TopK
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.errors import BadInput
from robustkit.models.numpy import NumPyModel
from robustkit.models.torch import TorchModel
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor, take

NORMS = ("l1", "l2", "linf")
ORDER = {"l1": 1, "l2": 2, "linf": np.inf}


def problem_of(planted, norm, rows=slice(None), criterion=None, seed=0):
    criterion = criterion or Misclassification(as_tensor(planted.y[rows]))
    x = as_tensor(planted.x[rows])
    return Problem(planted.model(), x, criterion, get_norm(norm), seed=seed)


@pytest.mark.parametrize("norm", NORMS)
def test_finds_what_the_budget_holds_and_nothing_else(plant, norm):
    planted = plant(seed=1, samples=6, classes=2)
    targets = 1 - planted.y
    exact = planted.exact(norm, targets)
    for row in range(len(exact)):
        rows = [row]
        criterion = Targeted(as_tensor(targets[rows]))
        for factor, expected in ((1.01, True), (1 - 1e-5, False)):
            attack = APGD(epsilon=exact[row] * factor, steps=200)
            ledger = run(attack, problem_of(planted, norm, rows, criterion))
            assert ledger.found.numpy()[0] == expected


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"random_start": True},
        {"loss": "dlr", "targets": 3, "random_start": True},
        {"loss": "cross-entropy"},
        {"wide": True, "random_start": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("norm", NORMS)
def test_every_question_lies_in_ball_and_box(plant, norm, settings):
    planted = plant(seed=2, classes=4, bounds=(-1.0, 3.0))
    epsilon, asked = 1.3, []
    model = NumPyModel(
        lambda x: (asked.append(x), planted.logits(x))[1],
        Bounds(-1.0, 3.0),
        gradient=planted.gradient,
    )
    criterion = Misclassification(as_tensor(planted.y))
    problem = Problem(model, as_tensor(planted.x), criterion, get_norm(norm))
    ledger = run(APGD(epsilon, steps=30, stop=False, **settings), problem)
    assert (ledger.forwards == 31).all()
    assert (ledger.backwards == 30).all()
    wide = norm == "l1" and "wide" in settings
    radii = [3 * epsilon] * 10 + [2 * epsilon] * 9 + [epsilon] * 12
    for question, point in enumerate(asked):
        assert ((point >= -1) & (point <= 3)).all()
        size = np.linalg.norm(point - planted.x, ord=ORDER[norm], axis=1)
        radius = radii[question] if wide else epsilon
        assert (size <= radius * (1 + 1e-9)).all()
    random, ranked = "random_start" in settings, "targets" in settings
    assert np.array_equal(asked[0], planted.x) == (ranked or not random)


def bowl(centre):
    """Two classes; the margin is 1 + the squared distance from `centre`."""

    def logits(x):
        squares = 1 + np.square(x - centre).sum(axis=1)
        return np.stack([squares, np.zeros_like(squares)], axis=1)

    def gradient(x, slopes):
        return 2 * (x - centre) * slopes[:, :1]

    return NumPyModel(logits, gradient=gradient)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_steps_shrink_until_the_lowest_point_is_met(norm):
    asked, centre = [], np.array([0.43, 0.56, 0.51])
    model = bowl(centre)
    inner = model.linearise
    model.linearise = lambda x: (asked.append(x.raw.copy()), inner(x))[1]
    x = as_tensor(np.full((1, 3), 0.5))
    criterion = Misclassification(as_tensor(np.array([0])))
    run(APGD(epsilon=0.2, steps=100), Problem(model, x, criterion, get_norm(norm)))
    off = [np.linalg.norm(point[0] - centre) for point in asked]
    assert min(off[:20]) > 1e-2
    assert off[-1] < 5e-3


def decoy():
    """Three classes of one feature: the nearest is out of reach, the other is not."""
    w, b = np.array([[0.0, 0.0, 1.0]]), np.array([1.0, 0.9, 0.0])
    return NumPyModel(
        lambda x: x @ w + b, Bounds(0.0, 2.0), gradient=lambda x, s: s @ w.T
    )


def test_several_targets_are_tried():
    x, label = as_tensor(np.array([[0.2]])), as_tensor(np.array([0]))

    def found(**settings):
        problem = Problem(decoy(), x, Misclassification(label), get_norm("linf"))
        return run(APGD(epsilon=1.5, steps=20, **settings), problem).found.numpy()[0]

    assert not found()
    assert not found(targets=1)
    assert found(targets=2)


def test_where_ways_are_too_few_the_nearest_is_tried_again(plant):
    planted = plant(seed=3)
    epsilon = float(np.median(planted.exact("linf")))
    attack = APGD(epsilon, steps=70, targets=7)
    found = run(attack, problem_of(planted, "linf")).found.numpy()
    assert np.array_equal(found, planted.exact("linf") <= epsilon * (1 + 1e-9))


def test_targets_are_the_ways_of_any_criterion(plant):
    planted = plant(seed=4, classes=4, samples=20)
    second = np.argsort(planted.logits(planted.x), axis=1)[:, -2]
    third = np.argsort(planted.logits(planted.x), axis=1)[:, -3]
    either = AnyOf(Targeted(as_tensor(second)), Targeted(as_tensor(third)))
    attack = Minimise(APGD(1.0, steps=40, targets=2)).within(400)
    both = run(attack, problem_of(planted, "l2", criterion=either)).distance.numpy()
    single = Minimise(APGD(1.0, steps=20)).within(400)
    alone = np.minimum(
        *(
            run(
                single,
                problem_of(planted, "l2", criterion=Targeted(as_tensor(target))),
            ).distance.numpy()
            for target in (second, third)
        )
    )
    assert np.isfinite(alone).all()
    assert np.median(both / alone) <= 1.005


@pytest.mark.parametrize(
    ("norm", "loss"),
    [
        *((norm, "margin") for norm in NORMS),
        *(("l1", "dlr"), ("linf", "cross-entropy")),
    ],
)
def test_minimised_it_reaches_the_only_boundary_there_is(plant, norm, loss):
    # The logits of the other classes are the same everywhere.
    planted = plant(seed=5, classes=2)
    planted.w = np.hstack([planted.w, np.zeros((8, 2))])
    planted.b = np.append(planted.b, [-9.0, -9.0])
    exact = plant(seed=5, classes=2).exact(norm)
    attack = Minimise(APGD(1.0, steps=20, loss=loss)).within(300)
    distance = run(attack, problem_of(planted, norm)).distance.numpy()
    assert (distance >= exact * (1 - 1e-9)).all()
    assert np.median(distance / exact) <= 1.005
    assert (distance <= exact * 1.1).all()


def test_dlr_serves_criteria_for_which_it_is_constant(plant):
    planted = plant(seed=6, classes=4, samples=20)
    criterion = TopK(as_tensor(planted.y), 2)

    def distance(loss):
        attack = Minimise(APGD(1.0, steps=20, loss=loss)).within(300)
        problem = problem_of(planted, "l2", criterion=criterion)
        return run(attack, problem).distance.numpy()

    ratio = distance("dlr") / distance("margin")
    assert np.isfinite(ratio).all()
    assert np.median(ratio) <= 1.01


def test_with_every_option_a_sample_does_not_depend_on_its_company(plant):
    planted = plant(seed=7, classes=4)
    inner = APGD(1.0, steps=16, targets=2, random_start=True, wide=True)

    def distances(rows):
        problem = problem_of(planted, "l1", rows)
        return run(Minimise(inner, steps=100), problem).distance

    whole = distances(np.arange(12))
    for rows in (np.arange(5), np.arange(12)[::-1], np.array([7])):
        assert np.array_equal(distances(rows).numpy(), take(whole, rows).numpy())


def test_stops_at_the_first_success_unless_told_otherwise(plant):
    planted = plant(seed=8)
    epsilon = float(np.median(planted.exact("l2")))
    eager = run(APGD(epsilon, steps=30), problem_of(planted, "l2"))
    patient = run(APGD(epsilon, steps=30, stop=False), problem_of(planted, "l2"))
    found = eager.found.numpy()
    assert 0 < found.sum() < len(found)
    assert (eager.forwards[found] < 31).all()
    assert (eager.forwards[~found] == 31).all()
    assert (patient.forwards == 31).all()


def test_averages_over_the_passes_of_a_random_model(plant):
    planted = plant(seed=9, classes=2, bounds=(0.0, 1.0))
    noise = np.random.default_rng(0)
    steps, passes = [], 40

    def gradient(x, slopes):
        exact = planted.gradient(x, slopes)
        return exact + 3 * np.abs(exact).mean() * noise.normal(size=x.shape)

    model = NumPyModel(planted.logits, gradient=gradient)
    x, criterion = as_tensor(planted.x), Misclassification(as_tensor(planted.y))
    for count in (1, passes):
        problem = Problem(model, x, criterion, get_norm("l2"))
        attack = APGD(1e-3, steps=1, passes=count)
        state = attack.init(problem)
        moved = attack.step(problem, state, 0).delta.raw
        down = -planted.gradient(planted.x, np.eye(2)[planted.y] * 2 - 1)
        low, high = problem.low.raw, problem.high.raw
        down = np.where((low == 0) & (down < 0) | (high == 0) & (down > 0), 0, down)
        size = np.linalg.norm(moved, axis=1) * np.linalg.norm(down, axis=1)
        steps.append(np.mean((moved * down).sum(axis=1) / size))
        assert (problem.ledger.forwards == count).all()
        assert (problem.ledger.backwards == count).all()
    assert steps[1] > 0.9 > steps[0]


def test_plans_its_last_question():
    assert APGD(epsilon=1.0).within(50).steps == 49
    assert APGD(epsilon=1.0, passes=20).within(50).steps == 2
    plan = APGD(epsilon=1.0, targets=9).within(5)
    assert (plan.steps, plan.targets) == (4, 4)


def test_bad_settings(plant):
    planted = plant(classes=4)
    for settings, message in (
        ({"loss": "joint", "targets": 2}, "cannot aim"),
        ({"targets": -1}, "the targets of APGD must be at least 0"),
        ({"passes": 0}, "needs its passes to be above 0"),
        ({"steps": 3, "targets": 4}, "4 targets need as many steps"),
    ):
        with pytest.raises(BadInput, match=message):
            run(APGD(1.0, **settings), problem_of(planted, "l2"))
    with pytest.raises(BadInput, match="epsilon above 0"):
        run(APGD(epsilon=0.0), problem_of(planted, "l2"))
    with pytest.raises(BadInput, match="cannot minimise the norm l0"):
        run(APGD(epsilon=1.0), problem_of(planted, "l0"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("norm", "excess"), [("linf", 1.02), ("l2", 1.02), ("l1", 1.05)]
)
def test_real_networks_whose_exact_distances_are_known(shared, norm, excess):
    ratios = []
    for net in ("linear", "toy20", "mlp14_std"):
        known = shared.exact(net, norm)
        model = TorchModel(shared.exact_model(net).double())
        x = as_tensor(torch.tensor(known["x"].astype(np.float64)))
        criterion = Misclassification(as_tensor(torch.tensor(known["y"]).long()))
        problem = Problem(model, x, criterion, get_norm(norm))
        attack = Minimise(APGD(1.0, steps=20)).within(300)
        distance = run(attack, problem).distance.numpy()
        assert np.isfinite(distance).all()
        assert (distance >= known["distance"] * (1 - 1e-5)).all()
        ratios.extend(distance / known["distance"])
    assert np.median(ratios) <= excess
