import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from robustkit.errors import BadInput
from robustkit.evaluation.curve import Curve, proportion


@given(st.integers(0, 60), st.integers(1, 60))
def test_proportion_is_the_exact_binomial_interval(successes, total):
    successes = min(successes, total)
    exact = binomtest(successes, total).proportion_ci(0.95, method="exact")
    ours = proportion(successes, total)
    assert ours.estimate == successes / total
    assert ours.lower == pytest.approx(exact.low, abs=1e-12)
    assert ours.upper == pytest.approx(exact.high, abs=1e-12)


def test_proportion_of_nothing_is_unknown():
    nothing = proportion(0, 0)
    assert math.isnan(nothing.estimate)
    assert (nothing.lower, nothing.upper) == (0.0, 1.0)


def test_a_perturbation_of_exactly_epsilon_counts_as_broken():
    curve = Curve(np.array([0.0, 0.5, 1.0, np.inf]))
    assert curve.robust_accuracy(0.5).estimate == 0.5
    assert curve.robust_accuracy(0.4999).estimate == 0.75
    assert curve.robust_accuracy(1e9).estimate == 0.25


def test_unsettled_samples_are_never_counted_as_robust():
    curve = Curve(np.array([np.nan, 1.0]))
    assert curve.robust_accuracy(0.0).estimate == 0.5
    assert curve.quantile(0.5) == 0.0


@given(
    st.lists(
        # Apart by more than what counts as the edge of one ball.
        st.integers(0, 10_000).map(lambda size: size / 1000)
        | st.sampled_from([math.inf, math.nan]),
        min_size=1,
        max_size=30,
    )
)
def test_steps_agree_with_robust_accuracy_everywhere(distances):
    curve = Curve(np.array(distances))
    sizes, accuracies = curve.steps()
    assert sizes[0] == 0
    assert (np.diff(sizes) > 0).all()
    assert (np.diff(accuracies) < 0).all() or len(accuracies) == 1
    for size, accuracy in zip(sizes, accuracies, strict=True):
        assert accuracy == pytest.approx(curve.robust_accuracy(size).estimate)


def test_quantiles_count_failures_as_infinite():
    curve = Curve(np.array([1.0, 2.0, np.inf, np.inf]))
    assert curve.quantile(0.25) == 1.0
    assert curve.quantile(0.5) == 2.0
    assert curve.quantile(0.75) == math.inf
    assert math.isnan(Curve(np.array([])).quantile(0.5))


def test_the_band_holds_the_whole_curve_as_often_as_it_says():
    rng = np.random.default_rng(0)
    misses = 0
    for _ in range(400):
        curve = Curve(rng.random(80))
        sizes, accuracies = curve.steps()
        truth = 1 - sizes
        before = np.concatenate([[1.0], accuracies[:-1]])
        gap = max(np.abs(accuracies - truth).max(), np.abs(before - truth).max())
        misses += gap > curve.band()
    assert 0 < misses <= 0.05 * 400 + 3 * math.sqrt(400 * 0.05 * 0.95)


@pytest.mark.parametrize("epsilon", [-1, math.nan, "a"])
def test_no_accuracy_at_what_is_no_size(epsilon):
    with pytest.raises(BadInput, match="epsilon must be"):
        Curve(np.array([0.0, 0.5])).robust_accuracy(epsilon)


@pytest.mark.parametrize("share", [-0.1, 1.1, 50, math.nan, "a"])
def test_no_quantile_of_what_is_no_share(share):
    with pytest.raises(BadInput, match="the share must be"):
        Curve(np.array([0.0, 0.5])).quantile(share)
