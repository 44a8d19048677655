"""Thermometer codes: a pixel as bits, above 1/16, above 2/16, and so on."""

import torch
from torch import Tensor, nn

from robustkit_attacks_zoo.defenses.attacks import descend, lead, pgd, slopes
from robustkit_attacks_zoo.defenses.defense import Defense
from robustkit_attacks_zoo.defenses.networks import (
    Through,
    fit,
    load,
    perceptron,
    training_digits,
)

__all__ = ["Thermometer", "make", "train"]

_LEVELS = 15


class Thermometer(nn.Module):
    """Bits of every pixel.

    Args:
        steepness: Of the sigmoids that take the place of the steps backwards; None:
            the steps have no gradient.
    """

    def __init__(self, steepness: float | None = None) -> None:
        super().__init__()
        self.steepness = steepness

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1, h, w) to (n, 15, h, w)."""
        levels = (torch.arange(_LEVELS).view(1, -1, 1, 1) + 0.5) / (_LEVELS + 1)
        bits = (x > levels).float()
        if self.steepness is None:
            return bits
        soft = torch.sigmoid(self.steepness * (x - levels))
        return soft + (bits - soft).detach()


def _network() -> nn.Sequential:
    return perceptron(64 * _LEVELS, 32, 10)


def train() -> nn.Module:
    """The network, on bits."""
    x, y = training_digits()
    return fit(_network(), Thermometer()(x), y)


def make() -> Defense:
    """Weak: PGD through the steps. By hand: sigmoids in their place backwards."""
    net = load(_network(), "thermometer")
    model = Through(Thermometer(), net).eval()
    smooth = Through(Thermometer(16.0), net).eval()
    epsilon = 0.15

    def adaptive(x: Tensor, y: Tensor) -> Tensor:
        return descend(
            slopes(lambda z: lead(smooth(z), y)), x, epsilon,
            lambda z: defense.broken(z, y), steps=200,
        )  # fmt: skip

    defense = Defense(
        name="thermometer",
        title="thermometer codes",
        source="Buckman, Roy, Raffel, Goodfellow: Thermometer Encoding, ICLR 2018",
        model=model,
        # Values as they are; a gradient of zero where there is none.
        seen=Through(Thermometer(1e4), net).eval(),
        weak=pgd(epsilon),
        weak_title="PGD, 40 steps, through the steps",
        adaptive=adaptive,
        adaptive_title="BPDA by sigmoids",
        epsilon=epsilon,
        thirteen=False,
    )
    return defense
