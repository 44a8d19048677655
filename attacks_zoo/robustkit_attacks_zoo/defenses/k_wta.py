"""k-Winners-Take-All: activations so jagged that gradients say nothing."""

from torch import Tensor, nn

from robustkit_attacks_zoo.defenses.attacks import by_differences, descend, lead, pgd
from robustkit_attacks_zoo.defenses.defense import Defense
from robustkit_attacks_zoo.defenses.networks import (
    fit,
    load,
    perceptron,
    training_digits,
)

__all__ = ["Winners", "make", "train"]

_PAIRS = 100


class Winners(nn.Module):
    """Keeps a share of the activations, the largest, and sets the others to zero.

    Args:
        share: Of the activations, in (0, 1).
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """(n, features) to (n, features)."""
        count = max(round(self.share * x.shape[1]), 1)
        return x * (x >= x.topk(count, dim=1).values[:, -1:])


def _network() -> nn.Module:
    return perceptron(64, 192, 96, 10, activation=lambda: Winners(0.1))


def train() -> nn.Module:
    """The network with winners in place of rectifiers."""
    return fit(_network(), *training_digits(), epochs=30)


def make() -> Defense:
    """Weak: PGD by the jagged gradients. By hand: differences of the margin."""
    model = load(_network(), "k_wta")
    epsilon = 0.15

    def adaptive(x: Tensor, y: Tensor) -> Tensor:
        several = y.repeat_interleave(_PAIRS)
        gradient = by_differences(lambda z: lead(model(z), several), _PAIRS, 0.1)
        return descend(gradient, x, epsilon, lambda z: defense.broken(z, y))

    defense = Defense(
        name="k-wta",
        title="k-WTA",
        source="Xiao, Zhong, Zheng: Enhancing Adversarial Defense by k-Winners-Take-"
        "All, ICLR 2020",
        model=model,
        weak=pgd(epsilon),
        weak_title="PGD, 40 steps, cross-entropy",
        adaptive=adaptive,
        adaptive_title="margin, gradients by differences of 200 points",
        epsilon=epsilon,
    )
    return defense
