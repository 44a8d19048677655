import numpy as np
import pytest
import torch

from robustkit.errors import BadInput
from robustkit.models.foreign import Foreign
from robustkit.models.numpy import NumPyModel
from robustkit.models.torch import TorchModel
from robustkit.numerics.tensors import as_tensor, to_numpy

WEIGHTS = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
X = np.random.default_rng(1).random((5, 4)).astype(np.float32)
SLOPES = np.random.default_rng(2).normal(size=(5, 3)).astype(np.float32)


def models():
    module = torch.nn.Linear(4, 3, bias=False).eval()
    module.weight.data[:] = torch.tensor(WEIGHTS.T)
    return (
        NumPyModel(lambda x: x @ WEIGHTS, gradient=lambda x, s: s @ WEIGHTS.T),
        TorchModel(module),
    )


@pytest.mark.parametrize("model", models())
@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_answers_are_of_the_kind_of_the_question(model, kind):
    x, slopes = as_tensor(kind(X)), as_tensor(kind(SLOPES))
    foreign = Foreign(model)
    logits, pull_back = foreign.linearise(x)
    for found, expected in (
        (foreign.logits(x), X @ WEIGHTS),
        (logits, X @ WEIGHTS),
        (pull_back(slopes), SLOPES @ WEIGHTS.T),
    ):
        assert isinstance(found, type(x))
        assert found.dtype == x.dtype
        np.testing.assert_allclose(to_numpy(found), expected, rtol=1e-5)


def test_it_is_the_model():
    _, model = models()
    foreign = Foreign(model)
    assert foreign.fingerprint() == model.fingerprint()
    assert foreign.precise() is foreign
    with pytest.raises(BadInput, match="adapt it first"):
        Foreign(model.module)
