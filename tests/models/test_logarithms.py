import numpy as np
import torch

import robustkit as rk
from robustkit.models.logarithms import Logarithms
from robustkit.models.torch import TorchModel
from robustkit.numerics.tensors import as_tensor, to_numpy

NET = torch.nn.Linear(3, 3, bias=False).eval()
NET.weight.data = torch.eye(3)


def chances(scale):
    return TorchModel(lambda x: (scale * NET(x)).softmax(dim=1))


def test_logits_and_gradients_come_back_up_to_a_constant():
    x = torch.rand(5, 3)
    model = Logarithms(chances(4.0))
    logits, pull_back = model.linearise(as_tensor(x))
    np.testing.assert_array_equal(logits.raw, model.logits(as_tensor(x)).raw)
    np.testing.assert_allclose(
        logits.raw - logits.raw[:, :1], 4 * (x - x[:, :1]), atol=1e-5
    )
    slopes = torch.tensor([[1.0, -1.0, 0.0]]).repeat(5, 1)
    np.testing.assert_allclose(pull_back(as_tensor(slopes)).raw, 4 * slopes, atol=1e-5)


def test_what_probabilities_saturate_is_seen_again():
    x = torch.tensor([[0.9, 0.4, 0.1]])
    slopes = as_tensor(torch.tensor([[1.0, -1.0, 0.0]]))
    plain, model = chances(100.0), Logarithms(chances(100.0))
    _, back = plain.linearise(as_tensor(x))
    assert np.abs(to_numpy(back(slopes))).max() < 1e-15
    _, back = model.linearise(as_tensor(x))
    np.testing.assert_allclose(to_numpy(back(slopes)), [[100, -100, 0]], rtol=1e-4)
    # A probability of zero has no logarithm, and no slope.
    far = Logarithms(chances(1e4))
    logits, back = far.linearise(as_tensor(x))
    assert np.isfinite(to_numpy(logits)).all()
    assert np.isfinite(to_numpy(back(slopes))).all()


def test_wrappers_pass_through():
    fast = TorchModel(NET, autocast=torch.bfloat16)
    assert isinstance(Logarithms(fast).precise(), Logarithms)
    plain = Logarithms(TorchModel(NET))
    assert plain.precise() is plain
    assert plain.fingerprint() not in (None, TorchModel(NET).fingerprint())
    assert Logarithms(rk.MajorityVote(fast, 3)).passes_per_question == 3
