"""Defensive distillation: trained at a high temperature, used at none."""

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

__all__ = ["make", "train"]

_TEMPERATURE = 50.0


def _network() -> nn.Sequential:
    return perceptron(64, 64, 64, 10)


def train() -> nn.Module:
    """A teacher at the temperature, and a student of its probabilities."""
    x, y = training_digits()
    teacher, student = _network(), _network()
    entropy = nn.functional.cross_entropy

    def by_label(x: Tensor, y: Tensor) -> Tensor:
        return entropy(teacher(x) / _TEMPERATURE, y)

    def by_teacher(x: Tensor, likely: Tensor) -> Tensor:
        return entropy(student(x) / _TEMPERATURE, likely)

    fit(teacher, x, y, by_label)
    with torch.no_grad():
        likely = (teacher(x) / _TEMPERATURE).softmax(1)
    return fit(student, x, likely, by_teacher)


def make() -> Defense:
    """Weak: PGD on the saturated cross-entropy. By hand: the margin."""
    model = load(_network(), "distillation")
    epsilon = 0.15

    def adaptive(x: Tensor, y: Tensor) -> Tensor:
        return descend(
            slopes(lambda z: lead(model(z), y)), x, epsilon,
            lambda z: defense.broken(z, y),
        )  # fmt: skip

    defense = Defense(
        name="distillation",
        title="distillation",
        source="Papernot, McDaniel, Wu, Jha, Swami: Distillation as a Defense to "
        "Adversarial Perturbations, IEEE S&P 2016",
        model=model,
        weak=pgd(epsilon),
        weak_title="PGD, 40 steps, cross-entropy",
        adaptive=adaptive,
        adaptive_title="PGD on the margin",
        epsilon=epsilon,
        thirteen=False,
    )
    return defense
