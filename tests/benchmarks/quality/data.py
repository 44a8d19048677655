"""The trained networks and images that everything is measured on."""

import importlib.util
import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
"""Where they are unless `--data` says otherwise; they are no part of the project."""

EXACT = ("linear", "toy20", "mlp14_std")
"""Networks whose minimum distances are known."""

EFFICIENTNET = "efficientnet-lite0"
"""An optional network, of other packages; see `efficientnet.py` beside this folder."""


@cache
def loader(folder: Path) -> Any:
    """The folder's own loader, a module."""
    if not (folder / "load.py").exists():
        sys.exit(f"needs the trained networks in {folder}, which is not there")
    return _module(folder / "load.py")


def _module(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def networks(folder: Path) -> dict[str, Any]:
    """What is known of the trained networks, by name."""
    loader(folder)
    text = (folder / "models" / "models.json").read_text()
    known: dict[str, Any] = json.loads(text)
    return known


@cache
def least_likely(folder: Path, name: str, images: int) -> Tensor:
    """(n,) the class that the network thinks the least likely of each image."""
    model, x, _ = network(folder, name, images)
    return model(x).argmin(dim=1)


@cache
def network(folder: Path, name: str, images: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A network with frozen parameters, and the first images it classifies correctly.

    Returns:
        The network, (n, c, h, w) images in [0, 1], (n,) labels.
    """
    if name == EFFICIENTNET:
        model, x, y = _module(Path(__file__).parents[1] / "efficientnet.py").load()
        return model, x[:images], y[:images]
    data = loader(folder)
    model: nn.Module = data.torch_model(name).requires_grad_(False)
    x, y = map(torch.tensor, data.images(networks(folder)[name]["dataset"]))
    right = torch.nonzero(model(x).argmax(dim=1) == y).flatten()[:images]
    return model, x[right], y[right]
