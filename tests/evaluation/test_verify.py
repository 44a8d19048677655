import numpy as np
import pytest

from robustkit.engine.criteria import Misclassification
from robustkit.evaluation.curve import proportion
from robustkit.evaluation.verify import confirm, confirm_repeatedly, held
from robustkit.models.numpy import NumPyModel
from robustkit.numerics.norms import L0, Linf
from robustkit.numerics.tensors import as_tensor

X = np.array([[0.6, 0.2], [0.6, 0.2]], dtype=np.float32)
CRITERION = Misclassification(as_tensor(np.array([0, 0])))


def model(shift=0.0):
    return NumPyModel(lambda x: np.stack([x[:, 0], x[:, 1] + shift], axis=1))


def test_a_true_adversarial_is_confirmed_with_its_own_distance():
    points = np.array([[0.3, 0.5], [0.1, 0.2]], dtype=np.float32)
    kept, distance, wrong = confirm(model(), CRITERION, X, points, Linf())
    assert wrong == ["", ""]
    np.testing.assert_array_equal(kept, points)
    exact = np.abs(points.astype(float) - X.astype(float)).max(axis=1)
    np.testing.assert_array_equal(distance, exact)


def test_a_point_short_of_the_boundary_by_rounding_is_pushed_over_it():
    points = np.array([[0.4, 0.4 - 1e-5], [0.3, 0.5]], dtype=np.float32)
    kept, distance, wrong = confirm(model(), CRITERION, X, points, Linf())
    assert wrong == ["", ""]
    assert kept[0, 1] > kept[0, 0]
    assert 0.2 < distance[0] <= 0.2 * 1.001 + 1e-7


@pytest.mark.parametrize(
    ("point", "reason"),
    [
        ([0.5, 0.3], "margin"),
        ([np.nan, 0.9], "not finite"),
        ([0.2, 1.1], "leave the bounds"),
    ],
)
def test_a_false_claim_is_named_and_spoils_no_other(point, reason):
    points = np.array([point, [0.3, 0.5]], dtype=np.float32)
    _, _, wrong = confirm(model(), CRITERION, X, points, Linf())
    assert reason in wrong[0]
    assert wrong[1] == ""


def test_a_wrong_dtype_is_named():
    points = np.array([[0.3, 0.5]] * 2, dtype=np.float64)
    _, _, wrong = confirm(model(), CRITERION, X, points, Linf())
    assert all("float64" in reason for reason in wrong)


def test_a_margin_of_zero_is_no_adversarial():
    points = np.array([[0.2, 0.2], [0.3, 0.5]], dtype=np.float32)
    constant = NumPyModel(lambda x: np.zeros((len(x), 2)))
    _, _, wrong = confirm(constant, CRITERION, X, points, L0())
    assert all("margin 0" in reason for reason in wrong)


def test_the_precise_model_has_the_last_word():
    rough = model(shift=0.05)
    rough.precise = model
    # To the rough model, the first is adversarial by far, the second by little.
    points = np.array([[0.6, 0.58], [0.4, 0.395]], dtype=np.float32)
    kept, distance, wrong = confirm(rough, CRITERION, X, points, Linf())
    assert wrong == ["", ""]
    assert (kept[:, 1] > kept[:, 0]).all()
    assert distance[0] == pytest.approx(0.38 * 1.1, rel=1e-5)
    assert distance[1] == pytest.approx(0.2 * 1.03, rel=1e-5)
    # A precise model is not forgiven that much.
    assert all(confirm(model(), CRITERION, X, points, Linf())[2])


def noisy(spread, seed=0):
    """The first margin of `model`, with noise of its own in each answer."""
    rng = np.random.default_rng(seed)

    def function(x):
        noise = spread * rng.normal(size=len(x))
        return np.stack([x[:, 0] - x[:, 1] + noise, 0 * x[:, 0]], axis=1)

    return NumPyModel(function)


def test_one_lucky_draw_is_no_success():
    # A margin of 0.3 with noise of 0.3: adversarial in 16 % of the draws.
    points = np.array([[0.55, 0.25], [0.3, 0.5]], dtype=np.float32)
    _, distance, successes, wrong = confirm_repeatedly(
        noisy(0.3), CRITERION, X, points, Linf(), draws=200
    )
    assert "fresh draws" in wrong[0]
    assert 10 <= successes[0] <= 90
    assert wrong[1] == ""
    assert distance[1] == pytest.approx(0.3, abs=1e-6)


def test_a_point_at_the_mean_boundary_is_pushed_until_it_holds():
    points = np.array([[0.4, 0.4]] * 2, dtype=np.float32)
    kept, distance, successes, wrong = confirm_repeatedly(
        noisy(0.1), CRITERION, X, points, Linf(), draws=200
    )
    assert wrong == ["", ""]
    assert (successes >= 115).all()
    # A share q of the draws needs a margin of -0.1 times the normal quantile of q: some
    # 0.25 standard deviations for 60 %, so 6 % more of a perturbation of 0.2.
    assert (distance > 0.2).all()
    assert (distance <= 0.29).all()
    assert (kept[:, 1] > kept[:, 0]).all()


def test_what_is_stated_comes_from_draws_that_chose_nothing():
    """A coin is held for a success by chance only, and then not twice."""
    rng = np.random.default_rng(5)
    coins = NumPyModel(lambda x: rng.normal(size=(len(x), 2)))
    x = np.tile(X[:1], (400, 1))
    criterion = Misclassification(as_tensor(np.zeros(400, dtype=np.int64)))
    *_, wrong = confirm_repeatedly(coins, criterion, x, x + 0.1, Linf(), draws=100)
    # 1.8 % of coins pass once in 100 draws, 0.03 % twice; each point is tried 8 times.
    assert sum(not reason for reason in wrong) <= 5


def test_held_is_the_lower_end_of_the_interval():
    for draws in (10, 25, 100):
        for count in range(draws + 1):
            expected = proportion(count, draws).lower > 0.5
            assert held(np.array([count]), draws)[0] == expected
