"""Mixup inference: the mean answer to mixtures with images of other classes."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustkit_attacks_zoo.defenses.attacks import descend, lead, pgd, slopes
from robustkit_attacks_zoo.defenses.defense import Defense
from robustkit_attacks_zoo.defenses.networks import (
    fit,
    load,
    perceptron,
    training_digits,
)

__all__ = ["Mixtures", "make", "train"]

_EACH = 8


class Mixtures(nn.Module):
    """Asks a network about mixtures of the input and images it does not look like.

    Args:
        net: Trained on mixtures.
        share: Of the input in each mixture.
        draws: How many mixtures.
    """

    pool: Tensor

    def __init__(self, net: nn.Module, share: float = 0.6, draws: int = 30) -> None:
        super().__init__()
        self.net, self.share, self.draws = net, share, draws
        self.register_buffer("pool", torch.zeros(10 * _EACH, 1, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        """(n, ...) to log-probabilities (n, 10)."""
        with torch.no_grad():
            label = self.net(x).argmax(1)
        # The classes but the predicted one, and an image of each at random.
        shape = (len(x), self.draws)
        other = (label[:, None] + torch.randint(1, 10, shape)) % 10
        chosen = self.pool[other * _EACH + torch.randint(_EACH, shape)]
        mixed = self.share * x[:, None] + (1 - self.share) * chosen
        likely = self.net(mixed.flatten(0, 1)).softmax(1)
        values: Tensor = likely.view(*shape, -1).mean(1).log()
        return values


def _network() -> nn.Sequential:
    return perceptron(64, 96, 64, 10)


def train() -> nn.Module:
    """The network on mixtures (mixup), and the images to mix with."""
    model = Mixtures(_network())
    x, y = training_digits()

    def loss(x: Tensor, y: Tensor) -> Tensor:
        share = torch.distributions.Beta(1.0, 1.0).sample((len(x),))
        order = torch.randperm(len(x))
        wide = share[:, None, None, None]
        logits = model.net(wide * x + (1 - wide) * x[order])
        first = functional.cross_entropy(logits, y, reduction="none")
        second = functional.cross_entropy(logits, y[order], reduction="none")
        return (share * first + (1 - share) * second).mean()

    fit(model, x, y, loss, epochs=60)
    model.pool.copy_(torch.cat([x[y == known][:_EACH] for known in range(10)]))
    return model


def make() -> Defense:
    """Weak: PGD on the network without mixtures. By hand: PGD through them."""
    model = load(Mixtures(_network()), "mixup")
    epsilon = 0.12

    def adaptive(x: Tensor, y: Tensor) -> Tensor:
        return descend(
            slopes(lambda z: lead(model(z), y), passes=10),
            x, epsilon, lambda z: defense.broken(z, y), every=10,
        )  # fmt: skip

    defense = Defense(
        name="mixup",
        title="mixup inference",
        source="Pang, Xu, Zhu: Mixup Inference, ICLR 2020",
        model=model,
        seen=model.net,
        weak=pgd(epsilon),
        weak_title="PGD, 40 steps, on the network without mixtures",
        adaptive=adaptive,
        adaptive_title="PGD end to end, 10 draws",
        epsilon=epsilon,
        votes=5,
    )
    return defense
