"""Blur, rotations and shifts: attacks on images only."""

import numpy as np
import pytest
from scipy import ndimage

from robustkit.attacks.baseline.blur import GaussianBlur
from robustkit.attacks.baseline.spatial import Spatial
from robustkit.combine import Cascade
from robustkit.engine.criteria import Misclassification
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.errors import BadInput
from robustkit.models.numpy import NumPyModel
from robustkit.models.torch import TorchModel
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor

ATTACKS = (GaussianBlur, Spatial)


def images(count=5, side=8, channels=2, seed=0):
    """Bright spots of different shapes near the middle of dark images."""
    rng = np.random.default_rng(seed)
    x = np.zeros((count, channels, side, side))
    x[:, :, 3:5, 3:5] = rng.uniform(0.6, 1.0, (count, channels, 2, 2))
    return x


def middle(threshold=0.45, lower=0.0, width=1.0, log=None):
    """Class 0 where the middle of the image is brighter than the threshold."""

    def function(x):
        if log is not None:
            log.append(len(x))
        score = (x[:, :, 3:5, 3:5].mean(axis=(1, 2, 3)) - lower) / width - threshold
        return np.stack([score, np.zeros_like(score)], axis=1)

    return NumPyModel(function, Bounds(lower, lower + width))


def attacked(attack, model, x, norm="l2", **more):
    budget = more.pop("budget", None)
    criterion = Misclassification(as_tensor(np.zeros(len(x), dtype=np.int64)))
    p = Problem(model, as_tensor(x), criterion, get_norm(norm), **more)
    return run(attack, p, budget=budget)


def test_the_least_blur_that_does_is_found():
    x = images()
    ledger = attacked(GaussianBlur(), middle(), x)
    for image, best in zip(x, ledger.best.raw, strict=True):
        low, high = 0.0, 4.0
        for _ in range(40):
            half = (low + high) / 2
            blurred = ndimage.gaussian_filter(image, (0, half, half))
            done = blurred[:, 3:5, 3:5].mean() < 0.45
            low, high = (low, half) if done else (half, high)
        exact = ndimage.gaussian_filter(image, (0, high, high))
        assert np.linalg.norm(best - image) == pytest.approx(
            np.linalg.norm(exact - image), rel=5e-3
        )
    assert (ledger.forwards < 40).all()


def test_images_without_a_blur_that_does_are_given_up():
    x = images()
    x[0] = 0.9
    ledger = attacked(GaussianBlur(), middle(), x)
    assert ledger.found.raw.tolist() == [False, True, True, True, True]
    assert ledger.forwards[0] < 40


def test_nothing_is_asked_once_no_blur_is_left_to_try():
    x = images()
    x[0] = 0.9
    alone = attacked(GaussianBlur(), middle(), x)
    # In a cascade nobody leaves before all steps are over.
    cascade = attacked(Cascade((GaussianBlur(steps=1000),)), middle(), x)
    assert np.array_equal(cascade.forwards, alone.forwards)
    assert np.array_equal(cascade.best.raw, alone.best.raw)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"first": 0.0}, "its first to be above 0"), ({"growth": 1.0}, "growth above 1")],
)
def test_a_blur_that_never_grows_is_refused(settings, message):
    with pytest.raises(BadInput, match=message):
        attacked(GaussianBlur(**settings), middle(), images())


@pytest.mark.parametrize("turn", [(0.5, 0.0, 0.0), (0.0, 0.3, -0.2), (1.0, 1.0, 0.5)])
def test_images_are_moved_bilinearly(turn):
    x = np.random.default_rng(0).random((1, 2, 9, 9))
    p = Problem(
        middle(),
        as_tensor(x),
        Misclassification(as_tensor(np.zeros(1, dtype=np.int64))),
        get_norm("l2"),
    )
    spatial = Spatial(rotation=20, shift=0.2)
    moved = spatial._moved(p, np.array([turn]), np.ones(1, dtype=bool)).raw[0]
    angle = np.deg2rad(20) * turn[0]
    expected = np.zeros_like(moved)
    for row in range(9):
        for column in range(9):
            # Where the pixel came from: turned back around the middle.
            y = row - 4 - 0.2 * 9 * turn[1]
            z = column - 4 - 0.2 * 9 * turn[2]
            at = (
                4 + np.cos(angle) * y - np.sin(angle) * z,
                4 + np.sin(angle) * y + np.cos(angle) * z,
            )
            for i in range(9):
                for j in range(9):
                    weight = max(1 - abs(at[0] - i), 0) * max(1 - abs(at[1] - j), 0)
                    expected[:, row, column] += weight * x[0, :, i, j]
    inside = slice(3, 6)
    np.testing.assert_allclose(
        moved[:, inside, inside], expected[:, inside, inside], atol=1e-9
    )


def test_standing_still_changes_nothing():
    x = images()
    p = Problem(
        middle(),
        as_tensor(x),
        Misclassification(as_tensor(np.zeros(5, dtype=np.int64))),
        get_norm("l2"),
    )
    still = Spatial()._moved(p, np.zeros((5, 3)), np.ones(5, dtype=bool)).raw
    np.testing.assert_allclose(still, x, atol=1e-12)


def test_the_shortest_shift_is_found():
    # One pixel of 0.9 is darkened by what leaves it: 0.5 along one side is least.
    x = np.zeros((1, 1, 9, 9))
    x[0, 0, :, 4] = 0.9

    def function(points):
        score = points[:, 0, :, 4].mean(axis=1) - 0.45
        return np.stack([score, np.zeros_like(score)], axis=1)

    spatial = Spatial(rotation=0, shift=1 / 9)
    ledger = attacked(spatial, NumPyModel(function), x, "linf")
    assert 0.45 <= ledger.distance.raw[0] < 0.455


def test_limits_are_kept():
    x = images()
    assert attacked(Spatial(shift=0.3), middle(0.4), x).found.raw.all()
    still = attacked(Spatial(rotation=0.5, shift=0.005, steps=150), middle(0.4), x)
    assert not still.found.raw.any()


@pytest.mark.parametrize("attack", [GaussianBlur(), Spatial(shift=0.3, steps=60)])
def test_a_sample_gets_the_same_result_in_any_company(attack):
    x = images()
    together = attacked(attack, middle(), x)
    assert together.found.raw.any()
    for row in range(5):
        alone = attacked(attack, middle(), x[row : row + 1])
        assert alone.distance.raw[0] == together.distance.raw[row]
        assert alone.forwards[0] == together.forwards[row]


@pytest.mark.parametrize("attack", [GaussianBlur(), Spatial(shift=0.3, steps=60)])
def test_other_bounds_give_the_rescaled_result(attack):
    x = images()
    keys = np.arange(5, dtype=np.uint64)
    unit = attacked(attack, middle(), x, keys=keys)
    moved = middle(lower=-3.0, width=8.0)
    scaled = attacked(attack, moved, 8 * x - 3, keys=keys)
    assert scaled.distance.raw == pytest.approx(8 * unit.distance.raw, rel=1e-6)


@pytest.mark.parametrize("attack", [GaussianBlur(), Spatial(shift=0.3, steps=60)])
def test_every_question_is_counted_and_budgets_are_kept(attack):
    log, x = [], images()
    whole = attacked(attack, middle(log=log), x)
    assert sum(log) == whole.forwards.sum() == whole.decisions.sum()
    for budget in (1, 7, 20):
        part = attacked(attack, middle(), x, budget=budget)
        assert (part.distance.raw == whole.distance_after(budget)).all()
        assert (part.forwards <= budget).all()


@pytest.mark.parametrize("attack", [GaussianBlur, Spatial])
def test_channels_may_come_last(attack):
    x = images()

    def function(points):
        score = points[:, 3:5, 3:5].mean(axis=(1, 2, 3)) - 0.45
        return np.stack([score, np.zeros_like(score)], axis=1)

    keys = np.arange(5, dtype=np.uint64)
    first = attacked(attack(steps=40), middle(), x, keys=keys)
    last = attacked(
        attack(steps=40, channels_last=True),
        NumPyModel(function),
        np.moveaxis(x, 1, 3),
        keys=keys,
    )
    assert last.distance.raw == pytest.approx(first.distance.raw)


@pytest.mark.parametrize("attack", [GaussianBlur, Spatial])
def test_inputs_that_are_no_images_are_refused(attack):
    with pytest.raises(BadInput, match="needs images"):
        attacked(attack(), middle(), np.zeros((2, 30)))


@pytest.mark.slow
def test_blur_is_at_least_as_good_as_foolbox(shared):
    import torch

    foolbox = pytest.importorskip("foolbox")
    model = shared.torch_model("mnist_cnn_a_adv")
    inputs, labels = shared.images("mnist")
    with torch.no_grad():
        right = model(torch.tensor(inputs[:60])).argmax(1).numpy() == labels[:60]
    rows = np.flatnonzero(right)[:12]
    x, y = torch.tensor(inputs[rows]), torch.tensor(labels[rows])
    p = Problem(
        TorchModel(model), as_tensor(x), Misclassification(as_tensor(y)), get_norm("l2")
    )
    ledger = run(GaussianBlur(), p)
    guest = foolbox.PyTorchModel(model, bounds=(0, 1))
    theirs = foolbox.attacks.GaussianBlurAttack(steps=60, channel_axis=1).run(
        guest, x, foolbox.criteria.Misclassification(y)
    )
    with torch.no_grad():
        found = model(theirs).argmax(1) != y
    distance = (theirs - x).flatten(1).norm(dim=1)
    distance[~found] = np.inf
    assert ledger.forwards.max() < 60
    assert np.median(ledger.distance.numpy()) <= 1.02 * np.median(distance.numpy())
