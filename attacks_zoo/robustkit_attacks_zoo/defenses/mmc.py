"""Max-Mahalanobis: features drawn to fixed centres, far apart."""

import math

import torch
from torch import Tensor, nn

from robustkit_attacks_zoo.defenses.attacks import descend, in_turn, pgd, slopes
from robustkit_attacks_zoo.defenses.defense import Defense
from robustkit_attacks_zoo.defenses.networks import (
    fit,
    load,
    perceptron,
    training_digits,
)

__all__ = ["Centres", "make", "train"]


class Centres(nn.Module):
    """Minus the squared distances to ten centres that are as far apart as can be.

    Args:
        scale: The squared length of each centre.
        features: How many; at least 9.
    """

    centres: Tensor

    def __init__(self, scale: float = 100.0, features: int = 16) -> None:
        super().__init__()
        # The corners of a regular simplex about the origin.
        corners = torch.eye(10) - 0.1
        corners = torch.nn.functional.pad(corners, (0, features - 10))
        corners = corners * math.sqrt(scale / 0.9)
        self.register_buffer("centres", corners, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """(n, features) to logits (n, 10)."""
        return -(features[:, None] - self.centres).square().sum(2)


def _network() -> nn.Sequential:
    return nn.Sequential(perceptron(64, 64, 64, 16), Centres())


def train() -> nn.Module:
    """The network, by the distance to the centre of the class."""
    net = _network()

    def loss(x: Tensor, y: Tensor) -> Tensor:
        values: Tensor = -net(x).gather(1, y[:, None]).mean()
        return values

    return fit(net, *training_digits(), loss)


def make() -> Defense:
    """Weak: PGD by a softmax that was no part of training. By hand: to a centre."""
    model = load(_network(), "mmc")
    epsilon = 0.15

    def adaptive(x: Tensor, y: Tensor) -> Tensor:
        def approach(x: Tensor, y: Tensor, target: Tensor) -> Tensor:
            def loss(z: Tensor) -> Tensor:
                logits = model(z).gather(1, torch.stack([target, y], 1))
                values: Tensor = logits[:, 1] - logits[:, 0]
                return values

            return descend(slopes(loss), x, epsilon, lambda z: defense.broken(z, y))

        with torch.no_grad():
            order = model(x).scatter(1, y[:, None], -torch.inf).topk(9, 1).indices
        return in_turn(x, y, order, defense.broken, approach)

    defense = Defense(
        name="mmc",
        title="Max-Mahalanobis",
        source="Pang, Xu, Dong, Du, Chen, Zhu: Rethinking Softmax Cross-Entropy Loss "
        "for Adversarial Robustness, ICLR 2020",
        model=model,
        weak=pgd(epsilon),
        weak_title="PGD, 40 steps, softmax cross-entropy",
        adaptive=adaptive,
        adaptive_title="away from the own centre, to each other one",
        epsilon=epsilon,
    )
    return defense
