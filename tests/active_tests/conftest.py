import numpy as np
import pytest
import torch
from torch import nn


@pytest.fixture(scope="session")
def inputs():
    """(128, 12) inputs, some features of which stand at a bound."""
    x = np.random.default_rng(0).uniform(-0.2, 1.2, size=(128, 12))
    return x.clip(0, 1).astype(np.float32)


@pytest.fixture(scope="session")
def network():
    """A small classifier of 4 classes with a hidden layer of 20 units."""
    net = nn.Sequential()
    net.add_module("hidden", nn.Linear(12, 20))
    net.add_module("bend", nn.Tanh())
    net.add_module("output", nn.Linear(20, 4))
    rng = np.random.default_rng(1)
    for weights in net.parameters():
        values = rng.normal(size=tuple(weights.shape)) / np.sqrt(weights.shape[-1])
        weights.data = torch.tensor(values, dtype=torch.float32)
    return net.eval()


class Masked(nn.Module):
    """A network behind, or in front of, something that spoils its gradients."""

    def __init__(self, net, before=None, after=None):
        super().__init__()
        self.net, self.before, self.after = net, before, after
        self.eval()

    def forward(self, x):
        x = x if self.before is None else self.before(x)
        z = self.net(x)
        return z if self.after is None else self.after(z)


@pytest.fixture(scope="session")
def masked():
    return Masked
