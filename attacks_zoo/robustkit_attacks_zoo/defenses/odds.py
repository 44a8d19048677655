"""The Odds are Odd: noise moves the logits of adversarials in a telling way."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustkit_attacks_zoo.defenses.attacks import descend, in_turn, lead, pgd, slopes
from robustkit_attacks_zoo.defenses.brittle import enlarged, test_digits, trained
from robustkit_attacks_zoo.defenses.defense import Defense
from robustkit_attacks_zoo.defenses.naturals import naturals
from robustkit_attacks_zoo.defenses.networks import load, training_digits

__all__ = ["Odds", "make", "train"]


class Odds(nn.Module):
    """How unusual the change of the logits under noise is, for the predicted class.

    The difference of each logit to the predicted one changes under noise by some mean.
    Its z-score among natural images of the same prediction is the statistic; the
    largest over the classes decides.

    Args:
        net: To logits (n, 10).
        sigma: Of the Gaussian noise, in input units.
        draws: Over which the change is averaged.
    """

    mean: Tensor
    std: Tensor
    threshold: Tensor

    def __init__(self, net: nn.Module, sigma: float = 0.8, draws: int = 32) -> None:
        super().__init__()
        self.net = [net]  # Not a part of the detector's weights.
        self.sigma, self.draws = sigma, draws
        self.register_buffer("mean", torch.zeros(10, 10))
        self.register_buffer("std", torch.ones(10, 10))
        self.register_buffer("threshold", torch.zeros(()))

    def changes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The predictions (n,), and (n, 10) how the differences to them change."""
        net = self.net[0]
        logits = net(x)
        several = x.repeat_interleave(self.draws, 0)
        noisy = net(several + self.sigma * torch.randn_like(several))
        change = noisy.view(len(x), self.draws, -1).mean(1) - logits
        label = logits.argmax(1)
        return label, change - change.gather(1, label[:, None])

    def scores(self, x: Tensor) -> Tensor:
        """(n,) the largest z-score."""
        label, change = self.changes(x)
        score = (change - self.mean[label]) / self.std[label]
        own = functional.one_hot(label, 10).bool()
        return score.masked_fill(own, -torch.inf).amax(1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, ...) to scores (n,), above 0 where an input is rejected."""
        return self.scores(x) - self.threshold


def _detector() -> Odds:
    return Odds(trained())


def train() -> nn.Module:
    """The statistics of natural images; of those, 5 % are rejected."""
    detector = _detector()
    x = enlarged(training_digits()[0])
    with torch.no_grad():
        label, change = detector.changes(x)
        for known in range(10):
            rows = change[label == known]
            detector.mean[known] = rows.mean(0)
            detector.std[known] = rows.std(0).clamp(min=1e-3)
        detector.threshold.copy_(detector.scores(x).quantile(0.95))
    return detector


def make() -> Defense:
    """Weak: PGD, which is far too confident. By hand: the logits of natural images."""
    detector = load(_detector(), "odds")
    model = detector.net[0]
    epsilon = 0.2

    def adaptive(x: Tensor, y: Tensor) -> Tensor:
        def match(x: Tensor, y: Tensor, wanted: Tensor) -> Tensor:
            logits = wanted_logits[wanted]

            def loss(z: Tensor) -> Tensor:
                values: Tensor = (model(z) - logits).square().sum(1) + 5 * detector(
                    z
                ).relu()
                return values

            return descend(
                slopes(loss, 4), x, epsilon, lambda z: defense.broken(z, y), every=10
            )

        images, _ = defense.data()
        order = naturals(model, images, x, y)
        with torch.no_grad():
            wanted_logits = model(images)
        return in_turn(x, y, order, defense.broken, match)

    defense = Defense(
        name="odds",
        title="odds",
        source="Roth, Kilcher, Hofmann: The Odds are Odd, ICML 2019",
        model=model,
        detector=detector,
        weak=pgd(epsilon, loss=lead),
        weak_title="PGD, 40 steps, blind to the detector",
        adaptive=adaptive,
        adaptive_title="logit matching and the detector, 4 draws",
        epsilon=epsilon,
        votes=5,
        data=test_digits,
        test={"mode": "standard"},
    )
    return defense
