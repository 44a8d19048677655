"""Adversarial training, which is what it looks like."""

from robustkit import demo
from torch import Tensor

from robustkit_attacks_zoo.defenses.attacks import descend, lead, pgd, slopes
from robustkit_attacks_zoo.defenses.defense import Defense

__all__ = ["make"]


def make() -> Defense:
    """The demo network; the weak evaluation is not weak, for once."""
    model = demo.load_model("digits-robust")
    epsilon = 0.15

    def adaptive(x: Tensor, y: Tensor) -> Tensor:
        return descend(
            slopes(lambda z: lead(model(z), y)), x, epsilon,
            lambda z: defense.broken(z, y), steps=200,
        )  # fmt: skip

    defense = Defense(
        name="honest",
        title="adversarial training",
        source="Madry, Makelov, Schmidt, Tsipras, Vladu: Towards Deep Learning Models "
        "Resistant to Adversarial Attacks, ICLR 2018",
        model=model,
        weak=pgd(epsilon, 100, loss=lead),
        weak_title="PGD, 100 steps, margin",
        adaptive=adaptive,
        adaptive_title="PGD on the margin, 200 steps",
        epsilon=epsilon,
        thirteen=False,
    )
    return defense
