import numpy as np
import pytest
import torch

from robustkit.errors import BadInput
from robustkit.models.batching import AnyBatch


class Fixed:
    """Doubles batches of the allowed sizes, and counts what it was asked."""

    def __init__(self, *sizes):
        self.sizes, self.asked = sizes, []

    def __call__(self, x):
        self.asked.append(len(x))
        if len(x) not in self.sizes:
            raise RuntimeError(f"not a batch of {len(x)}")
        return 2 * x


@pytest.mark.parametrize("size", [1, 2, 3, 8, 100, 256])
@pytest.mark.parametrize("count", [1, 2, 7, 16])
def test_any_number_of_rows(size, count):
    x = np.random.default_rng(0).random((count, 3))
    ask = AnyBatch(Fixed(size), np.concatenate)
    for rows in (x, x[:1], np.repeat(x, 3, axis=0)):
        np.testing.assert_array_equal(ask(rows), 2 * rows)


def test_a_free_batch_size_costs_nothing():
    fixed = Fixed(*range(100))
    ask = AnyBatch(fixed, np.concatenate, declared=4)
    for count in (7, 99, 1):
        ask(np.ones((count, 2)))
    assert fixed.asked == [7, 99, 1]


def test_the_announced_size_is_tried_first_and_remembered():
    fixed = Fixed(20)
    ask = AnyBatch(fixed, np.concatenate, declared=20)
    ask(np.ones((30, 2)))
    assert fixed.asked == [30, 20, 20, 20]
    ask(np.ones((5, 2)))
    assert fixed.asked[4:] == [20]


def test_a_size_that_has_worked_is_tried_first():
    fixed = Fixed(20)
    ask = AnyBatch(fixed, np.concatenate)
    ask(np.ones((20, 2)))
    ask(np.ones((5, 2)))
    assert fixed.asked == [20, 5, 20, 20]


def test_what_works_for_no_size_fails_as_it_did_at_first():
    with pytest.raises(RuntimeError, match="not a batch of 5"):
        AnyBatch(Fixed(), np.concatenate)(np.ones((5, 2)))


def test_what_fails_for_the_announced_size_too_says_why():
    def call(x):
        raise RuntimeError(f"asked about {len(x)}")

    with pytest.raises(RuntimeError, match="asked about 4"):
        AnyBatch(call, np.concatenate, declared=4)(np.ones((5, 2)))


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_outputs_with_the_classes_first_are_refused_at_any_size(kind):
    x = np.random.default_rng(0).random((5, 3))
    join = np.concatenate if kind is np.asarray else torch.cat
    ask = AnyBatch(lambda x: x.T, join)
    with pytest.raises(BadInput, match=r"each of 5 inputs.*\(3, 5\)"):
        ask(kind(x))


def test_classes_that_are_ruled_out_are_no_matter(recwarn):
    """By minus infinity, where the batch size is fixed and not announced."""

    def four(x):
        out = x.reshape(4, -1) * 1.0
        out[:, 0] = -np.inf
        return out

    out = AnyBatch(four, np.concatenate)(np.ones((8, 3)))
    assert out.tolist() == [[-np.inf, 1, 1]] * 8
    assert not recwarn.list


def test_a_batch_of_one_may_lose_its_axis():
    x = np.random.default_rng(0).random((1, 3))
    ask = AnyBatch(np.squeeze, np.concatenate)
    np.testing.assert_array_equal(ask(x), x)


def test_outputs_that_are_not_row_by_row_are_refused():
    with pytest.raises(BadInput, match=r"each of 5 inputs.*\(15,\)"):
        AnyBatch(lambda x: x.reshape(-1), np.concatenate)(np.ones((5, 3)))
    with pytest.raises(BadInput, match=r"shape \(\)"):
        AnyBatch(np.sum, np.concatenate)(np.ones((5, 3)))
