"""What is done to the input outside torch is no constant."""

import numpy as np
import pytest
import torch
from torch import nn

from robustkit.certify.distances import Certifier
from robustkit.certify.networks import follow
from robustkit.errors import BadInput
from robustkit.models.torch import TorchModel

X = np.array([[0.6, 0.3, 0.8, 0.1]], np.float32)


class Stepwise(nn.Module):
    """A layer on steps (n, 4) that a function makes of the input's values.

    Args:
        steps: Given x (n, 4), detached.
    """

    def __init__(self, steps):
        super().__init__()
        self.layer, self.steps = nn.Linear(4, 3), steps
        rng = np.random.default_rng(1)
        for values in self.layer.parameters():
            drawn = rng.normal(size=values.shape)
            values.data = torch.tensor(drawn, dtype=torch.float32)

    def forward(self, x):
        return self.layer(x + (self.steps(x.detach()) - x).detach())


def rounded(values):
    return np.round(4 * values) / 4


@pytest.mark.parametrize(
    "steps",
    [
        lambda x: torch.from_numpy(rounded(x.numpy())),
        lambda x: torch.as_tensor(rounded(np.asarray(x))),
        lambda x: torch.as_tensor(rounded(np.asarray(x.data))),
        lambda x: torch.tensor([[round(4 * v) / 4 for v in x[0].tolist()]]),
        lambda x: x if x.numpy().mean() > 0.4 else -x,
        lambda x: x * float(x.max()),
        lambda x: x if torch.equal(x, x.round()) else -x,
        # Where torch lets the values go, what is computed elsewhere tells.
        lambda x: torch.from_numpy(rounded(np.from_dlpack(x))),
        lambda x: x if "0.6" in str(x) else -x,
    ],
)
def test_values_that_leave_torch_are_refused(steps):
    model = TorchModel(Stepwise(steps).eval())
    with pytest.raises(BadInput, match=r"followed operation by operation|not compute"):
        Certifier(model, X).radius(X[0], 0, "linf")


@pytest.mark.parametrize(
    "steps",
    [
        lambda x: 2 * x - 0.5,
        # What does not depend on the input may be computed anywhere.
        lambda x: x + torch.from_numpy(np.sqrt(torch.arange(4.0).numpy())),
        lambda x: x * torch.linspace(1, 2, 4).tolist()[2],
    ],
)
def test_values_matter_and_gradients_do_not(steps):
    module = Stepwise(steps).eval()
    graph = follow(TorchModel(module), torch.zeros(1, 4))
    x = torch.from_numpy(X)
    assert torch.allclose(graph.values(x)[-1].float(), module(x), atol=1e-6)
    assert Certifier(TorchModel(module), X).radius(X[0], int(module(x).argmax()), "l2")
