"""The least value of a linear function, against a solver."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize

from robustkit.certify.regions import NORMS, Region
from robustkit.errors import BadInput


def reached(row, x, norm, radius):
    """The least value of row . delta, by a linear or a convex program."""
    count = len(x)
    low, high = np.maximum(-x, -radius), np.minimum(1 - x, radius)
    if norm == "linf":
        return np.minimum(row * low, row * high).sum()
    if norm == "l1":
        found = linprog(
            np.concatenate([row, -row]),
            np.ones((1, 2 * count)),
            [radius],
            bounds=[(0, end) for end in (*high, *-low)],
        )
        return found.fun
    found = minimize(
        lambda d: row @ d,
        np.zeros(count),
        jac=lambda d: row,
        bounds=[*zip(low, high, strict=True)],
        constraints={
            "type": "ineq",
            "fun": lambda d: radius**2 - d @ d,
            "jac": lambda d: -2 * d,
        },
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    return found.fun


@pytest.mark.parametrize("norm", NORMS)
@given(seed=st.integers(0, 10**6), radius=st.sampled_from([0.05, 0.3, 0.9, 5.0]))
def test_the_least_value_is_right_and_never_too_large(norm, seed, radius):
    rng = np.random.default_rng(seed)
    x = rng.beta(0.4, 0.4, size=5)
    row = rng.normal(size=5) * (rng.random(5) < 0.8)
    region = Region(torch.from_numpy(x), norm, radius, 0.0, 1.0)
    bound = float(region.least(torch.from_numpy(row[None]))[0])
    expected = reached(row, x, norm, radius)
    assert bound <= expected + 1e-7
    # In l2 the multiplier is good, not perfect.
    slack = 0.02 if norm == "l2" else 1e-9
    assert bound >= expected - slack * abs(expected) - 1e-7


@pytest.mark.parametrize("norm", NORMS)
def test_rows_without_their_zeros_have_the_same_least_value(norm):
    rng = np.random.default_rng(0)
    region = Region(torch.from_numpy(rng.random(6)), norm, 0.4, 0.0, 1.0)
    columns = torch.tensor([[4, 1, 0], [5, 0, 0]])
    slopes = torch.from_numpy(rng.normal(size=(2, 3)))
    slopes[1, 1:] = 0
    dense = torch.zeros(2, 6, dtype=torch.float64).scatter_add(1, columns, slopes)
    assert torch.allclose(region.least(slopes, columns), region.least(dense))


def test_other_norms_are_refused():
    with pytest.raises(BadInput, match="nothing can be certified in the norm 'l0'"):
        Region(torch.zeros(2), "l0", 1.0, 0.0, 1.0)
