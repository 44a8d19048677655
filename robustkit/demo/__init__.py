"""Two small networks and real images, so that the first run needs no download.

The task is reading handwritten digits of 8 by 8 pixels. ``digits`` was trained
on clean images and ``digits-robust`` on adversarial ones; their architecture is
the same, so that a comparison shows what adversarial training changes.

The files are plain arrays that ``numpy.load`` reads without pickle. A weight
file holds one float32 array per entry of the state dict, under the same name; an
image file holds ``x`` and ``y``. ``LICENSE-digits.txt`` says where the images
come from, and ``python -m robustkit.demo.train_digits`` makes the files again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import nn

__all__ = ["DATA", "MODELS", "load_data", "load_model"]

MODELS: Mapping[str, str] = {
    "digits": "small convolutional network, trained on clean images",
    "digits-robust": "the same network, trained on Linf PGD adversarial images",
}
"""Names that `load_model` knows, each with a one-line description."""

DATA: Mapping[str, str] = {
    "digits": "355 handwritten digits, 8x8 grey, that no demo model was trained on",
}
"""Names that `load_data` knows, each with a one-line description."""

_WEIGHTS = {"digits": "digits.npz", "digits-robust": "digits_robust.npz"}
_IMAGES = {"digits": "digits_images.npz"}


def load_model(name: str) -> nn.Module:
    """Load a demo network, in evaluation mode on the CPU.

    Args:
        name: One of `MODELS`.

    Returns:
        A module that takes float32 images of shape (n, 1, 8, 8) in [0, 1] and
        returns logits of shape (n, 10).

    Raises:
        ValueError: If there is no demo model of that name.

    Example:
        >>> import torch
        >>> x, y = load_data("digits")
        >>> logits = load_model("digits")(torch.from_numpy(x[:4]))
        >>> tuple(logits.shape)
        (4, 10)
    """
    _check("model", name, MODELS)
    import torch

    # A meta network has no values: initial ones would draw from torch's global
    # generator and so change the caller's random numbers.
    with torch.device("meta"):
        network = _network()
    weights = {key: torch.from_numpy(v) for key, v in _read(_WEIGHTS[name]).items()}
    network.load_state_dict(weights, assign=True)
    return network.eval()


def load_data(name: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Load demo images and their labels.

    Args:
        name: One of `DATA`.

    Returns:
        Images of shape (n, 1, 8, 8) in [0, 1], whose grey levels are multiples
        of 1/16, and labels of shape (n,) from 0 to 9.

    Raises:
        ValueError: If there is no demo data of that name.

    Example:
        >>> x, y = load_data("digits")
        >>> x.shape, y.shape
        ((355, 1, 8, 8), (355,))
    """
    _check("data", name, DATA)
    arrays = _read(_IMAGES[name])
    return arrays["x"], arrays["y"]


def _network() -> nn.Sequential:
    """Build the architecture that all demo networks share."""
    from torch import nn

    layers: dict[str, nn.Module] = {
        "conv1": nn.Conv2d(1, 16, kernel_size=3, padding=1),
        "relu1": nn.ReLU(),
        "conv2": nn.Conv2d(16, 32, kernel_size=3, stride=2, padding=1),
        "relu2": nn.ReLU(),
        "flatten": nn.Flatten(),
        "hidden": nn.Linear(32 * 4 * 4, 32),
        "relu3": nn.ReLU(),
        "output": nn.Linear(32, 10),
    }
    return nn.Sequential(OrderedDict(layers))


def _read(file: str) -> dict[str, NDArray[Any]]:
    with (
        (files(__name__) / file).open("rb") as stream,
        np.load(stream, allow_pickle=False) as arrays,
    ):
        return dict(arrays)


def _check(kind: str, name: str, known: Mapping[str, str]) -> None:
    if name not in known:
        raise ValueError(
            f"unknown demo {kind} {name!r}: choose one of {', '.join(known)}"
        )
