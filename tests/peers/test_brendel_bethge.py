"""Brendel-Bethge against foolbox's, which solves its local problems one by one."""

import numpy as np
import pytest
import torch

from robustkit.attacks.gradient.brendel_bethge import BrendelBethge
from robustkit.engine.criteria import Misclassification
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.models.torch import TorchModel
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor

pytestmark = [
    pytest.mark.slow,
    # The peer's solvers are compiled at their first use, which takes a minute.
    pytest.mark.filterwarnings("ignore:At the first initialisation"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

ORDERS = {"l0": 0, "l1": 1, "l2": 2, "linf": float("inf")}
NAMES = {
    "l0": "L0BrendelBethgeAttack",
    "l1": "L1BrendelBethgeAttack",
    "l2": "L2BrendelBethgeAttack",
    "linf": "LinfinityBrendelBethgeAttack",
}
STEPS = 100
NETWORKS = {"mnist_cnn_a_adv": "mnist", "cifar_cnn_a_adv": "cifar10"}


@pytest.fixture(params=NETWORKS)
def network(request, shared):
    """A network and images that it gets right."""
    module = shared.torch_model(request.param)
    x, y = (
        torch.tensor(values[:60]) for values in shared.images(NETWORKS[request.param])
    )
    right = torch.nonzero(module(x).argmax(dim=1) == y).flatten()[:12]
    return module, x[right], y[right]


@pytest.mark.parametrize("norm", NAMES)
def test_better_than_foolbox(network, norm):
    pytest.importorskip("numba")
    foolbox = pytest.importorskip("foolbox")
    module, x, y = network

    # Both start from the same adversarials: images of other classes.
    starts = x[[int((y != label).nonzero()[0]) for label in y]]
    model = foolbox.PyTorchModel(module, bounds=(0, 1), device="cpu")

    theirs = getattr(foolbox.attacks, NAMES[norm])(steps=STEPS)
    points = theirs.run(model, x, y, starting_points=starts)
    size = torch.linalg.vector_norm((points - x).flatten(1), ORDERS[norm], dim=1)
    missed = (module(points).argmax(dim=1) == y).numpy()
    reference = np.where(missed, np.inf, size.detach().numpy())

    problem = Problem(
        TorchModel(module),
        as_tensor(x),
        Misclassification(as_tensor(y)),
        get_norm(norm),
        starts=as_tensor(starts),
    )
    # A tenth of their passes goes to their search for the boundary.
    ours = run(BrendelBethge().within(STEPS + 10), problem, budget=STEPS + 10)
    distance = ours.distance.numpy()
    assert np.isfinite(distance).all()
    assert np.median(distance / reference) <= 1.0
