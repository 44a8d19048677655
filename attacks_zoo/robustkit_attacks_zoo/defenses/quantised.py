"""Input quantisation: pixels of few shades."""

from robustkit import demo
from torch import Tensor, nn

from robustkit_attacks_zoo.defenses.attacks import descend, lead, pgd, slopes
from robustkit_attacks_zoo.defenses.defense import Defense
from robustkit_attacks_zoo.defenses.networks import StraightThrough, Through

__all__ = ["Shades", "make"]


class Shades(nn.Module):
    """Rounds every pixel.

    Args:
        steps: Between black and white.
    """

    def __init__(self, steps: int = 4) -> None:
        super().__init__()
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        """(n, ...) to multiples of 1 / steps."""
        return (x * self.steps).round() / self.steps


def make() -> Defense:
    """Weak: PGD through the rounding. By hand: past it."""
    net, shades = demo.load_model("digits"), Shades()
    passing = Through(StraightThrough(shades), net).eval()
    epsilon = 0.15

    def adaptive(x: Tensor, y: Tensor) -> Tensor:
        return descend(
            slopes(lambda z: lead(passing(z), y)), x, epsilon,
            lambda z: defense.broken(z, y), steps=200,
        )  # fmt: skip

    defense = Defense(
        name="quantisation",
        title="input quantisation",
        source="Xu, Evans, Qi: Feature Squeezing, NDSS 2018",
        model=Through(shades, net).eval(),
        weak=pgd(epsilon),
        weak_title="PGD, 40 steps, through the rounding",
        adaptive=adaptive,
        adaptive_title="BPDA past the rounding",
        epsilon=epsilon,
        thirteen=False,
    )
    return defense
