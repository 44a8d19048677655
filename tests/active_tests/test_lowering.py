import numpy as np
import pytest
import torch
from torch import nn

from robustkit.active_tests.lowering import as_network
from robustkit.active_tests.networks import ReluNetwork
from robustkit.errors import BadInput
from robustkit.models.load import as_model
from robustkit.models.torch import TorchModel
from robustkit.models.wrappers import Preprocessed
from robustkit.numerics.tensors import to_numpy


def test_every_layer_that_is_affine_is_lowered():
    torch_rng = torch.Generator().manual_seed(1)
    net = nn.Sequential(
        nn.ZeroPad2d(1),
        nn.Conv2d(2, 3, 3, stride=2),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Identity(),
        nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4)),
        nn.ReLU(),
    )
    for tensor in net.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.1, 1, generator=torch_rng).mul_(1.0)
    # In training mode, which must stay, dropout and batch statistics are not affine.
    with pytest.warns(UserWarning, match="training mode"):
        network = as_network(net[:9], (2, 4, 4))
    assert net[5].training
    net.eval()
    x = torch.rand(6, 2, 4, 4, generator=torch_rng)
    expected = net[:9].double()(x.double()).detach().numpy()
    found = network.logits(x.double().numpy().reshape(6, -1))
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    # A last ReLU becomes a layer of its own.
    with_relu = as_network(net, (2, 4, 4))
    assert len(with_relu.layers) == 4
    np.testing.assert_allclose(
        with_relu.logits(x.double().numpy().reshape(6, -1)), expected.clip(0)
    )


def test_a_network_and_its_torch_module_are_the_same():
    rng = np.random.default_rng(0)
    network = ReluNetwork(
        [(rng.normal(size=(4, 3)), rng.normal(size=4)),
         (rng.normal(size=(2, 4)), rng.normal(size=2))]
    )  # fmt: skip
    back = as_network(network.module(), (3,))
    for (w, b), (v, c) in zip(network.layers, back.layers, strict=True):
        np.testing.assert_allclose(v, w, atol=1e-15)
        np.testing.assert_allclose(c, b, atol=1e-15)
    x = rng.normal(size=(5, 3))
    out = network.module()(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(network.logits(x), out, rtol=1e-12)


def test_gradients_of_a_network():
    rng = np.random.default_rng(1)
    network = ReluNetwork(
        [
            (rng.normal(size=(o, i)), rng.normal(size=o))
            for i, o in [(3, 6), (6, 5), (5, 2)]
        ]
    )
    x, slopes = rng.normal(size=(7, 3)), rng.normal(size=(7, 2))
    raw = torch.from_numpy(x).requires_grad_()
    out = network.module()(raw)
    (expected,) = torch.autograd.grad(out, raw, torch.from_numpy(slopes))
    np.testing.assert_allclose(network.gradient(x, slopes), expected, rtol=1e-10)


class Centred(nn.Sequential):
    """Layers on inputs that are centred first."""

    def forward(self, x):
        return super().forward((x - 0.5) / 0.25)


class Capped(nn.Linear):
    """No affine layer, by its outputs, though one by its name."""

    def forward(self, x):
        return super().forward(x).clamp(max=0.3)


class Own(nn.Module):
    """Two layers in a module of its own."""

    def __init__(self):
        super().__init__()
        self.first, self.last = layers()

    def forward(self, x):
        return self.last(self.first(x).clamp(min=0).flatten(1))


def layers():
    generator = torch.Generator().manual_seed(2)
    both = nn.Linear(4, 5), nn.Linear(5, 3)
    for layer in both:
        for values in layer.parameters():
            values.data.normal_(generator=generator)
    return both


def hooked():
    first, last = layers()
    first.register_forward_hook(lambda layer, given, out: 2 * out - 1)
    return nn.Sequential(first, nn.ReLU(), last)


def normed(norm):
    first, last = layers()
    return nn.Sequential(norm(first), nn.ReLU(), norm(last))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Centred(*layers()),
        lambda: nn.Sequential(Centred(layers()[0]), nn.ReLU(), layers()[1]),
        Own,
        hooked,
        lambda: normed(nn.utils.parametrizations.weight_norm),
        lambda: normed(nn.utils.parametrizations.spectral_norm),
        lambda: Preprocessed(TorchModel(Own().eval()), [0.5], [0.25]),
    ],
)
def test_what_is_lowered_is_what_the_network_computes(make):
    native = make()
    if isinstance(native, nn.Module):
        native.eval()
    network = as_network(native, (4,))
    x = np.random.default_rng(0).random((6, 4)).astype(np.float32)
    model = as_model(native)
    expected = to_numpy(model.logits(model.to_tensor(x)))
    np.testing.assert_allclose(network.logits(x), expected, rtol=1e-4, atol=1e-5)


def test_a_network_that_computes_something_else_later_is_found_out():
    counted = []

    def changing(layer, given, out):
        counted.append(len(given))
        return out + len(counted)

    net = nn.Sequential(*layers()).eval()
    net.register_forward_hook(changing)
    with pytest.raises(BadInput, match="does not compute the same"):
        as_network(net, (4,))


@pytest.mark.parametrize(
    ("native", "shape", "message"),
    [
        (nn.Sequential(Capped(3, 4), nn.Linear(4, 2)), (3,), "'clamp"),
        (
            nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False)),
            (3,),
            "more than 1 value per channel",
        ),
        (
            nn.Sequential(
                nn.BatchNorm2d(2, track_running_stats=False),
                nn.Flatten(),
                nn.Linear(8, 2),
            ),
            (2, 2, 2),
            "'native_batch_norm'",
        ),
        (TorchModel(lambda x: x + torch.relu(x)), (3,), "one after the other"),
        (nn.Sequential(nn.Linear(3, 2), nn.Sigmoid()), (3,), "operation 'sigmoid'"),
        (nn.Sequential(nn.Linear(3, 2)), (4,), r"shape \(4,\)"),
        (nn.Sequential(nn.Linear(3, 1)), (3,), "2 or more outputs; this network has 1"),
        (nn.Sequential(nn.Conv2d(1, 9, 3, padding=1)), (1, 70, 70), "too large"),
        ([(np.eye(2), np.zeros(3))], (2,), r"shapes \(2, 2\) and \(3,\)"),
        ([], (2,), "at least one affine layer"),
        (3, (2,), "got a int"),
    ],
)
def test_other_networks_are_refused(native, shape, message):
    if isinstance(native, nn.Module):
        native.eval()
    with pytest.raises(BadInput, match=message):
        as_network(native, shape)
