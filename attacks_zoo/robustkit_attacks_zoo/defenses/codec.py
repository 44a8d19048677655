"""JPEG: the image as it comes out of a real codec."""

import io

import numpy as np
import torch
from PIL import Image
from robustkit import demo
from torch import Tensor, nn

from robustkit_attacks_zoo.defenses.attacks import descend, lead, pgd, slopes
from robustkit_attacks_zoo.defenses.defense import Defense
from robustkit_attacks_zoo.defenses.networks import StraightThrough, Through

__all__ = ["Codec", "make"]


class Codec(nn.Module):
    """Writes each image as JPEG and reads it again; nothing to differentiate.

    Args:
        quality: 1 to 95.
    """

    def __init__(self, quality: int = 15) -> None:
        super().__init__()
        self.quality = quality

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1, h, w) in [0, 1] to (n, 1, h, w)."""
        grey = (x.detach() * 255).round().clamp(0, 255).to(torch.uint8).numpy()
        read = np.stack([self._through_a_file(image[0]) for image in grey])
        return torch.from_numpy(read)[:, None].to(x.dtype) / 255

    def _through_a_file(self, grey: np.ndarray) -> np.ndarray:
        file = io.BytesIO()
        Image.fromarray(grey).save(file, "JPEG", quality=self.quality)
        with Image.open(file) as image:
            return np.array(image)


def make() -> Defense:
    """Weak: PGD on the network alone. By hand: past the codec."""
    net, codec = demo.load_model("digits"), Codec()
    passing = Through(StraightThrough(codec), net).eval()
    epsilon = 0.15

    def adaptive(x: Tensor, y: Tensor) -> Tensor:
        return descend(
            slopes(lambda z: lead(passing(z), y)), x, epsilon,
            lambda z: defense.broken(z, y), steps=200,
        )  # fmt: skip

    defense = Defense(
        name="jpeg",
        title="JPEG",
        source="Dziugaite, Ghahramani, Roy: A Study of the Effect of JPG Compression "
        "on Adversarial Images, 2016; Guo et al., ICLR 2018",
        model=Through(codec, net).eval(),
        seen=net,
        weak=pgd(epsilon),
        weak_title="PGD, 40 steps, on the network alone",
        adaptive=adaptive,
        adaptive_title="BPDA past the codec",
        epsilon=epsilon,
        thirteen=False,
    )
    return defense
