"""Independent implementations to hold ours against; not needed to use robustkit.

They want torchvision and visdom at import, of which nothing is used here, and their own
dependencies' pins clash with ours; so they are installed without them
(`pip install --no-deps -r tests/peers/requirements.txt`), and what they only import is
stood in for. They take long, so they run on request: `pytest tests/peers`. Where a peer
is absent its tests skip and say so.
"""

import importlib
import importlib.machinery
import sys
import types
import warnings

import numpy as np
import pytest
import torch

from robustkit.engine.criteria import Misclassification
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.models.torch import TorchModel
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor

_BESIDE = "beside"
_STOOD_IN = (
    "torchvision",
    "torchvision.datasets",
    "torchvision.transforms",
    "torchvision.models",
    "torchvision.utils",
    "visdom",
)


def import_peer(name):
    """The package `name`; its unused imports are stood in for while it loads.

    Raises:
        ImportError: It is not installed.
    """
    missing = [part for part in _STOOD_IN if not _importable(part)]
    for part in missing:
        module = types.ModuleType(part)
        module.__spec__ = importlib.machinery.ModuleSpec(part, None)
        module.Visdom = object
        sys.modules[part] = module
        parent, _, child = part.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    finally:
        for part in missing:
            del sys.modules[part]


def _importable(name):
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


@pytest.fixture(scope="session")
def peer():
    """Imports a peer by name, or skips."""

    def load(name):
        try:
            return import_peer(name)
        except ImportError as error:
            pytest.skip(
                f"{name} is not installed ({error}); "
                "pip install --no-deps -r tests/peers/requirements.txt"
            )

    return load


@pytest.fixture
def beside(record_property):
    """Notes what ours came to beside theirs, for the table at the end of the run."""

    def note(attack, peer, norm, network, outcome):
        record_property(_BESIDE, (attack, peer, norm, network, outcome))

    return note


def pytest_terminal_summary(terminalreporter):
    rows = sorted(
        tuple(value)
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "call"
        for name, value in report.user_properties
        if name == _BESIDE
    )
    if rows:
        terminalreporter.section("ours beside theirs")
        for row in rows:
            terminalreporter.write_line(f"| {' | '.join(row)} |")


@pytest.fixture
def duel(shared, beside):
    """Ours and theirs on the same images of a real network: makes a `Duel`."""

    def prepare(network="mnist_cnn_a_adv", samples=16):
        module = shared.torch_model(network).requires_grad_(False)
        data = "mnist" if network.startswith("mnist") else "cifar10"
        images, labels = map(torch.tensor, shared.images(data))
        right = (module(images).argmax(dim=1) == labels).nonzero()[:samples, 0]
        return Duel(module, images[right], labels[right], network, beside)

    return prepare


class Duel:
    """Every question counts on both sides, not only the point that is returned."""

    def __init__(self, module, images, labels, network, beside):
        self.module, self.images, self.labels = module, images, labels
        self._network, self._beside = network, beside

    def ours(self, attack, norm, budget=None, starts=None):
        """Distances (n,)."""
        criterion = Misclassification(as_tensor(self.labels))
        model, x = TorchModel(self.module), as_tensor(self.images)
        starts = None if starts is None else as_tensor(starts)
        problem = Problem(model, x, criterion, get_norm(norm), starts=starts)
        return run(attack, problem, budget=budget).distance.numpy()

    def theirs(self, attack, norm):
        """Distances (n,) and the forward passes of the busiest sample.

        Args:
            attack: From a module, images and labels to adversarial images.
            norm: Name of the norm.
        """
        order = {"l0": 0, "l1": 1, "l2": 2, "linf": torch.inf}[norm]
        best, passes = torch.full(self.labels.shape, torch.inf), 0
        rows = len(self.images)

        def look(points, logits):
            nonlocal best
            delta = (points.detach() - self.images).flatten(1)
            size = torch.linalg.vector_norm(delta, order, dim=1)
            better = (logits.argmax(dim=1) != self.labels) & (size < best)
            best = torch.where(better, size, best)

        class Watched(torch.nn.Module):
            def forward(_, points):
                nonlocal passes, rows
                if points.requires_grad:
                    rows = len(points)
                # Several candidates of each sample may be asked about at once.
                passes += max(len(points) // rows, 1)
                logits = self.module(points)
                if len(points) == len(self.images):
                    look(points, logits.detach())
                return logits

        points = attack(Watched().eval(), self.images, self.labels)
        look(points, self.module(points))
        return best.numpy(), passes

    def ratio(self, attack, peer, norm, ours, theirs):
        """The median of ours over theirs, noted; all of ours must be found."""
        assert np.isfinite(ours).all()
        ratio = float(np.median(ours / theirs))
        self._beside(attack, peer, norm, self._network, f"{ratio:.3f}")
        return ratio
