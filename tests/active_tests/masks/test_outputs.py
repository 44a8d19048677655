"""Masks of scores and gradients: decisions stay, gradients do what they are to do."""

import numpy as np
import pytest

import robustkit as rk
from robustkit.active_tests.masks import (
    MASKS,
    masked,
    noisy_gradient,
    probabilities,
    scaled,
)
from robustkit.active_tests.planted import affine, min_of_affines
from robustkit.errors import BadInput
from robustkit.models.base import NoGradient
from robustkit.numerics.tensors import to_numpy

MAKES = [affine, min_of_affines]


def ask(model, x):
    return to_numpy(model.logits(model.to_tensor(x)))


def gradient(model, x, slopes):
    logits, pull_back = model.linearise(model.to_tensor(x))
    return to_numpy(logits), to_numpy(pull_back(model.to_tensor(slopes)))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", MASKS)
def test_every_decision_stays(name, dtype):
    problem = affine(seed=1, samples=50, dtype=dtype)
    hidden = masked(problem, name)
    rng = np.random.default_rng(0)
    x = rng.random((300, 8)).astype(dtype)
    plain, shown = ask(problem.model, x), ask(hidden.model, x)
    assert shown.dtype == dtype
    assert (shown.argmax(axis=1) == plain.argmax(axis=1)).all()
    assert (hidden.exact("l1") == problem.exact("l1")).all()
    assert hidden.name == f"affine, {name}"
    assert hidden.model.bounds == problem.bounds


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("name", ["scaled-up", "scaled-down", "probabilities"])
def test_masks_of_scores_have_true_gradients(name, make):
    problem = masked(make(seed=2, samples=6), name)
    rng = np.random.default_rng(1)
    x = problem.x * 0.8 + 0.1
    slopes, way = rng.normal(size=ask(problem.model, x).shape), rng.normal(size=x.shape)
    _, found = gradient(problem.model, x, slopes)
    h = 1e-6
    rise = ask(problem.model, x + h * way) - ask(problem.model, x - h * way)
    expected = (rise * slopes).sum(axis=1) / (2 * h)
    scale = np.abs(expected).max()
    np.testing.assert_allclose((found * way).sum(axis=1) / scale, expected / scale,
                               rtol=1e-5, atol=1e-6)  # fmt: skip


def test_each_mask_of_the_gradient_does_what_it_says():
    problem = affine(seed=3, samples=5)
    slopes = np.random.default_rng(2).normal(size=(5, 3))
    logits, plain = gradient(problem.model, problem.x, slopes)

    def behind(name):
        shown, hidden = gradient(MASKS[name](problem.model), problem.x, slopes)
        if name != "one-hot":
            assert (shown == logits).all()
        return hidden

    assert (behind("zero-gradient") == 0).all()
    assert (behind("one-hot") == 0).all()
    assert (behind("reversed-gradient") == -plain).all()
    np.testing.assert_allclose(behind("tiny-gradient") * 1e30, plain, rtol=1e-12)
    noise = behind("noisy-gradient")
    length = np.linalg.norm(plain, axis=1)
    np.testing.assert_allclose(np.linalg.norm(noise, axis=1), length, rtol=1e-12)
    cosine = (noise * plain).sum(axis=1) / length**2
    assert np.abs(cosine).max() < 0.99
    with pytest.raises(NoGradient, match="affine, detached"):
        gradient(MASKS["detached"](problem.model), problem.x, slopes)


def test_noise_depends_on_input_and_seed_and_on_nothing_else():
    problem = affine(seed=4, samples=6)
    slopes = np.ones((6, 3)) * [1.0, -1.0, 0.5]
    model = noisy_gradient(problem.model, seed=1)
    _, together = gradient(model, problem.x, slopes)
    _, alone = gradient(model, problem.x[2:3], slopes[2:3])
    assert (alone[0] == together[2]).all()
    _, other = gradient(noisy_gradient(problem.model, seed=2), problem.x, slopes)
    assert (other != together).any()


def test_cross_entropy_vanishes_behind_large_scores():
    problem = affine(seed=5, samples=6, dtype=np.float32)
    hidden = masked(problem, "scaled-up")
    criterion = hidden.criterion()
    logits, pull_back = hidden.model.linearise(hidden.model.to_tensor(hidden.x))
    assert (to_numpy(pull_back(criterion.cross_entropy(logits)[1])) == 0).all()
    assert (to_numpy(pull_back(criterion.slopes(logits)[1])) != 0).any()


def test_attacks_see_the_mask():
    problem = affine(seed=6, samples=6)
    exact = problem.exact("l2")

    def found(model):
        return rk.run("ddn", model, problem.x, problem.y, norm="l2").distance

    plain = found(problem.model)
    tiny = found(masked(problem, "tiny-gradient").model)
    wrong = found(masked(problem, "reversed-gradient").model)
    np.testing.assert_allclose(tiny, plain, rtol=1e-2)
    assert (wrong > 1.05 * plain).any()
    for distance in (plain, tiny, wrong):
        assert (distance >= exact * (1 - 1e-9)).all()


def test_masks_can_be_worn_together():
    problem = affine(seed=7, samples=4)
    both = scaled(probabilities(problem.model), 3.0)
    np.testing.assert_allclose(ask(both, problem.x).sum(axis=1), 3.0, rtol=1e-12)
    assert both.name == "affine, softmax, logits times 3"


def test_unknown_masks_and_factors_are_refused():
    with pytest.raises(BadInput, match="did you mean 'one-hot'"):
        masked(affine(samples=1), "one_hot")
    with pytest.raises(BadInput, match="above 0; got -1"):
        scaled(affine(samples=1).model, -1)
