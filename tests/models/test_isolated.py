import numpy as np
import pytest
import torch

from robustkit.errors import BadInput
from robustkit.models.isolated import Isolated, isolated
from robustkit.models.numpy import NumPyModel
from robustkit.models.torch import TorchModel
from robustkit.numerics.tensors import as_tensor, to_numpy

W = torch.tensor([[1.0, -1.0, 0.5], [-1.0, 0.3, 2.0]])
X = np.array([[0.1, 0.2], [0.9, 0.1], [0.3, 0.4], [0.2, 0.8], [0.95, 0.5]], np.float32)
BRIGHT = X[:, 0] > 0.7


def cautious(x):
    if (x[:, 0] > 0.7).any():
        raise ValueError("too\nbright")
    return x @ W


def test_inputs_that_raise_do_not_touch_the_others():
    model = Isolated(TorchModel(cautious))
    x = model.to_tensor(X)
    scores, pull_back = model.linearise(x)
    for answer in (to_numpy(scores), to_numpy(model.logits(x))):
        assert (np.isnan(answer).all(axis=1) == BRIGHT).all()
        np.testing.assert_allclose(answer[~BRIGHT], X[~BRIGHT] @ W.numpy(), rtol=1e-6)
    slopes = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    gradient = to_numpy(pull_back(model.to_tensor(slopes)))
    assert (gradient[BRIGHT] == 0).all()
    np.testing.assert_allclose(
        gradient[~BRIGHT], slopes[~BRIGHT] @ W.numpy().T, atol=1e-6
    )
    assert model.raised == "ValueError: too bright"


@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError])
def test_memory_that_runs_out_is_met_by_smaller_parts_and_is_no_answer(error):
    def large(x):
        if len(x) > most:
            raise error("out of memory")
        return x @ W

    model = Isolated(TorchModel(large))
    most = 2
    scores = to_numpy(model.logits(model.to_tensor(X)))
    np.testing.assert_allclose(scores, X @ W.numpy(), rtol=1e-6)
    most = 0
    for ask in (model.logits, model.linearise):
        with pytest.raises(error):
            ask(model.to_tensor(X))
    assert model.raised == ""


def test_where_nothing_raises_it_is_asked_once():
    asked = []
    model = Isolated(NumPyModel(lambda x: asked.append(len(x)) or x @ W.numpy()))
    model.logits(as_tensor(X))
    assert asked == [5]
    assert model.raised == ""


def test_scores_that_nobody_knows_the_number_of_are_bad_input():
    bright = as_tensor(torch.from_numpy(X[BRIGHT]))
    with pytest.raises(BadInput, match=r"raised at every input .*: ValueError: too"):
        Isolated(TorchModel(cautious)).logits(bright)
    told = Isolated(TorchModel(cautious), classes=3).logits(bright)
    assert told.shape == (2, 3)
    model = Isolated(TorchModel(cautious))
    model.logits(as_tensor(torch.from_numpy(X)))
    assert model.logits(bright).shape == (2, 3)


def test_bad_input_is_the_callers():
    def refusing(x):
        raise BadInput("not like this")

    with pytest.raises(BadInput, match="not like this"):
        Isolated(NumPyModel(refusing), classes=2).logits(as_tensor(X))


def test_wrappers_pass_through():
    net = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Linear(4, 3)).eval()
    fast = Isolated(TorchModel(net, autocast=torch.bfloat16))
    assert isinstance(fast.precise(), Isolated)
    model = isolated(TorchModel(net))
    assert isolated(model) is model
    assert model.precise() is model
    assert model.fingerprint() == TorchModel(net).fingerprint()
    assert model.at_layer("0").logits(model.to_tensor(X)).shape == (5, 4)
