import gc
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from robustkit.models.numpy import NumPyModel
from robustkit.numerics import tensors
from robustkit.numerics.bounds import Bounds

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_configure():
    import torch

    # Each of the parallel test processes would otherwise use every core.
    torch.set_num_threads(1)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """What is imported and collected stays: it is not searched for garbage."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Slow tests run last, so that a quick failure shows early."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


@pytest.fixture(scope="session")
def shared():
    """The loader of the real models with known answers (see its `README.md`)."""
    if not (SHARED / "load.py").is_file():
        pytest.skip(
            f"the real models are not at {SHARED}; they are no part of the project"
        )
    spec = importlib.util.spec_from_file_location("shared_load", SHARED / "load.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def jax_on_a_device(monkeypatch):
    """JAX works on its arrays itself, as it does where they lie on a device."""
    pytest.importorskip("jax")
    monkeypatch.setattr(tensors, "_is_hosted", lambda _: False)


@pytest.fixture(scope="session")
def plant():
    """Makes linear classifiers whose smallest adversarials are known: `Planted`."""
    return Planted


def distance_to_halfspace(norm, a, m, x, lower, upper):
    """The least size of delta with a . delta <= -m and x + delta in the box.

    In double precision and independently of `robustkit.numerics.norms`.
    """
    steep, room = np.abs(a), np.where(a > 0, x - lower, upper - x)
    gain = steep * room
    if m <= 0:
        return 0.0
    if gain.sum() < m:
        return np.inf
    if norm == "l0":
        return float(1 + np.searchsorted(np.cumsum(np.sort(gain)[::-1]), m))
    if norm == "l1":
        order = np.argsort(-steep)
        before = np.cumsum(gain[order]) - gain[order]
        share = ((m - before) / np.maximum(gain[order], 1e-300)).clip(0, 1)
        return float((share * room[order]).sum())
    steps = steep if norm == "l2" else np.ones_like(steep)
    near, far = 0.0, 1.0
    while (steep * np.minimum(room, far * steps)).sum() < m:
        far *= 2
    for _ in range(200):
        middle = (near + far) / 2
        if (steep * np.minimum(room, middle * steps)).sum() < m:
            near = middle
        else:
            far = middle
    delta = np.minimum(room, far * steps)
    return float(np.linalg.norm(delta) if norm == "l2" else delta.max())


class Planted:
    """A linear classifier, some inputs (many features stand at a bound), their labels.

    Where a label's rival j wins is the half-space a . delta <= -m, with a = w_y - w_j
    and m = a . x + b_y - b_j. The scores are sums over the features of each row by
    itself, so that no rounding depends on which other rows are there.
    """

    def __init__(
        self,
        seed=0,
        samples=12,
        features=8,
        classes=3,
        bounds=(-3.0, 5.0),
        dtype=np.float64,
    ):
        rng = np.random.default_rng(seed)
        self.lower, self.upper = bounds
        width = self.upper - self.lower
        # Each input keeps to one class by a good part of what the box allows.
        self.w = rng.normal(size=(features, classes)).astype(dtype) / width
        x = rng.beta(0.3, 0.3, size=(samples, features)) * width + self.lower
        at_bound = rng.random(x.shape)
        x = np.where(
            at_bound < 0.2, self.lower, np.where(at_bound > 0.8, self.upper, x)
        )
        self.x = x.astype(dtype)
        self.b = (-np.median(x @ self.w, axis=0)).astype(dtype)
        self.y = self.logits(self.x).argmax(axis=1)

    def logits(self, x):
        return (x[:, :, None] * self.w).sum(axis=1) + self.b

    def gradient(self, x, slopes):
        return (slopes[:, None, :] * self.w).sum(axis=2)

    def model(self):
        return NumPyModel(
            self.logits, Bounds(self.lower, self.upper), gradient=self.gradient
        )

    def exact(self, norm, targets=None):
        """(n,) exact distances: to the nearest class, or to the target's rival.

        With targets the model must have two classes, else it is a polyhedron.
        """
        distances = []
        for row, (x, y) in enumerate(zip(self.x, self.y, strict=True)):
            others = [j for j in range(self.w.shape[1]) if j != y]
            if targets is not None:
                assert self.w.shape[1] == 2
                others = [int(targets[row])]
            values = []
            for j in others:
                a = self.w[:, y] - self.w[:, j]
                m = a @ x + self.b[y] - self.b[j]
                values.append(
                    distance_to_halfspace(norm, a, m, x, self.lower, self.upper)
                )
            distances.append(min(values))
        return np.array(distances)
