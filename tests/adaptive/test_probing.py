import numpy as np
import pytest
import torch

import robustkit as rk
from robustkit.adaptive.probing import approximations, progress
from robustkit.models.numpy import NumPyModel
from robustkit.models.torch import TorchModel

STEP = 0.05


class Net(torch.nn.Module):
    def __init__(self, change):
        super().__init__()
        self.first = torch.nn.Flatten()
        self.change = change
        self.last = torch.nn.Linear(6, 3)
        generator = torch.Generator().manual_seed(1)
        self.last.weight.data = torch.randn(3, 6, generator=generator)
        self.last.bias.data = torch.zeros(3)
        self.eval()

    def forward(self, x):
        return self.last(self.change(self.first(x)))


class Layer(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Backward(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        return x.clone()

    @staticmethod
    def backward(context, slopes):
        return -slopes


def samples(module, count=8):
    x = torch.rand(count, 2, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return x.numpy(), module(x).argmax(dim=1).numpy()


def test_progress_of_a_linear_model_is_that_of_its_gradient():
    module = Net(torch.nn.Identity())
    x, label = samples(module)
    found = progress(TorchModel(module), x, label, 1e-3)
    z = module(torch.from_numpy(x)).detach().numpy()
    w = module.last.weight.detach().numpy()
    order = np.argsort(z, axis=1)
    a = w[order[:, -1]] - w[order[:, -2]]
    margin = z[np.arange(8), order[:, -1]] - z[np.arange(8), order[:, -2]]
    scale = np.maximum(margin, 0.1 * np.median(margin))
    assert found == pytest.approx((1e-3 * np.abs(a).sum(1) / scale).mean(), rel=0.05)
    reversed_ = Net(Layer(Backward.apply))
    assert progress(TorchModel(reversed_), x, label, 1e-3) == pytest.approx(
        -found, rel=0.05
    )


def test_a_margin_that_stays_infinite_is_no_progress():
    def certain(x):
        return torch.stack([x.sum(1), torch.full_like(x[:, 0], -torch.inf)], dim=1)

    x = np.full((3, 4), 0.5, np.float32)
    assert progress(TorchModel(certain), x, np.zeros(3, np.int64), 0.1) == 0


def test_no_gradient_is_no_progress():
    module = Net(Layer(lambda x: x.detach()))
    x, label = samples(module)
    assert progress(TorchModel(module), x, label, STEP) == 0
    assert progress(NumPyModel(lambda x: x), x, label, STEP) == 0


@pytest.mark.parametrize(
    "function",
    [
        Backward.apply,
        lambda x: x.detach(),
        lambda x: (8 * x).round() / 8,
        lambda x: torch.from_numpy(x.detach().numpy()),
    ],
)
def test_the_layer_that_misleads_is_named(function):
    module = Net(Layer(function))
    x, label = samples(module)
    found = dict(approximations(TorchModel(module), x))
    assert "the layer 'change'" in found
    assert not any("'last'" in name for name in found)
    plain = progress(TorchModel(module), x, label, STEP)
    best = progress(found["the layer 'change'"], x, label, STEP)
    sound = progress(TorchModel(Net(torch.nn.Identity())), x, label, STEP)
    assert best == pytest.approx(sound, rel=0.3)
    assert best > plain + 0.1


@pytest.mark.parametrize("layer", [torch.nn.ReLU, torch.nn.Tanh, torch.nn.GELU])
def test_ordinary_layers_are_left_alone(layer):
    module = Net(layer())
    x, _ = samples(module)
    found = [name for name, _ in approximations(TorchModel(module), x)]
    assert found == ["every operation without a gradient"]


def test_what_is_done_before_the_first_layer_is_bridged():
    class Purified(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Net(torch.nn.Identity())
            self.eval()

        def forward(self, x):
            return self.net(torch.from_numpy(x.detach().numpy().round(1)))

    module = Purified()
    x, label = samples(module)
    found = dict(approximations(TorchModel(module), x))
    assert "all before the layer 'net'" in found
    value = progress(found["all before the layer 'net'"], x, label, STEP)
    assert value > 0.1


def test_models_of_other_frameworks_have_nothing_to_replace():
    assert not list(approximations(NumPyModel(lambda x: x), np.zeros((1, 2))))
    estimated = rk.Estimated(NumPyModel(lambda x: x), 4)
    assert not list(approximations(estimated, np.zeros((1, 2))))
