import numpy as np
import pytest

from robustkit.arguments import as_number, as_seed, as_whole
from robustkit.errors import BadInput


def test_whole_numbers_of_any_kind():
    for value in (3, np.int64(3), np.uint8(3), np.array(3)):
        found = as_whole(value, "the budget", least=1)
        assert (found, type(found)) == (3, int)


@pytest.mark.parametrize("value", [2.5, 3.0, "3", None, True, [3]])
def test_what_is_no_whole_number(value):
    with pytest.raises(BadInput, match="the budget must be a whole number; got"):
        as_whole(value, "the budget")


def test_numbers_that_are_too_small():
    with pytest.raises(BadInput, match="the budget must be at least 1; got 0"):
        as_whole(0, "the budget", least=1)


@pytest.mark.parametrize("value", [-1, 2**63, "a", None, 1.0])
def test_what_is_no_seed(value):
    with pytest.raises(BadInput, match="the seed must be"):
        as_seed(value)


def test_numbers_of_any_kind():
    for value in (0.5, np.float32(0.5), np.array(0.5)):
        found = as_number(value, "the share", least=0)
        assert (found, type(found)) == (0.5, float)
    assert as_number(np.inf, "the epsilon") == np.inf


@pytest.mark.parametrize("value", ["0.5", None, True, np.nan, 1j, [0.5, 0.5]])
def test_what_is_no_number(value):
    with pytest.raises(BadInput, match="the share must be a number; got"):
        as_number(value, "the share")


def test_numbers_below_the_least():
    with pytest.raises(BadInput, match=r"at least 0; got -0\.5"):
        as_number(-0.5, "the share", least=0)
