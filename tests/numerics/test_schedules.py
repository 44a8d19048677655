import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustkit.numerics.schedules import cosine, geometric

SCHEDULES = [cosine, geometric]
rates = st.floats(1e-3, 1e3)
progress = st.floats(0.0, 1.0)


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(first=rates, last=rates)
def test_it_starts_at_first_and_ends_at_last(schedule, first, last):
    assert schedule(0.0, first, last) == pytest.approx(first)
    assert schedule(1.0, first, last) == pytest.approx(last)


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(first=rates, last=rates, one=progress, other=progress)
def test_it_never_turns_back(schedule, first, last, one, other):
    early, late = (schedule(at, first, last) for at in sorted((one, other)))
    fall = (early - late) * (1 if first >= last else -1)
    assert fall >= -1e-9 * max(first, last)


def test_halfway_is_the_arithmetic_mean_for_cosine():
    assert cosine(0.5, 1.0, 0.1) == pytest.approx(0.55)


def test_a_quarter_of_the_way_along_the_cosine():
    assert cosine(0.25, 1.0, 0.0) == pytest.approx((1 + 0.5**0.5) / 2)


def test_halfway_is_the_geometric_mean_for_geometric():
    assert geometric(0.5, 1.0, 0.01) == pytest.approx(0.1)
