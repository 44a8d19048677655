import numpy as np
import pytest

from robustkit.attacks.decision import descents
from robustkit.engine.criteria import Misclassification
from robustkit.engine.problem import Problem
from robustkit.models.base import Access
from robustkit.models.numpy import NumPyModel
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor


def test_the_kind_of_probes_that_brought_most_is_chosen_and_each_is_tried():
    untried = np.inf
    gains = np.array([[untried] * 4, [0.1, *[untried] * 3], [0.1, 0.3, 0.2, untried]])
    chosen = descents._chosen(gains, np.array([0.0, 1.0, 9.0]))
    assert chosen.tolist() == [0, 0, 1]
    assert descents._chosen(gains[1:2], np.array([2.0])).tolist() == [1]
    assert descents._chosen(gains[2:], np.array([12.0])).tolist() == [3]


def test_probes_come_back_from_beyond_what_is_adversarial():
    """As where a thin shell is, and nothing is on either side of it."""
    lift, seen = as_tensor(np.zeros(1)), []
    for _ in range(100):
        lift = descents._lifted(lift, as_tensor(np.zeros(1)))
        seen.append(lift.item())
    assert 0.0 in seen
    assert 0.1 < max(seen) <= 0.5


def test_in_l2_starts_are_what_the_model_was_shown():
    class Coarse(NumPyModel):
        def shown(self, x):
            return as_tensor((x.raw * 5).round() / 5)

    slopes = np.random.default_rng(0).normal(size=(1, 6, 6))

    def function(x):
        score = 0.4 - ((x - 0.4) * slopes).sum(axis=(1, 2, 3))
        return np.stack([score, np.zeros_like(score)], axis=1)

    criterion = Misclassification(as_tensor(np.zeros(8, dtype=np.int64)))
    x, keys = as_tensor(np.full((8, 1, 6, 6), 0.4)), np.arange(8, dtype=np.uint64)
    p = Problem(Coarse(function), x, criterion, get_norm("l2"), keys=keys)
    p.limit(Access.DECISION, None)
    near, found = descents.start(p, 20)
    assert found.raw.all()
    assert (near.raw == p.ledger.best.raw).all()
    assert (near.raw == p.model.shown(near).raw).all()


@pytest.mark.filterwarnings("error")
def test_chance_may_lead_back_to_the_original():
    class Coarse(NumPyModel):
        def shown(self, x):
            return as_tensor((x.raw * 3).round() / 3)

    def function(x):
        return np.tile([-1.0, 0.0], (len(x), 1))

    criterion = Misclassification(as_tensor(np.zeros(2, dtype=np.int64)))
    x = as_tensor(np.full((2, 1), 1 / 3))
    p = Problem(Coarse(function), x, criterion, get_norm("l0"))
    p.limit(Access.DECISION, None)
    delta = as_tensor(np.array([[0.0], [0.1]]))
    s = descents.begun(p, delta, p.ledger.found, 0.25)
    for t in range(3):
        s = descents.moved(p, s, t, probes=4, size=0.25, tolerance=0.2)
    assert np.isfinite(s.gain.raw[:, 0]).all()
