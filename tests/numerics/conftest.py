"""The frameworks every function of this layer must agree on."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from eagerpy.astensor import astensor

from robustkit.numerics.tensors import Array, Tensor, as_tensor

Convert = Callable[[Any], Tensor]


def _torch(values: Array) -> Tensor:
    import torch

    return as_tensor(torch.tensor(values))


def _jax(values: Array) -> Tensor:
    return as_tensor(pytest.importorskip("jax.numpy").asarray(values))


def _jax_on_a_device(values: Array) -> Tensor:
    # Past `as_tensor`, which would lend it to NumPy, since it is on a processor.
    return astensor(pytest.importorskip("jax.numpy").asarray(values))


FRAMEWORKS = {
    "numpy": as_tensor,
    "torch": _torch,
    "jax": _jax,
    "jax on a device": _jax_on_a_device,
}


@pytest.fixture(params=FRAMEWORKS, scope="session")
def convert(request: pytest.FixtureRequest) -> Convert:
    """Values as a tensor of one framework, floats in single precision."""

    def to_tensor(values: Any) -> Tensor:
        array = np.asarray(values)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        return FRAMEWORKS[request.param](array)

    return to_tensor
