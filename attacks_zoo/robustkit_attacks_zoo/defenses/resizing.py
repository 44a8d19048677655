"""Randomised resizing: the image at a random size and place."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustkit_attacks_zoo.defenses.attacks import descend, lead, pgd, slopes
from robustkit_attacks_zoo.defenses.defense import Defense
from robustkit_attacks_zoo.defenses.networks import (
    Through,
    fit,
    load,
    perceptron,
    training_digits,
)

__all__ = ["Resized", "make", "train"]


class Resized(nn.Module):
    """Enlarges each image by a random factor and puts it at a random place.

    Args:
        side: Of the frame, in pixels; images have 8.
    """

    def __init__(self, side: int = 12) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1, 8, 8) to (n, 1, side, side)."""
        share = 8 / self.side + (1 - 8 / self.side) * torch.rand(len(x))
        place = (1 - share)[:, None] * (2 * torch.rand(len(x), 2) - 1)
        maps = torch.zeros(len(x), 2, 3)
        maps[:, 0, 0] = maps[:, 1, 1] = 1 / share
        maps[:, :, 2] = -place / share[:, None]
        grid = functional.affine_grid(
            maps, [len(x), 1, self.side, self.side], align_corners=False
        )
        return functional.grid_sample(x, grid, align_corners=False)


def _network() -> nn.Sequential:
    return perceptron(144, 96, 64, 10)


def train() -> nn.Module:
    """The network, on resized images."""
    net, change = _network(), Resized()

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(net(change(x)), y)

    return fit(net, *training_digits(), loss, epochs=60)


def make() -> Defense:
    """Weak: PGD on an image in the middle. By hand: PGD over 20 draws."""
    net, change = load(_network(), "resizing"), Resized()
    model = Through(change, net).eval()
    epsilon = 0.1

    def adaptive(x: Tensor, y: Tensor) -> Tensor:
        return descend(
            slopes(lambda z: lead(model(z), y), passes=20), x, epsilon,
            lambda z: defense.broken(z, y), every=10,
        )  # fmt: skip

    defense = Defense(
        name="resizing",
        title="randomised resizing",
        source="Xie, Wang, Zhang, Ren, Yuille: Mitigating Adversarial Effects Through "
        "Randomization, ICLR 2018",
        model=model,
        seen=nn.Sequential(nn.Upsample(12, mode="bilinear"), net).eval(),
        weak=pgd(epsilon),
        weak_title="PGD, 40 steps, on images that fill the frame",
        adaptive=adaptive,
        adaptive_title="EOT, 20 draws",
        epsilon=epsilon,
        votes=9,
        thirteen=False,
    )
    return defense
