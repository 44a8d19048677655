import numpy as np
import pytest
import torch

from robustkit import demo
from robustkit.checks.check import check


@pytest.fixture(scope="session")
def digits():
    """The demo network and 48 images of it."""
    x, y = demo.load_data("digits")
    return demo.load_model("digits-robust"), np.asarray(x)[:48], np.asarray(y)[:48]


@pytest.fixture(scope="session")
def plant_inside(plant):
    """Makes a linear classifier with so many samples, away from the bounds.

    So the way to the boundary is a straight one.
    """

    def made(samples):
        planted = plant(
            seed=7, samples=samples, features=6, bounds=(0.0, 1.0), dtype=np.float32
        )
        planted.x = (0.4 + 0.2 * planted.x).astype(np.float32)
        planted.b = (-np.median(planted.x @ planted.w, axis=0)).astype(np.float32)
        planted.y = planted.logits(planted.x).argmax(axis=1)
        return planted

    return made


@pytest.fixture(scope="module")
def planted(plant_inside):
    return plant_inside(40)


class Wrapped(torch.nn.Module):
    """A network behind or before something that hides its weakness."""

    def __init__(self, network, change):
        super().__init__()
        self.network, self.change = network, change

    def forward(self, x):
        return self.change(self.network, x)


@pytest.fixture
def wrapped(digits):
    """Makes a module of the demo network and a change, a function of it and inputs."""
    return lambda change: Wrapped(digits[0], change).eval()


@pytest.fixture
def findings(digits, wrapped):
    """Ids and severities found at the demo network with a change."""
    _, x, y = digits

    def found(change, trials=0, **settings):
        model = wrapped(change)
        result = check(model, (x, y), samples=len(x), trials=trials, **settings)
        return {f.id: f.severity.name.lower() for f in result.findings[::-1]}

    return found
