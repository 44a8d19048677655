"""ME-Net: pixels left out at random, and the image completed as of low rank."""

import torch
from torch import Tensor, nn

from robustkit_attacks_zoo.defenses.attacks import descend, lead, pgd, slopes
from robustkit_attacks_zoo.defenses.defense import Defense
from robustkit_attacks_zoo.defenses.networks import (
    StraightThrough,
    Through,
    fit,
    load,
    perceptron,
    training_digits,
)

__all__ = ["Completion", "make", "train"]


class Completion(nn.Module):
    """Leaves pixels out and completes the image by its largest singular values.

    Outside of automatic differentiation, as the original was.

    Args:
        keep: The share of pixels that stay, drawn anew for each input: between
            these two.
        rank: How many singular values.
    """

    def __init__(self, keep: tuple[float, float] = (0.5, 0.7), rank: int = 3) -> None:
        super().__init__()
        self.keep, self.rank = keep, rank

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1, 8, 8) to (n, 1, 8, 8)."""
        with torch.no_grad():
            low, high = self.keep
            share = low + (high - low) * torch.rand(len(x), 1, 1, 1)
            masked = x * (torch.rand_like(x) < share) / share
            left, values, right = torch.linalg.svd(masked, full_matrices=False)
            values[..., self.rank :] = 0
            completed: Tensor = (left * values[..., None, :]) @ right
            return completed.clamp(0, 1)


def _network() -> nn.Sequential:
    return perceptron(64, 96, 64, 10)


def train() -> nn.Module:
    """The network, on completed images."""
    net, change = _network(), Completion()

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(net(change(x)), y)

    return fit(net, *training_digits(), loss, epochs=60)


def make() -> Defense:
    """Weak: BPDA with one draw per step. By hand: BPDA with 40 draws per step."""
    net, change = load(_network(), "me_net"), Completion()
    passing = Through(StraightThrough(change), net).eval()
    epsilon = 0.12

    def adaptive(x: Tensor, y: Tensor) -> Tensor:
        return descend(
            slopes(lambda z: lead(passing(z), y), passes=40),
            x, epsilon, lambda z: defense.broken(z, y), every=10, steps=60,
        )  # fmt: skip

    defense = Defense(
        name="me-net",
        title="ME-Net",
        source="Yang, Zhang, Katabi, Xu: ME-Net, ICML 2019",
        model=Through(change, net).eval(),
        seen=passing,
        weak=pgd(epsilon, 10),
        weak_title="BPDA, 10 steps, 1 draw",
        adaptive=adaptive,
        adaptive_title="BPDA, 60 steps, 40 draws",
        epsilon=epsilon,
        votes=9,
    )
    return defense
