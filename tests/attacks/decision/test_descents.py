import numpy as np

from robustkit.attacks.decision import descents
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
