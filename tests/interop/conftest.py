from functools import partial

import numpy as np
import pytest
import torch

from robustkit import demo


@pytest.fixture
def digits():
    """The demo network and six images it gets right."""
    module = demo.load_model("digits")
    x, y = demo.load_data("digits")
    x, y = torch.from_numpy(x[:20]), torch.from_numpy(y[:20])
    right = torch.nonzero(module(x).argmax(1) == y).flatten()[:6]
    return module, x[right], y[right]


@pytest.fixture
def linear():
    """A linear model, inputs far from the bounds, and their exact distances."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(12, 3)).astype(np.float32)
    module = torch.nn.Linear(12, 3, bias=False).eval()
    module.weight.data = torch.from_numpy(weights.T.copy())
    x = rng.uniform(0.4, 0.6, size=(8, 12)).astype(np.float32)
    logits = x.astype(np.float64) @ weights
    y = logits.argmax(1)

    def exact(dual):
        distances = np.full((len(x), 3), np.inf)
        for row, label in enumerate(y):
            for other in {0, 1, 2} - {label}:
                slope = (weights[:, label] - weights[:, other]).astype(np.float64)
                gap = logits[row, label] - logits[row, other]
                distances[row, other] = gap / np.linalg.norm(slope, dual)
        return distances.min(1)

    exact_distances = {"l1": exact(np.inf), "l2": exact(2), "linf": exact(1)}
    return module, torch.from_numpy(x), torch.from_numpy(y), exact_distances


@pytest.fixture
def guest_model():
    """Makes a foolbox model of a torch module."""
    import foolbox

    return partial(foolbox.PyTorchModel, bounds=(0, 1), device="cpu")
