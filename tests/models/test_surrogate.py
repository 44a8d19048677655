import numpy as np
import pytest
import torch

import robustkit as rk
from robustkit.engine.criteria import Matching, Misclassification
from robustkit.errors import BadInput
from robustkit.models.labels import LabelModel
from robustkit.models.numpy import NumPyModel
from robustkit.models.surrogate import Surrogate, WithFeatures
from robustkit.models.torch import TorchModel
from robustkit.numerics.tensors import as_tensor


def test_the_models_own_answers_decide():
    """A staircase, and the slope beneath it."""
    w = np.array([[2.0, 0.0], [1.0, 0.0], [-0.5, 0.0]])

    def stairs(x):
        return np.floor(10 * (x @ w - 1)) / 10

    x = np.random.default_rng(0).random((20, 3))
    labels = stairs(x).argmax(axis=1)
    smooth = NumPyModel(lambda x: x @ w - 1, gradient=lambda x, s: s @ w.T)
    model = Surrogate(NumPyModel(stairs), smooth)
    found = rk.run(rk.FMN(steps=100), model, x, labels, norm="linf")
    assert found.found.all()
    after = stairs(found.x_adversarial)
    margin = after[np.arange(20), labels] - after[np.arange(20), 1 - labels]
    assert (margin < 0).all()
    assert (found.ledger.forwards <= 100).all()


def test_decisions_are_enough_with_a_surrogate():
    smooth = NumPyModel(lambda x: x, gradient=lambda x, slopes: slopes)
    hidden = LabelModel(lambda x: x.argmax(axis=1), classes=2)
    x, attack = np.array([[0.7, 0.4]]), rk.FMN(steps=200)
    model = Surrogate(hidden, smooth)
    found = rk.run(attack, model, x, np.array([0]), norm="linf")
    assert found.distance[0] == pytest.approx(0.15, rel=0.05)


def test_a_surrogate_may_be_of_another_framework():
    smooth = TorchModel(torch.nn.Identity().eval())
    hidden = LabelModel(lambda x: x.argmax(axis=1), classes=2)
    x, attack = np.array([[0.7, 0.4]]), rk.FMN(steps=200)
    model = Surrogate(hidden, smooth)
    found = rk.run(attack, model, x, np.array([0]), norm="linf")
    assert found.distance[0] == pytest.approx(0.15, rel=0.05)
    assert isinstance(found.x_adversarial, np.ndarray)


class Elsewhere(TorchModel):
    """On a device of its own, which every machine has; answers are made up."""

    def to_tensor(self, x):
        return as_tensor(torch.from_numpy(x).to("meta"))

    def linearise(self, x):
        assert x.raw.device.type == "meta"
        return as_tensor(torch.zeros(len(x.raw), 2)), lambda slopes: x


def test_a_surrogate_is_shown_inputs_where_it_lies():
    network = torch.nn.Linear(3, 2).eval()
    model = Surrogate(TorchModel(network), Elsewhere(network))
    x = model.to_tensor(np.eye(3, dtype=np.float32))
    assert model.linearise(x)[0].raw.device.type == "cpu"


def test_bad_surrogates():
    plain = NumPyModel(lambda x: x)
    with pytest.raises(BadInput, match="no gradients to lend"):
        Surrogate(plain, plain)
    other = NumPyModel(lambda x: x[:, :1], gradient=lambda x, s: x)
    with pytest.raises(BadInput, match="same classes"):
        Surrogate(plain, other).linearise(as_tensor(np.zeros((1, 2))))


def test_wrappers_pass_through():
    fast = TorchModel(torch.nn.Linear(2, 2).eval(), autocast=torch.bfloat16)
    smooth = TorchModel(torch.nn.Linear(2, 2).eval())
    model = Surrogate(fast, smooth)
    assert isinstance(model.precise(), Surrogate)
    assert model.precise().wraps is not fast
    assert Surrogate(smooth, smooth).precise().wraps is smooth
    assert Surrogate(rk.MajorityVote(smooth, 3), smooth).passes_per_question == 3


def net():
    generator = torch.Generator().manual_seed(3)
    layers = torch.nn.Sequential(
        torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)
    ).eval()
    for parameter in layers.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return layers


def test_features_stand_behind_the_logits():
    module, x = net(), torch.rand(4, 6)
    model = WithFeatures(TorchModel(module), "1")
    out, pull_back = model.linearise(as_tensor(x))
    with torch.no_grad():
        expected = torch.cat([module(x), module[:2](x)], dim=1)
    torch.testing.assert_close(out.raw, expected)
    torch.testing.assert_close(model.logits(as_tensor(x)).raw, expected)
    slopes = torch.randn(4, 11)
    point = x.clone().requires_grad_()
    whole = torch.cat([module(point), module[:2](point)], dim=1)
    (gradient,) = torch.autograd.grad((whole * slopes).sum(), point)
    torch.testing.assert_close(pull_back(as_tensor(slopes)).raw, gradient)
    assert model.passes_per_question == 2
    fast = TorchModel(net(), autocast=torch.bfloat16)
    assert WithFeatures(fast, "1").precise().logits(as_tensor(x)).shape == (4, 11)


@pytest.mark.parametrize("layer", [None, "1"])
def test_a_descent_of_matching_reaches_the_goal(layer):
    """What another input's outputs are, this one's become."""
    module = net()
    x, other = torch.rand(2, 4, 6, generator=torch.Generator().manual_seed(0))
    labels = module(x).argmax(dim=1)
    part, model = module, TorchModel(module)
    if layer is not None:
        part, model = module[:2], WithFeatures(model, layer)
    goals = as_tensor(part(other).detach())
    criterion = Matching(
        Misclassification(as_tensor(labels)), goals, 3 if layer else None
    )
    attack = rk.PGD(epsilon=1.0, steps=300, loss="matching", stop=False)
    seen = []

    class Watching(TorchModel):
        def logits(self, x):
            seen.append(x.raw)
            return super().logits(x)

    final = Watching(module)
    watched = final if layer is None else WithFeatures(final, layer)
    rk.run(attack, watched, x, criterion, norm="linf")
    before = (part(x) - part(other)).square().mean(dim=1)
    after = (part(seen[-1]) - part(other)).square().mean(dim=1)
    assert (after < 0.2 * before).all()
