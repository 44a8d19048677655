"""Asymmetrical adversarial training: a detector for each class, trained on attacks."""

import torch
from robustkit import demo
from torch import Tensor, nn
from torch.nn import functional

from robustkit_attacks_zoo.defenses.attacks import descend, in_turn, lead, over, slopes
from robustkit_attacks_zoo.defenses.defense import Attack, Defense
from robustkit_attacks_zoo.defenses.networks import fit, load, training_digits

__all__ = ["Detectors", "Rejection", "make", "train"]

_EPSILON = 0.2


class Detectors(nn.Module):
    """Ten networks, each of which says whether an image is a true one of its class."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(10, 64, width) / 8)
        self.first_bias = nn.Parameter(torch.zeros(10, 1, width))
        self.last = nn.Parameter(torch.randn(10, width, 1) / width**0.5)
        self.last_bias = nn.Parameter(torch.zeros(10, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(n, ...) to (n, 10), above 0 where an image looks true."""
        hidden = torch.relu(x.flatten(1) @ self.first + self.first_bias)
        return (hidden @ self.last + self.last_bias)[..., 0].T


class Rejection(nn.Module):
    """Rejects what the detector of the predicted class does not take for true.

    Args:
        net: To logits (n, 10).
    """

    threshold: Tensor

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = [net]  # Not a part of the detector's weights.
        self.detectors = Detectors()
        self.register_buffer("threshold", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """(n, ...) to scores (n,), above 0 where an input is rejected."""
        label = self.net[0](x).argmax(1)
        own = self.detectors(x).gather(1, label[:, None])[:, 0]
        values: Tensor = self.threshold - own
        return values


def _detector() -> Rejection:
    return Rejection(demo.load_model("digits"))


def train() -> nn.Module:
    """Each detector on its class against attacks that start from all others."""
    rejection = _detector()
    detectors = rejection.detectors
    x, y = training_digits()

    def loss(x: Tensor, y: Tensor) -> Tensor:
        own = functional.one_hot(y, 10).float()
        # What others look like once they imitate each class: (10, n, ...).
        z = x.expand(10, *x.shape).clone()
        for _ in range(10):
            z = z.detach().requires_grad_()
            score = torch.diagonal(detectors(z.flatten(0, 1)).view(10, -1, 10), 0, 0, 2)
            (slope,) = torch.autograd.grad(score.sum(), z)
            z = z + _EPSILON / 4 * slope.sign()
            z = (x + (z - x).clamp(-_EPSILON, _EPSILON)).clamp(0, 1)
        scores = torch.diagonal(
            detectors(z.detach().flatten(0, 1)).view(10, -1, 10), 0, 0, 2
        )
        wrong = (functional.softplus(scores) * (1 - own)).sum() / 9
        return (wrong + (functional.softplus(-detectors(x)) * own).sum()) / len(x)

    fit(detectors, x, y, loss, epochs=25)
    with torch.no_grad():
        rejection.threshold.copy_(detectors(x).gather(1, y[:, None]).quantile(0.05))
    return rejection


def _combined(detectors: Detectors, epsilon: float) -> Attack:
    """One loss: the label's lead, less what all the detectors say together."""

    def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        def loss(z: Tensor) -> Tensor:
            values: Tensor = lead(model(z), y) - detectors(z).mean(1)
            return values

        gradient, z = slopes(loss), x.clone()
        for _ in range(40):
            z = z - epsilon / 10 * gradient(z).sign()
            z = (x + (z - x).clamp(-epsilon, epsilon)).clamp(0, 1)
        return z

    return attack


def make() -> Defense:
    """Weak: one combined loss. By hand: each class in turn, its detector after it."""
    detector = load(_detector(), "asymmetric")
    model, detectors = detector.net[0], detector.detectors

    def adaptive(x: Tensor, y: Tensor) -> Tensor:
        def switch(x: Tensor, y: Tensor, target: Tensor) -> Tensor:
            def loss(z: Tensor) -> Tensor:
                own = detectors(z).gather(1, target[:, None])[:, 0]
                behind = over(model(z), target)
                return torch.where(behind > -0.2, behind, detector.threshold - own)

            return descend(slopes(loss), x, _EPSILON, lambda z: defense.broken(z, y))

        with torch.no_grad():
            order = model(x).scatter(1, y[:, None], -torch.inf).topk(9, 1).indices
        return in_turn(x, y, order, defense.broken, switch)

    defense = Defense(
        name="asymmetric",
        title="asymmetrical adversarial training",
        source="Yin, Kolouri, Rohde: Adversarial Example Detection and Classification "
        "with Asymmetrical Adversarial Training, ICLR 2020",
        model=model,
        detector=detector,
        weak=_combined(detectors, _EPSILON),
        weak_title="PGD, 40 steps, one combined loss",
        adaptive=adaptive,
        adaptive_title="towards each class, then past its detector",
        epsilon=_EPSILON,
    )
    return defense
