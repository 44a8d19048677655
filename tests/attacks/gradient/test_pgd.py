import numpy as np
import pytest

from robustkit.attacks.gradient.pgd import PGD
from robustkit.engine.criteria import Misclassification, Targeted
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.errors import BadInput
from robustkit.models.numpy import NumPyModel
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.norms import get_norm
from robustkit.numerics.random import Rng
from robustkit.numerics.tensors import as_tensor, to_numpy

NORMS = ("l1", "l2", "linf")


def problem_of(planted, norm, rows=slice(None), criterion=None, seed=0):
    criterion = criterion or Misclassification(as_tensor(planted.y[rows]))
    x = as_tensor(planted.x[rows])
    return Problem(planted.model(), x, criterion, get_norm(norm), seed=seed)


@pytest.mark.parametrize("norm", NORMS)
def test_finds_what_the_budget_holds_and_nothing_else(plant, norm):
    planted = plant(seed=1, samples=6, classes=2)
    targets = 1 - planted.y
    exact = planted.exact(norm, targets)
    slack = 1.02 if norm == "l1" else 1.001
    for row in range(len(exact)):
        rows = [row]
        criterion = Targeted(as_tensor(targets[rows]))
        for factor, expected in ((slack, True), (1 - 1e-6, False)):
            attack = PGD(epsilon=exact[row] * factor, steps=200)
            ledger = run(attack, problem_of(planted, norm, rows, criterion))
            assert ledger.found.numpy()[0] == expected
            assert not expected or ledger.distance.numpy()[0] <= attack.epsilon + 1e-9


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("random_start", [False, True])
def test_every_question_lies_in_ball_and_box(plant, norm, random_start):
    planted = plant(seed=2, bounds=(-1.0, 3.0))
    epsilon, asked = 1.3, []
    model = NumPyModel(
        lambda x: (asked.append(x), planted.logits(x))[1],
        Bounds(-1.0, 3.0),
        gradient=planted.gradient,
    )
    criterion = Misclassification(as_tensor(planted.y))
    x = as_tensor(planted.x)
    attack = PGD(epsilon=epsilon, steps=15, random_start=random_start, stop=False)
    run(attack, Problem(model, x, criterion, get_norm(norm)))
    assert len(asked) == 16
    order = {"l1": 1, "l2": 2, "linf": np.inf}[norm]
    for point in asked:
        assert ((point >= -1) & (point <= 3)).all()
        size = np.linalg.norm(point - planted.x, ord=order, axis=1)
        assert (size <= epsilon * (1 + 1e-9)).all()
    assert np.array_equal(asked[0], planted.x) != random_start


def test_stops_at_the_first_success_unless_told_otherwise(plant):
    planted = plant(seed=3)
    epsilon = float(np.median(planted.exact("l2")))
    steps = 30
    eager = run(PGD(epsilon, steps=steps), problem_of(planted, "l2"))
    patient = run(PGD(epsilon, steps=steps, stop=False), problem_of(planted, "l2"))
    found = eager.found.numpy()
    assert 0 < found.sum() < len(found)
    assert (eager.forwards[found] < steps).all()
    assert (eager.forwards[~found] == steps + 1).all()
    assert (eager.backwards[~found] == steps).all()
    assert (patient.forwards == steps + 1).all()
    assert np.array_equal(patient.found.numpy(), found)


def test_one_step_is_the_corner_of_the_ball(plant):
    planted = plant(seed=4)
    epsilon = 0.1
    ledger = run(PGD(epsilon, steps=1, stop=False), problem_of(planted, "linf"))
    assert (ledger.forwards == 2).all()
    scores = planted.logits(planted.x)
    rival = np.where(np.eye(3, dtype=bool)[planted.y], -np.inf, scores).argmax(axis=1)
    corner = (
        planted.x - epsilon * np.sign(planted.w[:, planted.y] - planted.w[:, rival]).T
    )
    moved = planted.logits(corner.clip(planted.lower, planted.upper))
    assert np.array_equal(ledger.found.numpy(), moved.argmax(axis=1) != planted.y)


def test_random_starts_depend_on_the_sample_and_the_seed_alone(plant):
    planted = plant(seed=5)
    attack = PGD(epsilon=0.5, random_start=True)

    def starts(rows, seed=0):
        p = problem_of(planted, "l2", rows, seed=seed)
        return to_numpy(attack.init(p).point)

    all_rows = np.arange(len(planted.x))
    whole = starts(all_rows)
    assert np.array_equal(starts(all_rows[::-1]), whole[::-1])
    assert np.array_equal(starts([3]), whole[3:4])
    assert not np.array_equal(starts(all_rows, seed=1), whole)
    assert isinstance(problem_of(planted, "l2").rng(-1), Rng)


@pytest.mark.parametrize("norm", NORMS)
def test_cross_entropy_finds_the_same_half_space(plant, norm):
    planted = plant(seed=6, classes=2)
    epsilon = float(1.1 * planted.exact(norm).max())
    attack = PGD(epsilon, steps=60, loss="cross-entropy")
    assert run(attack, problem_of(planted, norm)).found.numpy().all()


def test_plans_its_last_question():
    assert PGD(epsilon=1.0).within(50).steps == 49
    assert PGD(epsilon=1.0).within(1).steps == 1


def test_bad_settings(plant):
    planted = plant()
    with pytest.raises(BadInput, match="epsilon above 0"):
        run(PGD(epsilon=0.0), problem_of(planted, "l2"))
    with pytest.raises(BadInput, match="the epsilon of PGD must be a finite number"):
        run(PGD(epsilon=float("inf")), problem_of(planted, "l2"))
    with pytest.raises(BadInput, match="the epsilon of PGD must be a finite number"):
        run(PGD(epsilon=float("nan")), problem_of(planted, "l2"))
    with pytest.raises(BadInput, match="cannot minimise the norm l0"):
        run(PGD(epsilon=1.0), problem_of(planted, "l0"))
