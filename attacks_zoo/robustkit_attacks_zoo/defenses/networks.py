"""Small networks, how they are trained, and where their weights lie."""

import itertools
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = [
    "StraightThrough",
    "Through",
    "fit",
    "load",
    "perceptron",
    "save",
    "training_digits",
]

M = TypeVar("M", bound=nn.Module)


class Through(nn.Module):
    """A transformation of the input, and the network behind it.

    Args:
        change: (n, ...) to inputs of the network.
        net: To logits.
    """

    def __init__(self, change: nn.Module, net: nn.Module) -> None:
        super().__init__()
        self.change, self.net = change, net

    def forward(self, x: Tensor) -> Tensor:
        """(n, ...) to logits (n, classes)."""
        logits: Tensor = self.net(self.change(x))
        return logits


class StraightThrough(nn.Module):
    """The same values with the identity's gradient (BPDA).

    Args:
        change: From inputs to changed inputs of the same shape.
    """

    def __init__(self, change: nn.Module) -> None:
        super().__init__()
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        """(n, ...) to (n, ...)."""
        with torch.no_grad():
            moved: Tensor = self.change(x) - x
        return x + moved


def perceptron(
    *widths: int, activation: Callable[[], nn.Module] = nn.ReLU
) -> nn.Sequential:
    """Linear layers between the given widths, the input's and the output's included."""
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), activation()]
    return nn.Sequential(*layers[:-1])


def training_digits() -> tuple[Tensor, Tensor]:
    """The images (n, 1, 8, 8) and labels that the demo networks were trained on.

    Raises:
        SystemExit: scikit-learn, which brings them, is not installed.
    """
    from robustkit.demo.train_digits import images

    (x, y), _ = images()
    return torch.from_numpy(x), torch.from_numpy(y)


def fit(
    net: M,
    x: Tensor,
    y: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    *,
    epochs: int = 40,
    rate: float = 4e-3,
) -> M:
    """Train by Adam with one cycle of the rate.

    Args:
        net: To be trained.
        x: (n, ...) inputs.
        y: (n, ...) labels.
        loss: Of a batch; None: the cross-entropy of the network's logits.
        epochs: Passes over the inputs.
        rate: The highest.
    """
    if loss is None:

        def loss(x: Tensor, y: Tensor) -> Tensor:
            return functional.cross_entropy(net(x), y)

    batches = -(-len(x) // 64)
    optimiser = torch.optim.Adam(net.parameters(), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=rate, total_steps=epochs * batches
    )
    net.train()
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(x)), 64):
            optimiser.zero_grad()
            torch.autograd.backward(loss(x[rows], y[rows]))
            optimiser.step()
            schedule.step()
    return net.eval()


def save(net: nn.Module, path: Path) -> None:
    """Write the state of a network: half precision, no pickle."""
    state = {key: value.numpy() for key, value in net.state_dict().items()}
    # The largest float16 is 65504; what is not a float stays as it is.
    small = {
        k: v.astype("f2") if v.dtype == np.float32 else v for k, v in state.items()
    }
    np.savez_compressed(path, **small)


def load(net: M, name: str) -> M:
    """Fill a network with the weights of that name, in evaluation mode."""
    place = files("robustkit_attacks_zoo.defenses") / "weights" / f"{name}.npz"
    with place.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        state = {key: torch.from_numpy(value) for key, value in arrays.items()}
    whole = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    net.load_state_dict(whole)
    return net.eval()
