"""The parts that weak evaluations and attacks written by hand are made of."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from robustkit_attacks_zoo.defenses.defense import Attack

__all__ = [
    "Gradient",
    "by_differences",
    "cross_entropy",
    "descend",
    "in_turn",
    "lead",
    "likelihood",
    "over",
    "pgd",
    "slopes",
]

Gradient = Callable[[Tensor], Tensor]
"""From points (n, ...) to the slopes of a loss that is to fall (n, ...)."""


def lead(logits: Tensor, y: Tensor) -> Tensor:
    """(n,) how far the label is ahead of the best other class."""
    others = logits.scatter(1, y[:, None], -torch.inf)
    return logits.gather(1, y[:, None])[:, 0] - others.amax(1)


def over(logits: Tensor, target: Tensor) -> Tensor:
    """(n,) how far the best other class is ahead of the target."""
    return -lead(logits, target)


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """(n,) the log-likelihood of the label, which falls as it becomes less likely."""
    return -functional.cross_entropy(logits, y, reduction="none")


def slopes(loss: Callable[[Tensor], Tensor], passes: int = 1) -> Gradient:
    """Of a loss (n, ...) to (n,), by automatic differentiation.

    Args:
        loss: To be lowered.
        passes: Averaged over so many draws, for losses that are random (EOT).
    """

    def gradient(points: Tensor) -> Tensor:
        total = torch.zeros_like(points)
        for _ in range(passes):
            z = points.detach().requires_grad_()
            with torch.enable_grad():
                value = loss(z).sum()
            total += torch.autograd.grad(value, z)[0].nan_to_num()
        return total / passes

    return gradient


def by_differences(
    loss: Callable[[Tensor], Tensor], pairs: int, sigma: float, seed: int = 0
) -> Gradient:
    """Of a loss smoothed by Gaussian noise, by differences (evolution strategies).

    Args:
        loss: From points (m, ...), several for each sample one after another, to (m,).
        pairs: Directions per gradient; each costs two forward passes.
        sigma: Of the noise, in input units.
        seed: Of the directions.
    """
    generator = torch.Generator().manual_seed(seed)

    def gradient(points: Tensor) -> Tensor:
        shape = (len(points), pairs, *points.shape[1:])
        noise = torch.randn(shape, generator=generator)
        with torch.no_grad():
            ahead, behind = (
                loss((points[:, None] + side * sigma * noise).flatten(0, 1))
                for side in (1, -1)
            )
        rise = (ahead - behind).view(len(points), pairs, *[1] * (points.ndim - 1))
        return (rise * noise).mean(1) / (2 * sigma)

    return gradient


def likelihood(outputs: Tensor, y: Tensor) -> Tensor:
    """As `cross_entropy`, also of a model whose outputs are probabilities."""
    if bool((outputs >= 0).all()) and bool(((outputs.sum(1) - 1).abs() < 1e-4).all()):
        return outputs.gather(1, y[:, None])[:, 0].clamp(min=1e-12).log()
    return cross_entropy(outputs, y)


def pgd(
    epsilon: float,
    steps: int = 40,
    *,
    stepsize: float | None = None,
    passes: int = 1,
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Attack:
    """Steps along the gradient's sign, all of one length; the last point counts.

    Args:
        epsilon: Radius of the Linf ball.
        steps: How many.
        stepsize: Of each, in input units; None: a tenth of epsilon.
        passes: Gradients averaged over so many draws.
        loss: Of logits and labels, to be lowered.
        bounds: Of valid inputs.
    """
    length = epsilon / 10 if stepsize is None else stepsize

    def attack(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
        gradient = slopes(lambda z: loss(model(z), y), passes)
        z = x.clone()
        for _ in range(steps):
            z = z - length * gradient(z).sign()
            z = (x + (z - x).clamp(-epsilon, epsilon)).clamp(*bounds)
        return z

    return attack


def descend(
    gradient: Gradient,
    x: Tensor,
    epsilon: float,
    broken: Callable[[Tensor], Tensor],
    *,
    steps: int = 100,
    every: int = 1,
    start: Tensor | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Tensor:
    """Steps along the gradient's sign, ever shorter, to the first point that breaks.

    Args:
        gradient: Of the loss to be lowered.
        x: (n, ...) the originals.
        epsilon: Radius of the Linf ball.
        broken: Which points (n, ...) break the defense (n,).
        steps: How many.
        every: Ask `broken` after so many steps, where asking is dear.
        start: (n, ...) within the ball; None: the originals.
        bounds: Of valid inputs.

    Returns:
        (n, ...) the first points that broke; elsewhere the last ones.
    """
    z = x.clone() if start is None else start.clone()
    found = torch.zeros(len(x), dtype=torch.bool)
    best = z.clone()
    for step in range(steps):
        length = 2 * epsilon * (1 - 0.98 * step / steps) / 4
        z = z - length * gradient(z).sign()
        z = (x + (z - x).clamp(-epsilon, epsilon)).clamp(*bounds)
        if step % every == every - 1 or step == steps - 1:
            best[~found] = z[~found]
            found |= broken(z)
            if found.all():
                break
    return best


def in_turn(
    x: Tensor,
    y: Tensor,
    order: Tensor,
    broken: Callable[[Tensor, Tensor], Tensor],
    attack: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> Tensor:
    """Aim at one target after another, each at the samples that are left.

    Args:
        x: (n, ...) the originals.
        y: (n,) their labels.
        order: (n, targets) classes, the most promising first.
        broken: Which points (m, ...) with labels (m,) break the defense.
        attack: From originals, labels and targets (m,) to points.
    """
    best, left = x.clone(), torch.arange(len(x))
    for targets in order.T:
        best[left] = attack(x[left], y[left], targets[left])
        left = left[~broken(best[left], y[left])]
        if len(left) == 0:
            break
    return best
