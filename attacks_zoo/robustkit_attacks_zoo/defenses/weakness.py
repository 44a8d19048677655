"""Turning a weakness into a strength: images stand noise, and are near others."""

import torch
from torch import Tensor, nn

from robustkit_attacks_zoo.defenses.attacks import descend, in_turn, lead, pgd, slopes
from robustkit_attacks_zoo.defenses.brittle import enlarged, test_digits, trained
from robustkit_attacks_zoo.defenses.defense import Defense
from robustkit_attacks_zoo.defenses.naturals import naturals
from robustkit_attacks_zoo.defenses.networks import load, training_digits

__all__ = ["Weakness", "make", "train"]


class Weakness(nn.Module):
    """Rejects what changes under noise, or is far from other classes, in steps.

    Three criteria: how much the probabilities change under noise; how many steps of
    gradient descent lead to any other class; and how many to one that is drawn at
    random. The gradients of the last two are taken while the detector answers.

    Args:
        net: To logits (n, 10).
        sigma: Of the noise, in input units.
        draws: Of the noise.
        stepsize: In input units.
        most: Steps that are tried.
    """

    threshold: Tensor

    def __init__(
        self,
        net: nn.Module,
        sigma: float = 0.1,
        draws: int = 16,
        stepsize: float = 0.01,
        most: int = 30,
    ) -> None:
        super().__init__()
        self.net = [net]  # Not a part of the detector's weights.
        self.sigma, self.draws = sigma, draws
        self.stepsize, self.most = stepsize, most
        self.register_buffer("threshold", torch.zeros(3))

    def change(self, x: Tensor) -> Tensor:
        """(n,) the mean change (L1) of the probabilities under noise."""
        net = self.net[0]
        several = x.repeat_interleave(self.draws, 0)
        noisy = net(several + self.sigma * torch.randn_like(several)).softmax(1)
        likely = net(x).softmax(1)
        apart = noisy.view(len(x), self.draws, -1) - likely[:, None]
        change: Tensor = apart.abs().sum(2).mean(1)
        return change

    def steps(self, x: Tensor, target: Tensor | None) -> Tensor:
        """(n,) how many steps lead to the target, or to any other class."""
        net, z = self.net[0], x.detach()
        with torch.no_grad():
            label = net(z).argmax(1)
        count = torch.zeros(len(x))
        going = torch.ones(len(x), dtype=torch.bool)
        for _ in range(self.most):
            z = z.detach().requires_grad_()
            with torch.enable_grad():
                logits = net(z)
                goal = -lead(logits, label) if target is None else lead(logits, target)
                (slope,) = torch.autograd.grad(goal.sum(), z)
            going = going & (goal.detach() <= 0)
            count += going
            z = (z.detach() + self.stepsize * slope.sign()).clamp(0, 1)
        return count

    def criteria(self, x: Tensor) -> Tensor:
        """(n, 3) each higher for what is less natural."""
        with torch.no_grad():
            label = self.net[0](x).argmax(1)
        target = (label + torch.randint(1, 10, label.shape)) % 10
        parts = [self.change(x), self.steps(x, None), self.steps(x, target)]
        return torch.stack(parts, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, ...) to scores (n,), above 0 where an input is rejected."""
        return (self.criteria(x) - self.threshold).amax(1)


def _detector() -> Weakness:
    return Weakness(trained())


def train() -> nn.Module:
    """The thresholds: of natural images, each criterion rejects 3 %."""
    detector = _detector()
    x = enlarged(training_digits()[0])
    with torch.no_grad():
        detector.threshold.copy_(detector.criteria(x).quantile(0.97, dim=0))
    return detector


def make() -> Defense:
    """Weak: PGD blind to the detector. By hand: the logits of natural images."""
    detector = load(_detector(), "weakness")
    model = detector.net[0]
    epsilon = 0.3

    def adaptive(x: Tensor, y: Tensor) -> Tensor:
        def match(x: Tensor, y: Tensor, wanted: Tensor) -> Tensor:
            def loss(z: Tensor) -> Tensor:
                apart = (model(z) - logits[wanted]).square().sum(1)
                values: Tensor = apart + 20 * detector.change(z)
                return values

            return descend(
                slopes(loss), x, epsilon, lambda z: defense.broken(z, y), every=10
            )

        images, _ = defense.data()
        order = naturals(model, images, x, y)
        with torch.no_grad():
            logits = model(images)
        return in_turn(x, y, order, defense.broken, match)

    defense = Defense(
        name="weakness",
        title="turning a weakness into a strength",
        source="Hu, Yu, Guo, Chao, Weinberger: A New Defense Against Adversarial "
        "Images: Turning a Weakness into a Strength, NeurIPS 2019",
        model=model,
        detector=detector,
        weak=pgd(epsilon, loss=lead),
        weak_title="PGD, 40 steps, blind to the detector",
        adaptive=adaptive,
        adaptive_title="logit matching and the change under noise",
        epsilon=epsilon,
        votes=5,
        data=test_digits,
        # The detector takes some eighty passes.
        test={"mode": "standard", "points": 30, "tries": 6},
    )
    return defense
