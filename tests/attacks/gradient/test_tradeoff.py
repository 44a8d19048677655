import numpy as np

from robustkit.attacks.gradient.tradeoff import Tradeoff
from robustkit.numerics.tensors import as_tensor


def test_closes_in_on_the_weight_where_winning_begins():
    edge = np.array([0.003, 1.0, 700.0])
    one = as_tensor(np.ones(3))
    tradeoff = Tradeoff(one, one * 0, one * np.inf)
    for _ in range(40):
        won = as_tensor(tradeoff.weight.numpy() >= edge)
        tradeoff = tradeoff.after(won)
    np.testing.assert_allclose(tradeoff.weight.numpy(), edge, rtol=1e-6)


def test_stays_finite_where_nothing_ever_wins():
    one = as_tensor(np.ones(2))
    tradeoff = Tradeoff(one, one * 0, one * np.inf)
    for _ in range(400):
        tradeoff = tradeoff.after(as_tensor(np.array([False, False])))
    assert np.isfinite(tradeoff.weight.numpy()).all()
