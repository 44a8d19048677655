"""Adaptive diversity promotion: an ensemble that disagrees about the wrong classes."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustkit_attacks_zoo.defenses.attacks import (
    descend,
    in_turn,
    likelihood,
    pgd,
    slopes,
)
from robustkit_attacks_zoo.defenses.defense import Defense
from robustkit_attacks_zoo.defenses.networks import (
    fit,
    load,
    perceptron,
    training_digits,
)

__all__ = ["Mean", "make", "train"]


class Mean(nn.Module):
    """The mean of the members' probabilities."""

    def __init__(self, members: int = 3) -> None:
        super().__init__()
        self.nets = nn.ModuleList(perceptron(64, 48, 48, 10) for _ in range(members))

    def members(self, x: Tensor) -> Tensor:
        """(n, ...) to logits (members, n, 10)."""
        return torch.stack([net(x) for net in self.nets])

    def forward(self, x: Tensor) -> Tensor:
        """(n, ...) to probabilities (n, 10)."""
        return self.members(x).softmax(2).mean(0)


def train() -> nn.Module:
    """The members together, with the regulariser: alpha 2, beta 0.5."""
    net = Mean()

    def loss(x: Tensor, y: Tensor) -> Tensor:
        logits = net.members(x)
        likely = logits.softmax(2)
        mean = likely.mean(0)
        entropy = -(mean * mean.clamp(min=1e-12).log()).sum(1).mean()
        wrong = functional.one_hot(y, 10) == 0
        others = likely[:, wrong].view(len(likely), len(x), 9) + 1e-6
        others = functional.normalize(others, dim=2).transpose(0, 1)
        volume = torch.linalg.det(others @ others.transpose(1, 2) + 1e-6 * torch.eye(3))
        several = functional.cross_entropy(logits.flatten(0, 1), y.repeat(len(logits)))
        spread = volume.clamp(min=1e-12).log().mean()
        whole: Tensor = 3 * several - 2 * entropy - 0.5 * spread
        return whole

    return fit(net, *training_digits(), loss)


def make() -> Defense:
    """Weak: PGD of few short steps. By hand: many, on the members' logits."""
    model = load(Mean(), "adp")
    epsilon = 0.1

    def adaptive(x: Tensor, y: Tensor) -> Tensor:
        def approach(x: Tensor, y: Tensor, target: Tensor) -> Tensor:
            both = torch.stack([target, y], 1)

            def loss(z: Tensor) -> Tensor:
                logits = model.members(z).log_softmax(2).mean(0).gather(1, both)
                return logits[:, 1] - logits[:, 0]

            return descend(
                slopes(loss), x, epsilon, lambda z: defense.broken(z, y), steps=200
            )

        with torch.no_grad():
            order = model(x).scatter(1, y[:, None], -1.0).topk(9, 1).indices
        return in_turn(x, y, order, defense.broken, approach)

    defense = Defense(
        name="adp",
        title="ensemble diversity (ADP)",
        source="Pang, Xu, Du, Chen, Zhu: Improving Adversarial Robustness via "
        "Promoting Ensemble Diversity, ICML 2019",
        model=model,
        weak=pgd(epsilon, 10, loss=likelihood),
        weak_title="PGD, 10 steps of epsilon / 10",
        adaptive=adaptive,
        adaptive_title="200 steps on the members' logits, towards each class",
        epsilon=epsilon,
    )
    return defense
