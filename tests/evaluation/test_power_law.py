import numpy as np
import pytest
from scipy import stats

from robustkit.evaluation.power_law import fit_power_law


def drawn(exponent, count, seed, largest=0.4):
    return largest * np.random.default_rng(seed).random(count) ** (1 / exponent)


def test_the_interval_covers_as_often_as_it_says():
    laws = [fit_power_law(drawn(1.5, 200, seed), seed=seed) for seed in range(400)]
    covered = sum(law.exponent.lower <= 1.5 <= law.exponent.upper for law in laws)
    # Binomial(400, 0.95): 99.9 % of its mass.
    assert stats.binom.ppf(5e-4, 400, 0.95) <= covered
    assert covered <= stats.binom.ppf(1 - 5e-4, 400, 0.95)
    rejected = sum(law.p_value < 0.05 for law in laws)
    assert stats.binom.ppf(5e-4, 400, 0.05) <= rejected
    assert rejected <= stats.binom.ppf(1 - 5e-4, 400, 0.05)


def test_the_estimate_is_the_maximum_of_the_likelihood():
    distance = drawn(2.0, 100, 3)
    law = fit_power_law(distance)
    below = np.sort(distance)[:25]
    assert law.samples == 25
    assert law.limit == np.sort(distance)[25]

    def likelihood(k):
        return (np.log(k) + (k - 1) * np.log(below) - k * np.log(law.limit)).sum()

    k = law.exponent.estimate
    assert likelihood(k) > max(likelihood(0.999 * k), likelihood(1.001 * k))


def test_the_error_counts_samples_of_all_kinds():
    some = drawn(1.0, 60, 0)
    distance = np.concatenate([some, np.zeros(20), np.full(15, np.inf), [np.nan] * 5])
    law = fit_power_law(distance)
    assert law.exponent == fit_power_law(some).exponent
    assert law.share == 16 / 100
    assert law.error(np.array([law.limit, law.limit / 2])).tolist() == pytest.approx(
        [0.16, 0.16 * 0.5**law.exponent.estimate]
    )


def test_scale_changes_the_limit_only():
    distance = drawn(1.2, 300, 1)
    one, other = fit_power_law(distance), fit_power_law(1000 * distance)
    assert other.exponent == pytest.approx(one.exponent)
    assert other.limit == pytest.approx(1000 * one.limit)
    assert other.p_value == one.p_value


def test_what_is_no_power_law_is_told():
    rng = np.random.default_rng(0)
    lumps = np.concatenate([rng.uniform(0.01, 0.011, 200), rng.uniform(0.3, 0.4, 600)])
    assert fit_power_law(lumps).p_value < 0.01


@pytest.mark.parametrize(
    "distance",
    [
        np.array([]),
        np.full(100, np.inf),
        np.arange(1, 40) / 100,
        np.random.default_rng(0).integers(1, 6, 500).astype(float),
    ],
)
def test_too_few_or_discrete_distances_have_none(distance):
    assert fit_power_law(distance) is None
