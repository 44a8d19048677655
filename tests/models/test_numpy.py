import numpy as np
import pytest

from robustkit.errors import BadInput
from robustkit.models.base import Access, NoGradient
from robustkit.models.numpy import NumPyModel
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.tensors import as_tensor, to_numpy


def test_without_a_gradient_it_shows_scores_and_says_so():
    model = NumPyModel(lambda x: x[:, :2], name="mine")
    assert model.access is Access.SCORE
    with pytest.raises(NoGradient, match=r"'mine' gives no gradients .access: score."):
        model.linearise(as_tensor(np.zeros((2, 3))))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_answers_have_the_dtype_of_the_question(dtype):
    model = NumPyModel(
        lambda x: (x[:, :2] > 0).astype(int).tolist(),
        gradient=lambda x, s: np.ones(x.shape, np.float16).ravel(),
    )
    x = as_tensor(np.ones((4, 3), dtype))
    logits, pull_back = model.linearise(x)
    assert to_numpy(logits).dtype == to_numpy(model.logits(x)).dtype == dtype
    gradient = to_numpy(pull_back(logits))
    assert gradient.dtype == dtype
    assert gradient.shape == (4, 3)


def test_a_function_may_write_into_what_it_is_given():
    def careless(x, slopes=None):
        x *= 0
        if slopes is None:
            return x
        slopes += 1
        return x + slopes

    model = NumPyModel(careless, gradient=careless)
    x = as_tensor(np.ones((2, 3)))
    _, pull_back = model.linearise(x)
    slopes = as_tensor(np.ones((2, 3)))
    for given in (slopes, slopes.ones_like()):
        assert (to_numpy(pull_back(given)) == 2).all()
    assert (to_numpy(x) == 1).all()
    assert (to_numpy(slopes) == 1).all()


def test_bounds_and_name():
    model = NumPyModel(np.tanh, Bounds(-1, 1))
    assert (model.bounds, model.name) == (Bounds(-1, 1), "tanh")
    assert NumPyModel(np.tanh).bounds == Bounds(0, 1)
    assert model.fingerprint() is None


@pytest.mark.parametrize("gradient", [lambda x, s: s, lambda x, s: None])
def test_gradients_have_the_shape_of_the_inputs(gradient):
    model = NumPyModel(lambda x: x[:, :2], gradient=gradient)
    _, pull_back = model.linearise(as_tensor(np.zeros((2, 3))))
    with pytest.raises(BadInput, match=r"expected a gradient of the shape \(2, 3\)"):
        pull_back(as_tensor(np.ones((2, 2))))
