"""Every function in every framework against NumPy."""

import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from robustkit.numerics.logits import ahead, at_label, lead, one_hot, one_less_another
from robustkit.numerics.tensors import like, to_numpy


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_one_hot(convert, dtype):
    if convert(0.0).__class__.__name__ == "JAXTensor":
        dtype = np.int32
    found = one_hot(convert(np.array([2, 0], dtype=dtype)), 3)
    assert found.numpy().tolist() == [[False, False, True], [True, False, False]]
    assert found.numpy().dtype == np.bool_


def test_at_label(convert):
    logits = convert([[0.1, 0.2, 0.3], [1.0, 2.0, 3.0]])
    found = at_label(logits, convert(np.array([2, 0])))
    assert type(found) is type(logits)
    assert_array_equal(found.numpy(), np.float32([0.3, 1.0]))


def test_an_empty_batch(convert):
    labels = convert(np.zeros(0, dtype=np.int64))
    assert one_hot(labels, 3).shape == (0, 3)
    assert at_label(convert(np.zeros((0, 3))), labels).shape == (0,)


def test_one_less_another(convert):
    scores = convert([[3.0, 1.0, 2.0], [0.0, 5.0, 5.0]])
    own = convert(np.array([0, 1]))
    slopes = one_less_another(scores, own, convert(np.array([2, 0])))
    assert_array_equal(to_numpy(slopes), [[1, 0, -1], [-1, 1, 0]])


def test_lead(convert):
    logits = np.array([[3.0, 1.0, 2.0], [0.0, 5.0, 7.0]], dtype=np.float32)
    scores = convert(logits)
    gap, slopes = lead(scores, convert(np.array([0, 1])))
    assert_allclose(to_numpy(gap), [1.0, -2.0], rtol=1e-6)
    assert_array_equal(to_numpy(slopes), [[1, 0, -1], [0, 1, -1]])
    assert_array_equal(scores.numpy(), logits)


@pytest.mark.parametrize("count", [2, 400])
def test_lead_of_few_and_of_many(convert, count):
    """Plain Python and NumPy agree, and what is no number is none in both."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(count, 7)).astype(np.float32)
    labels = rng.integers(7, size=count)
    gap, slopes = lead(convert(logits), convert(labels))
    for row, label in enumerate(labels):
        others = np.delete(logits[row], label)
        ahead_by = logits[row, label] - others.max()
        assert_allclose(to_numpy(gap)[row], ahead_by, rtol=1e-6)
        expected = np.zeros(7)
        expected[label] = 1
        expected[np.flatnonzero(logits[row] == others.max())] = -1
        assert_array_equal(to_numpy(slopes)[row], expected)
    logits[1, (labels[1] + 3) % 7] = np.nan
    gap, _ = lead(convert(logits), convert(labels))
    assert np.isnan(to_numpy(gap)).tolist() == [n == 1 for n in range(count)]


@pytest.mark.parametrize("count", [2, 400])
def test_infinite_scores_are_no_reason_to_warn(convert, count):
    logits = convert(np.full((count, 3), np.inf, dtype=np.float32))
    labels = convert(np.zeros(count, dtype=np.int64))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        gaps = lead(logits, labels)[0], ahead(logits, labels)
    assert np.isnan([to_numpy(gap) for gap in gaps]).all()


@pytest.mark.parametrize("count", [3, 300])
def test_ahead(convert, count):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(count, 4)).astype(np.float32)
    logits[0, 2], labels = np.nan, rng.integers(4, size=count)
    others = np.where(np.arange(4) == labels[:, None], -np.inf, logits)
    expected = logits[np.arange(count), labels] - others.max(axis=1)
    given = convert(logits.copy())
    out = ahead(given, like(given, labels))
    assert_array_equal(to_numpy(out), expected)
    assert_array_equal(to_numpy(given), logits)
