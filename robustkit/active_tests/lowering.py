"""Networks as lists of dense affine layers with ReLUs in between."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from robustkit.active_tests.networks import ReluNetwork
from robustkit.certify.networks import ReluGraph, follow
from robustkit.errors import BadInput
from robustkit.models.base import Model
from robustkit.models.torch import TorchModel
from robustkit.numerics.bounds import BoundsLike
from robustkit.numerics.tensors import Array

__all__ = ["as_network"]

_LARGEST = 40_000_000


def as_network(
    native: Any,
    shape: tuple[int, ...],
    bounds: BoundsLike | None = None,
) -> ReluNetwork:
    """A network as dense layers in double precision.

    Args:
        native: A `ReluNetwork`; pairs of weights (outputs, inputs) and bias (outputs,),
            first layer first; or a torch module, or a model that `follow` takes, of
            ReLUs and affine layers one after the other.
        shape: Of one input.
        bounds: Of valid inputs, for a module; None: (0, 1).

    Raises:
        BadInput: It is something else, does not fit the shape, is not finite, or is
            too large.

    >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(),
    ...                           torch.nn.Flatten(), torch.nn.Linear(8, 3)).eval()
    >>> [weight.shape for weight, bias in as_network(net, (1, 4, 4)).layers]
    [(8, 16), (3, 8)]
    """
    if isinstance(native, torch.nn.Module):
        native = TorchModel(native, bounds)
    if isinstance(native, ReluNetwork):
        layers = native.layers
    elif isinstance(native, Model):
        layers = list(_dense(follow(native.precise(), torch.zeros(1, *shape))))
    elif isinstance(native, Sequence) and not isinstance(native, str):
        layers = native
    else:
        raise BadInput(
            "exact distances need a network of affine layers and ReLUs: a torch "
            f"module, or pairs of weights and bias; got a {type(native).__name__}"
        )
    try:
        network = ReluNetwork(
            [(np.asarray(w, np.float64), np.asarray(b, np.float64)) for w, b in layers]
        )
    except (TypeError, ValueError) as error:
        raise BadInput(
            "expected pairs of weights (outputs, inputs) and bias (outputs,), first "
            f"layer first; got something else ({error})"
        ) from error
    _check(network, shape)
    return network


def _check(network: ReluNetwork, shape: tuple[int, ...]) -> None:
    inputs = int(np.prod(shape))
    if not network.layers:
        raise BadInput("expected at least one affine layer; got none")
    for weight, bias in network.layers:
        if bias.ndim != 1 or weight.shape != (len(bias), inputs):
            raise BadInput(
                f"a layer of {inputs} inputs needs weights (outputs, {inputs}) and as "
                f"many biases as outputs; got the shapes {weight.shape} and "
                f"{bias.shape}"
            )
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise BadInput("a layer has weights or biases that are not finite")
        inputs = len(bias)
    if inputs < 2:
        raise BadInput(f"a classifier has 2 or more outputs; this network has {inputs}")


def _dense(graph: ReluGraph) -> Iterator[tuple[Array, Array]]:
    """Dense weights and biases of what lies between the ReLUs."""
    for number, piece in enumerate(graph.pieces):
        # The input is numbered as what goes before the first ReLU.
        if piece.sources != (number - 1,):
            raise BadInput(
                "exact distances are for affine layers and ReLUs one after the other; "
                "this network has connections that skip some"
            )
        size = piece.shapes[0].numel() * piece.offset.numel()
        if size > _LARGEST:
            raise BadInput(
                f"a layer has {size:,} dense weights, more than {_LARGEST:,}: too "
                "large for exact distances"
            )
        yield piece.weight().numpy(), piece.offset.reshape(-1).numpy()
