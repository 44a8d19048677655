import math
import re
from fractions import Fraction

import numpy as np
import pytest
import torch

import robustkit as rk
from robustkit.arguments import as_function, as_number, as_seconds, as_seed, as_whole
from robustkit.errors import BadInput


def test_whole_numbers_of_any_kind():
    for value in (3, np.int64(3), np.uint8(3), np.array(3), torch.tensor(3)):
        found = as_whole(value, "the budget", least=1)
        assert (found, type(found)) == (3, int)


@pytest.mark.parametrize(
    "value",
    [
        *(2.5, 3.0, "3", None, True, [3]),
        *(np.bool_(True), np.float64(3.0), np.array([3]), np.array([1, 2])),
        *(torch.tensor(0.5), torch.tensor(True), torch.tensor([1, 2])),
    ],
)
def test_what_is_no_whole_number(value):
    with pytest.raises(BadInput, match="the budget must be a whole number; got"):
        as_whole(value, "the budget")


def test_numbers_that_are_too_small():
    with pytest.raises(BadInput, match="the budget must be at least 1; got 0"):
        as_whole(0, "the budget", least=1)


def test_numbers_of_any_kind():
    for value in (3, np.float32(3), np.array(3.0), torch.tensor(3.0), Fraction(6, 2)):
        found = as_number(value, "epsilon", above=0)
        assert (found, type(found)) == (3.0, float)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("a", "must be a number; got 'a'"),
        (None, "must be a number; got None"),
        (True, "must be a number; got True"),
        ([0.1], "must be a number"),
        (1j, "must be a number"),
        (math.nan, "must be a finite number; got nan"),
        (math.inf, "must be a finite number; got inf"),
        (0, "must be more than 0; got 0"),
        (0.5, "must be at least 1; got 0.5"),
    ],
)
def test_what_is_no_such_number(value, message):
    with pytest.raises(BadInput, match=f"epsilon {re.escape(message)}"):
        as_number(value, "epsilon", least=1, above=0)


def test_seconds_may_have_no_end():
    assert as_seconds(3, "the timeout") == 3.0
    assert as_seconds(math.inf, "the timeout") == math.inf
    for value in (0, -math.inf, math.nan, "x", None):
        with pytest.raises(BadInput, match="the timeout must be"):
            as_seconds(value, "the timeout")


@pytest.mark.parametrize("value", [-1, 2**63, "a", None, 1.0])
def test_what_is_no_seed(value):
    with pytest.raises(BadInput, match="the seed must be"):
        as_seed(value)


def test_what_cannot_be_called():
    with pytest.raises(BadInput, match="the model must be a function; got 'x'"):
        as_function("x", "the model")


@pytest.mark.parametrize(
    "make",
    [
        rk.NumPyModel,
        rk.TorchModel,
        rk.JaxModel,
        lambda x: rk.LabelModel(x, 3),
        lambda x: rk.NumPyModel(len, gradient=x),
    ],
)
@pytest.mark.parametrize("value", ["x", 0])
def test_models_are_functions(make, value):
    with pytest.raises(BadInput, match=f"must be a function; got {value!r}"):
        make(value)
