"""One small network in three frameworks, and the shared real models."""

import functools
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from robustkit.models.base import Access
from robustkit.numerics.tensors import like, to_numpy

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


class Weights:
    """relu(x W + b) V + c on inputs (n, 2, 3), with its gradient by hand."""

    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)
        self.w = rng.normal(size=(6, 8)).astype(np.float32)
        self.b = rng.normal(size=8).astype(np.float32)
        self.v = rng.normal(size=(8, 4)).astype(np.float32)
        self.c = rng.normal(size=4).astype(np.float32)

    def logits(self, x):
        hidden = x.reshape(len(x), -1) @ self.w + self.b
        return hidden.clip(0) @ self.v + self.c

    def gradient(self, x, slopes):
        active = x.reshape(len(x), -1) @ self.w + self.b > 0
        return ((slopes @ self.v.T) * active @ self.w.T).reshape(x.shape)

    def module(self):
        module = torch.nn.Sequential(
            torch.nn.Flatten(),
            torch.nn.Linear(6, 8),
            torch.nn.ReLU(),
            torch.nn.Linear(8, 4),
        )
        values = {"1.weight": self.w.T, "1.bias": self.b}
        values |= {"3.weight": self.v.T, "3.bias": self.c}
        module.load_state_dict(
            {key: torch.from_numpy(value.copy()) for key, value in values.items()}
        )
        return module.eval()

    def jax_function(self):
        jnp = pytest.importorskip("jax.numpy")

        def small(x):
            hidden = x.reshape(x.shape[0], -1) @ self.w + self.b
            return jnp.maximum(hidden, 0) @ self.v + self.c

        return small

    def check(self, model, slopes):
        """`model` is this network, at several batch sizes."""
        for count in (5, 1, 3):
            x = np.random.default_rng(count).random((count, 2, 3), dtype=np.float32)
            point, expected = model.to_tensor(x), self.logits(x)
            np.testing.assert_allclose(
                to_numpy(model.logits(point)), expected, atol=1e-5
            )
            if model.access is Access.GRADIENT:
                logits, pull_back = model.linearise(point)
                np.testing.assert_allclose(to_numpy(logits), expected, atol=1e-5)
                np.testing.assert_allclose(
                    to_numpy(pull_back(like(point, slopes[:count]))),
                    self.gradient(x, slopes[:count]),
                    atol=1e-5,
                )


@pytest.fixture
def weights():
    return Weights()


@pytest.fixture(scope="session")
def exported():
    """Exports the network, once for each kind of batch size."""

    @functools.cache
    def export(dynamic):
        sizes = ({0: torch.export.Dim("batch")},) if dynamic else None
        example = torch.zeros(4, 2, 3)
        return torch.export.export(Weights().module(), (example,), dynamic_shapes=sizes)

    return export


@pytest.fixture
def batch():
    return np.random.default_rng(1).random((5, 2, 3), dtype=np.float32)


@pytest.fixture
def slopes():
    return np.random.default_rng(2).normal(size=(5, 4)).astype(np.float32)


@pytest.fixture(scope="session")
def vnncomp():
    if not SHARED.is_dir():
        pytest.skip(
            "the shared data folder, which is no part of the project, is absent"
        )
    folder = SHARED / "vnncomp"

    def load(category):
        with np.load(folder / f"{category}.npz", allow_pickle=False) as file:
            return dict(file), folder / "models"

    return load


@pytest.fixture
def write(tmp_path):
    """Write an indented text to a file in the temporary folder."""

    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    return write


@pytest.fixture
def without(monkeypatch):
    """Make a package look as if it were not installed."""

    def hide(package, module):
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.delitem(sys.modules, module, raising=False)

    return hide
