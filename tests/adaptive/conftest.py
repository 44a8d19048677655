import numpy as np
import pytest
import torch

from robustkit import demo


class Behind(torch.nn.Module):
    """A network behind a change of its input, or before one of its output."""

    def __init__(self, network, before=None, after=None):
        super().__init__()
        self.network, self.before, self.after = network, before, after
        self.eval()

    def forward(self, x):
        x = x if self.before is None else self.before(x)
        out = self.network(x)
        return out if self.after is None else self.after(out)


@pytest.fixture(scope="session")
def behind():
    """Makes the demo network with something before or after it."""
    return lambda **changes: Behind(demo.load_model("digits"), **changes)


@pytest.fixture(scope="session")
def digits():
    """Sixteen images of the demo data."""
    x, y = demo.load_data("digits")
    return np.asarray(x)[:16], np.asarray(y)[:16]
