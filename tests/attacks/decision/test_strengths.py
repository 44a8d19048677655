import numpy as np
import pytest

from robustkit.attacks.decision.strengths import of_frequencies, of_pixels
from robustkit.numerics.frequencies import low_frequencies
from robustkit.numerics.tensors import as_tensor


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 16), (12,)])
def test_squares_have_the_mean_one_for_each_sample(shape):
    delta = as_tensor(np.random.default_rng(0).normal(size=(4, *shape)))
    for strengths in (of_frequencies(delta), of_pixels(delta)):
        squares = (strengths**2).reshape(4, -1).mean(axis=1)
        np.testing.assert_allclose(squares, 1, rtol=1e-9)
        assert strengths.shape[:2] == (4, 1)


def test_nothing_is_known_of_no_perturbation():
    delta = as_tensor(np.zeros((2, 1, 4, 4)))
    for strengths in (of_frequencies(delta), of_pixels(delta)):
        assert len(np.unique(strengths)) == 1


def test_pixels_are_strong_where_the_perturbation_is_and_around_it():
    delta = np.zeros((1, 2, 16, 16))
    delta[0, 1, 3, 4] = 1.0
    strengths = of_pixels(as_tensor(delta))[0, 0, 0]
    assert np.unravel_index(strengths.argmax(), strengths.shape) == (3, 4)
    assert strengths[3, 5] > 2 * strengths[15, 15] > 0


def test_frequencies_of_one_length_are_as_strong_as_each_other():
    space = low_frequencies((1, 8, 8), 1.0)
    coefficients = np.zeros((1, *space.inner))
    coefficients[0, 0, 0, 3] = 1.0
    strengths = of_frequencies(space.images(as_tensor(coefficients)))[0, 0, 0]
    assert strengths[0, 3] == strengths[3, 0] == strengths.max()
    assert strengths[7, 7] == strengths.min() > 0
