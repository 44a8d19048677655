import numpy as np
import pytest

from robustkit.attacks.gradient.fgsm import FGSM
from robustkit.attacks.gradient.pgd import PGD
from robustkit.engine.criteria import Misclassification, Targeted
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.errors import BadInput
from robustkit.models.numpy import NumPyModel
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor, take

NORMS = ("l1", "l2", "linf")


def problem_of(planted, norm, rows=slice(None), criterion=None):
    criterion = criterion or Misclassification(as_tensor(planted.y[rows]))
    x = as_tensor(planted.x[rows])
    return Problem(planted.model(), x, criterion, get_norm(norm))


def test_exact_where_all_features_move_alike(plant):
    planted = plant(seed=1, classes=2)
    exact = planted.exact("linf", 1 - planted.y)
    criterion = Targeted(as_tensor(1 - planted.y))
    ledger = run(FGSM(), problem_of(planted, "linf", criterion=criterion))
    distance = ledger.distance.numpy()
    assert (distance >= exact * (1 - 1e-9)).all()
    assert (distance <= exact * 1.001).all()


@pytest.mark.parametrize("norm", NORMS)
def test_is_the_smallest_radius_at_which_one_step_succeeds(plant, norm):
    planted = plant(seed=2, classes=2)
    # What the box cuts off a step makes its distance smaller than its radius.
    planted.lower, planted.upper = -100.0, 100.0
    distance = run(FGSM(steps=40), problem_of(planted, norm)).distance.numpy()
    assert np.isfinite(distance).sum() > 6
    for row in np.flatnonzero(np.isfinite(distance)):
        for factor, expected in ((1.001, True), (0.99, False)):
            one_step = PGD(distance[row] * factor, steps=1, stop=False)
            found = run(one_step, problem_of(planted, norm, [row])).found.numpy()
            assert found[0] == expected


@pytest.mark.parametrize("norm", NORMS)
def test_passes_and_company(plant, norm):
    planted = plant(seed=3)
    whole = run(FGSM(steps=9), problem_of(planted, norm))
    assert (whole.forwards <= 10).all()
    assert whole.forwards.max() == 10
    assert (whole.backwards == 1).all()
    rows = np.array([7, 2])
    part = run(FGSM(steps=9), problem_of(planted, norm, rows))
    assert np.array_equal(part.distance.numpy(), take(whole.distance, rows).numpy())


def test_gives_up_at_the_end_of_the_box(plant):
    planted = plant(seed=4, classes=2)
    planted.b = planted.b + np.where(np.arange(2) == planted.y[0], 100.0, 0.0)
    planted.y[:] = planted.y[0]
    ledger = run(FGSM(steps=50), problem_of(planted, "l2"))
    assert not ledger.found.numpy().any()
    assert (ledger.forwards < 10).all()


def test_nothing_is_found_where_the_gradient_vanishes():
    model = NumPyModel(
        lambda x: np.hstack([x * 0 + 1, x * 0]), gradient=lambda x, s: x * 0
    )
    criterion = Misclassification(as_tensor(np.array([0])))
    problem = Problem(model, as_tensor(np.array([[0.5]])), criterion, get_norm("linf"))
    assert not run(FGSM(), problem).found.numpy()[0]


def test_plans_its_first_question_and_knows_its_norms(plant):
    assert FGSM().within(50).steps == 49
    with pytest.raises(BadInput, match="cannot minimise the norm l0"):
        run(FGSM(), problem_of(plant(), "l0"))
