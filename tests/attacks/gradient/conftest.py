import numpy as np
import pytest

from robustkit.engine.criteria import Misclassification
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.models.numpy import NumPyModel
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor


@pytest.fixture(scope="session")
def laws():
    """What holds for every attack, to be asked of each: `Laws`."""
    return Laws


class Laws:
    @staticmethod
    def attack(attack, planted, norm, criterion=None, rows=slice(None)):
        x = as_tensor(planted.x[rows])
        criterion = criterion or Misclassification(as_tensor(planted.y[rows]))
        problem = Problem(planted.model(), x, criterion, get_norm(norm))
        return run(attack, problem)

    @staticmethod
    def asked(attack, problem):
        """Margins and distances (n,) of what it asked about, one after another."""
        answers = []

        class Listening:
            def before_step(self, p, step):
                pass

            def after_step(self, p, step):
                pass

            def after_question(self, p, margin, distance, rows):
                answers.append((margin, distance))

            def after_gradient(self, p, point, loss, gradient, rows):
                pass

        run(attack, problem, observers=(Listening(),))
        return answers

    @classmethod
    def any_bounds_and_units(cls, attack, planted, norm, rtol=1e-6):
        """Rescaled inputs give the rescaled result."""
        assert planted.lower == 0
        scale, shift = 255.0 / planted.upper, -20.0
        moved = NumPyModel(
            lambda x: planted.logits((x - shift) / scale),
            Bounds(shift, shift + scale * planted.upper),
            gradient=lambda x, slopes: planted.gradient(x, slopes) / scale,
        )
        x = as_tensor(planted.x * scale + shift)
        criterion = Misclassification(as_tensor(planted.y))
        ledger = run(attack, Problem(moved, x, criterion, get_norm(norm)))
        distance = ledger.distance.numpy() / (1 if norm == "l0" else scale)
        expected = cls.attack(attack, planted, norm).distance.numpy()
        assert np.isfinite(expected).any()
        np.testing.assert_allclose(distance, expected, rtol=rtol)

    @classmethod
    def any_batch(cls, attack, planted, norm):
        """No sample's result depends on which others are there."""
        whole = cls.attack(attack, planted, norm).distance.numpy()
        parts = [
            cls.attack(attack, planted, norm, rows=slice(start, start + 5))
            for start in range(0, len(planted.x), 5)
        ]
        parts = np.concatenate([part.distance.numpy() for part in parts])
        assert np.isfinite(whole).any()
        np.testing.assert_array_equal(parts, whole)

    @classmethod
    def passes(cls, attack, planted, norm, forwards, backwards):
        """So many passes are billed to each sample."""
        ledger = cls.attack(attack, planted, norm)
        assert (ledger.forwards == forwards).all()
        assert (ledger.backwards == backwards).all()
