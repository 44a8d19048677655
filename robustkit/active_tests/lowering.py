"""Torch networks as lists of dense affine layers with ReLUs in between."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from robustkit.active_tests.networks import ReluNetwork
from robustkit.errors import BadInput
from robustkit.models.torch import TorchModel
from robustkit.numerics.tensors import Array

__all__ = ["as_network"]

_LARGEST = 40_000_000
_AFFINE = (
    torch.nn.Flatten,
    torch.nn.Unflatten,
    torch.nn.Identity,
    torch.nn.Linear,
    torch.nn.Conv1d,
    torch.nn.Conv2d,
    torch.nn.AvgPool1d,
    torch.nn.AvgPool2d,
    torch.nn.AdaptiveAvgPool2d,
    torch.nn.BatchNorm1d,
    torch.nn.BatchNorm2d,
    torch.nn.ZeroPad2d,
    torch.nn.Dropout,
)


def as_network(native: Any, shape: tuple[int, ...]) -> ReluNetwork:
    """A network as dense layers in double precision.

    Args:
        native: A `ReluNetwork`; pairs of weights (outputs, inputs) and bias (outputs,),
            first layer first; or a torch Sequential (also nested, or as a
            `TorchModel`) of ReLU and layers that are affine in evaluation mode:
            Linear, Conv, AvgPool, BatchNorm, Flatten, ZeroPad, Dropout.
        shape: Of one input.

    Raises:
        BadInput: It has another layer, does not fit the shape, or is too large.

    >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(),
    ...                           torch.nn.Flatten(), torch.nn.Linear(8, 3)).eval()
    >>> [weight.shape for weight, bias in as_network(net, (1, 4, 4)).layers]
    [(8, 16), (3, 8)]
    """
    if isinstance(native, TorchModel):
        native = native.module
    if isinstance(native, ReluNetwork):
        layers = native.layers
    elif isinstance(native, torch.nn.Module):
        with torch.no_grad():
            layers = list(_dense(native, shape))
    elif isinstance(native, Sequence) and not isinstance(native, str):
        layers = native
    else:
        raise BadInput(
            "exact distances need a network of affine layers and ReLUs: a torch "
            f"Sequential, or pairs of weights and bias; got a {type(native).__name__}"
        )
    network = ReluNetwork(
        [(np.asarray(w, np.float64), np.asarray(b, np.float64)) for w, b in layers]
    )
    _check(network, shape)
    return network


def _check(network: ReluNetwork, shape: tuple[int, ...]) -> None:
    inputs = int(np.prod(shape))
    if not network.layers:
        raise BadInput("expected at least one affine layer; got none")
    for weight, bias in network.layers:
        if weight.ndim != 2 or weight.shape != (len(bias), inputs):
            raise BadInput(
                f"a layer of {inputs} inputs needs weights (outputs, {inputs}) and as "
                f"many biases as outputs; got the shapes {weight.shape} and "
                f"{bias.shape}"
            )
        inputs = len(bias)
    if inputs < 2:
        raise BadInput(f"a classifier has 2 or more outputs; this network has {inputs}")


def _dense(module: torch.nn.Module, shape: tuple[int, ...]) -> Iterator[Any]:
    """Dense weights of what lies between the ReLUs."""
    run: list[torch.nn.Module] = []
    for part in _parts(module):
        if isinstance(part, torch.nn.ReLU):
            weight, bias, shape = _affine(run, shape)
            yield weight, bias
            run = []
        elif isinstance(part, _AFFINE):
            run.append(part)
        else:
            raise BadInput(
                f"exact distances are for ReLU and affine layers; this network has a "
                f"{type(part).__name__}"
            )
    weight, bias, _ = _affine(run, shape)
    yield weight, bias


def _parts(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
    if isinstance(module, torch.nn.Sequential):
        for child in module:
            yield from _parts(child)
    else:
        yield module


def _affine(
    run: list[torch.nn.Module], shape: tuple[int, ...]
) -> tuple[Array, Array, tuple[int, ...]]:
    """The weights of some affine layers in a row, by what they make of unit inputs."""
    count = int(np.prod(shape))
    layers = torch.nn.Sequential(*run)
    state = {k: v.to(torch.float64) for k, v in layers.state_dict().items()}

    def apply(x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = torch.func.functional_call(layers, state, (x,))
        return out

    training = [part for part in layers.modules() if part.training]
    try:
        for part in training:
            part.training = False
        bias = apply(torch.zeros(1, *shape, dtype=torch.float64))
        size = bias.numel() * count
        if size > _LARGEST:
            raise BadInput(
                f"a layer has {size:,} dense weights, more than {_LARGEST:,}: too "
                "large for exact distances"
            )
        unit = torch.eye(count, dtype=torch.float64).reshape(count, *shape)
        weight = (apply(unit) - bias).reshape(count, -1).T
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise BadInput(
            f"the network does not take inputs of the shape {shape}: {reason}"
        ) from error
    finally:
        for part in training:
            part.training = True
    return weight.numpy(), bias.reshape(-1).numpy(), tuple(bias.shape[1:])
