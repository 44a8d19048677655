import numpy as np
import pytest

from robustkit.engine.criteria import Misclassification
from robustkit.engine.problem import Problem
from robustkit.models.numpy import NumPyModel
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor


class Watched:
    """A linear classifier of images (channels, height, width) that shows scores only.

    `margins` are those of all images, in units of the logits, and `asked` the inputs of
    every question.
    """

    def __init__(self, shape=(2, 6, 5), samples=5, bounds=(-1.0, 3.0), seed=0):
        rng = np.random.default_rng(seed)
        self.bounds = Bounds(*bounds)
        self.x = rng.uniform(*bounds, size=(samples, *shape))
        self.w = rng.normal(size=shape) / np.prod(shape)
        self.y = np.zeros(samples, dtype=int)
        self.offset = (self.x * self.w).reshape(samples, -1).sum(axis=1).min() - 0.1
        self.asked = []

    def margin(self, x):
        return (x * self.w).reshape(len(x), -1).sum(axis=1) - self.offset

    def logits(self, x):
        self.asked.append(x.copy())
        return np.stack([self.margin(x), 0 * self.margin(x)], axis=1)

    def problem(self, norm, rows=slice(None), seed=0, dtype=np.float64):
        model = NumPyModel(self.logits, self.bounds)
        criterion = Misclassification(as_tensor(self.y[rows]))
        x = as_tensor(self.x[rows].astype(dtype))
        return Problem(model, x, criterion, get_norm(norm), seed=seed)


@pytest.fixture
def watched():
    """Makes linear classifiers that remember what they were asked: `Watched`."""
    return Watched
