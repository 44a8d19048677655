import numpy as np
import pytest
import torch

from robustkit.errors import BadInput
from robustkit.models.base import Access, NoGradient
from robustkit.models.numpy import NumPyModel
from robustkit.models.torch import TorchModel
from robustkit.models.wrappers import Preprocessed
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.tensors import as_tensor, to_numpy


def flat(x):
    return x.reshape(len(x), -1)


def test_it_keeps_what_the_model_says_of_itself():
    model = Preprocessed(NumPyModel(flat, Bounds(0, 255), name="mine"), [0.5], [2])
    assert (model.bounds, model.name) == (Bounds(0, 255), "mine")
    assert model.access is Access.SCORE
    assert model.fingerprint() is None
    with pytest.raises(NoGradient):
        model.linearise(as_tensor(np.zeros((1, 2, 3))))


@pytest.mark.parametrize(("axis", "shape"), [(1, (2, 1, 1)), (-1, (2,)), (3, (2,))])
def test_channels_are_on_the_given_axis(axis, shape):
    x = np.random.default_rng(0).random((3, 2, 2, 2))
    mean, std = np.array([0.2, 0.7]), np.array([0.5, 3.0])
    model = Preprocessed(NumPyModel(flat), list(mean), list(std), axis=axis)
    expected = flat((x - mean.reshape(shape)) / std.reshape(shape))
    np.testing.assert_allclose(to_numpy(model.logits(as_tensor(x))), expected)


def test_one_number_serves_all_channels():
    x = np.random.default_rng(0).random((3, 4, 2))
    model = Preprocessed(NumPyModel(flat), [0.5], [2.0])
    np.testing.assert_allclose(
        to_numpy(model.logits(as_tensor(x))), flat((x - 0.5) / 2)
    )


@pytest.mark.parametrize(
    ("mean", "std"), [([0, 0], [1]), ([0], [0]), ([0], [-1]), ([0], [float("nan")])]
)
def test_impossible_scales_are_refused(mean, std):
    with pytest.raises(BadInput, match="every std positive"):
        Preprocessed(NumPyModel(flat), mean, std)


def test_other_numbers_of_channels_are_refused():
    model = Preprocessed(NumPyModel(flat), [0, 0, 0], [1, 1, 1])
    with pytest.raises(BadInput, match=r"3 means.*axis 1.*\(1, 2, 4\)"):
        model.logits(as_tensor(np.zeros((1, 2, 4))))


def test_fingerprint_is_of_weights_and_scale():
    module = torch.nn.Linear(3, 2).eval()
    prints = {
        Preprocessed(TorchModel(module), *scale).fingerprint()
        for scale in (([0.0], [1.0]), ([0.5], [1.0]), ([0.5], [2.0]))
    }
    assert len(prints) == 3


def test_its_session_is_that_of_the_model():
    module = torch.nn.Linear(3, 2).eval()
    model = Preprocessed(TorchModel(module), [0.0], [1.0])
    with model.session():
        assert not module.weight.requires_grad
    assert module.weight.requires_grad
