import numpy as np
import pytest
import torch
from torch import nn

from robustkit.active_tests.lowering import as_network
from robustkit.active_tests.networks import ReluNetwork
from robustkit.errors import BadInput


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


@pytest.mark.parametrize(
    ("native", "shape", "message"),
    [
        (nn.Sequential(nn.Linear(3, 2), nn.Sigmoid()), (3,), "has a Sigmoid"),
        (nn.Sequential(nn.Linear(3, 2)), (4,), r"inputs of the shape \(4,\)"),
        (nn.Sequential(nn.Linear(3, 1)), (3,), "2 or more outputs; this network has 1"),
        (nn.Sequential(nn.Conv2d(1, 9, 3, padding=1)), (1, 70, 70), "too large"),
        ([(np.eye(2), np.zeros(3))], (2,), r"shapes \(2, 2\) and \(3,\)"),
        ([], (2,), "at least one affine layer"),
        (3, (2,), "got a int"),
    ],
)
def test_other_networks_are_refused(native, shape, message):
    with pytest.raises(BadInput, match=message):
        as_network(native, shape)
