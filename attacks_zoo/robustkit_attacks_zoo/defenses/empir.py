"""EMPIR: members of mixed precision that vote."""

import torch
from torch import Tensor, nn

from robustkit_attacks_zoo.defenses.attacks import descend, lead, pgd, slopes
from robustkit_attacks_zoo.defenses.defense import Defense
from robustkit_attacks_zoo.defenses.networks import (
    fit,
    load,
    perceptron,
    training_digits,
)

__all__ = ["Rounded", "Vote", "make", "train"]


class Rounded(nn.Module):
    """Activations of few bits: rectified, cut off at 1, rounded.

    Args:
        bits: Of each activation.
        through: Let gradients pass, as in training.
    """

    def __init__(self, bits: int, through: bool = False) -> None:
        super().__init__()
        self.levels, self.through = 2**bits - 1, through

    def forward(self, x: Tensor) -> Tensor:
        """(n, features) to multiples of 1 / (2^bits - 1) in [0, 1]."""
        x = x.clamp(0, 1)
        rounded = (x * self.levels).round() / self.levels
        values: Tensor = x + (rounded - x).detach() if self.through else rounded
        return values


def _convolutional(through: bool) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), Rounded(2, through),
        nn.Conv2d(12, 12, 3, stride=2, padding=1), Rounded(2, through),
        nn.Flatten(), nn.Linear(12 * 4 * 4, 10),
    )  # fmt: skip


class Vote(nn.Module):
    """One network of full precision and two of few bits; most votes win.

    A tie is decided by the mean of the probabilities, which is also all that can be
    differentiated.
    """

    def __init__(self, through: bool = False) -> None:
        super().__init__()
        self.nets = nn.ModuleList(
            [
                perceptron(64, 64, 10),
                _convolutional(through),
                _convolutional(through),
            ]
        )

    def members(self, x: Tensor) -> Tensor:
        """(n, ...) to logits (3, n, 10)."""
        return torch.stack([net(x) for net in self.nets])

    def forward(self, x: Tensor) -> Tensor:
        """(n, ...) to votes, and less than one more (n, 10)."""
        logits = self.members(x)
        votes = nn.functional.one_hot(logits.argmax(2), 10).sum(0)
        return votes + logits.softmax(2).mean(0)


def train() -> nn.Module:
    """The members one by one; those of few bits with gradients passed through."""
    vote = Vote(through=True)
    for net in vote.nets:
        fit(net, *training_digits(), epochs=20)
    return vote


def make() -> Defense:
    """Weak: PGD through the rounding. By hand: past it, on the mean of the logits."""
    model = load(Vote(), "empir")
    smooth = load(Vote(through=True), "empir")
    epsilon = 0.15

    def adaptive(x: Tensor, y: Tensor) -> Tensor:
        def ended(z: Tensor) -> Tensor:
            return defense.broken(z, y)

        def worst(z: Tensor) -> Tensor:
            logits = smooth.members(z)
            leads = torch.stack([lead(member, y) for member in logits])
            return leads.clamp(min=-1).sum(0) + lead(logits.mean(0), y)

        return descend(slopes(worst), x, epsilon, ended, steps=200)

    defense = Defense(
        name="empir",
        title="mixed precision (EMPIR)",
        source="Sen, Ravindran, Raghunathan: EMPIR, ICLR 2020",
        model=model,
        weak=pgd(epsilon),
        weak_title="PGD, 40 steps, gradients through the rounding",
        adaptive=adaptive,
        adaptive_title="BPDA past the rounding, all members",
        epsilon=epsilon,
    )
    return defense
