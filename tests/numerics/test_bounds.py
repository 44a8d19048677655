import math

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from robustkit.errors import BadInput
from robustkit.numerics.bounds import Bounds, as_bounds


def test_the_default_box_is_the_unit_cube():
    assert Bounds() == Bounds(0.0, 1.0)
    assert Bounds().width == 1.0


def test_whole_numbers_become_floats():
    bounds = Bounds(0, 255)
    assert isinstance(bounds.lower, float)
    assert isinstance(bounds.upper, float)
    assert bounds == Bounds(0.0, 255.0)


def test_width_of_a_box_around_zero():
    assert Bounds(-0.5, 2.0).width == 2.5


@pytest.mark.parametrize(
    ("lower", "upper"),
    [
        (1.0, 0.0),
        (0.5, 0.5),
        (-math.inf, 1.0),
        (0.0, math.inf),
        (math.nan, 1.0),
        (0.0, math.nan),
    ],
)
def test_other_bounds_are_refused_and_named(lower, upper):
    with pytest.raises(BadInput, match="lower < upper") as caught:
        Bounds(lower, upper)
    assert f"({lower}, {upper})" in str(caught.value)


def test_clip_moves_only_what_is_outside(convert):
    x = convert([[-3.0, -1.0, 0.25], [2.0, 2.5, 1.0]])
    clipped = Bounds(-1.0, 2.0).clip(x)
    assert_array_equal(clipped.numpy(), [[-1.0, -1.0, 0.25], [2.0, 2.0, 1.0]])
    assert clipped.dtype == x.dtype
    assert type(clipped) is type(x)


def test_clip_of_an_empty_batch(convert):
    assert Bounds().clip(convert(np.zeros((0, 3, 2)))).shape == (0, 3, 2)


def test_pairs_are_bounds():
    assert as_bounds((0, 255)) == as_bounds([0.0, 255.0]) == Bounds(0, 255)
    assert as_bounds(None) == Bounds()
    assert as_bounds(Bounds(-1, 1)) == Bounds(-1, 1)
    for wrong in ((1,), "01", 3):
        with pytest.raises(BadInput, match="two numbers"):
            as_bounds(wrong)


def test_single_precision_has_other_numbers_for_some_bounds():
    rounded = Bounds(-0.3, 0.1).rounded_to(np.float32)
    assert (rounded.lower, rounded.upper) == (np.float32(-0.3), np.float32(0.1))
    assert rounded.lower < -0.3 < 0.1 < rounded.upper
    assert Bounds(-0.3, 0.1).rounded_to(np.float64) == Bounds(-0.3, 0.1)
    assert Bounds(-0.3, 0.1).rounded_to(np.int64) == Bounds(-0.3, 0.1)
    assert Bounds(-3, 5).rounded_to("float16") == Bounds(-3, 5)
    with pytest.raises(BadInput, match="lower < upper"):
        Bounds(100, 100.01).rounded_to(np.float16)
