"""A sparse cosine transform that leaves out a few corrupted pixels."""

import math

import torch
from torch import Tensor, nn

from robustkit_attacks_zoo.defenses.attacks import lead, slopes
from robustkit_attacks_zoo.defenses.defense import Attack, Defense
from robustkit_attacks_zoo.defenses.networks import (
    Through,
    fit,
    load,
    perceptron,
    training_digits,
)

__all__ = ["Recovery", "cosines", "make", "saliency", "train"]


def cosines() -> Tensor:
    """(8, 8) the orthonormal cosine transform of 8 values."""
    k = torch.arange(8.0)
    basis = torch.cos(math.pi * (k[None] + 0.5) * k[:, None] / 8) / 2
    basis[0] /= math.sqrt(2)
    return basis


class Recovery(nn.Module):
    """An image of few cosines, from one of which a few pixels are wrong.

    Iterative hard thresholding: in turn, the largest coefficients of what is left when
    the wrong pixels are taken away, and the pixels where that is farthest off. Done
    outside of automatic differentiation, as the original was.

    Args:
        coefficients: How many are kept.
        pixels: How many may be wrong.
        rounds: Of the iteration.
    """

    def __init__(
        self, coefficients: int = 16, pixels: int = 6, rounds: int = 10
    ) -> None:
        super().__init__()
        self.coefficients, self.pixels, self.rounds = coefficients, pixels, rounds

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1, 8, 8) to (n, 1, 8, 8)."""
        with torch.no_grad():
            error = torch.zeros_like(x)
            image = self.project(x)
            for _ in range(self.rounds if self.pixels else 0):
                error = _largest(x - image, self.pixels)
                image = self.project(x - error)
        return image

    def project(self, x: Tensor) -> Tensor:
        """On the largest coefficients."""
        c = cosines()
        return c.T @ _largest(c @ x @ c.T, self.coefficients) @ c


def _largest(values: Tensor, count: int) -> Tensor:
    flat = values.flatten(1)
    kept = flat.abs().topk(count, dim=1).indices
    return torch.zeros_like(flat).scatter(1, kept, flat.gather(1, kept)).view_as(values)


def _network() -> nn.Sequential:
    return perceptron(64, 64, 64, 10)


def train() -> nn.Module:
    """The network, on images of few cosines."""
    x, y = training_digits()
    return fit(_network(), Recovery(pixels=0)(x), y)


def saliency(pixels: int) -> Attack:
    """A pixel after another to black or white, by its slope (after JSMA)."""

    def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        gradient = slopes(lambda z: lead(model(z), y))
        z, free = x.clone(), torch.ones_like(x, dtype=torch.bool)
        for _ in range(pixels):
            slope = gradient(z)
            far = (slope < 0).to(x)
            gain = (slope * (z - far)).masked_fill(~free, -torch.inf).flatten(1)
            chosen = gain.argmax(1)[:, None]
            z = z.flatten(1).scatter(1, chosen, far.flatten(1).gather(1, chosen))
            z = z.view_as(x)
            free.view(len(x), -1).scatter_(1, chosen, False)
        return z

    return attack


def make() -> Defense:
    """Weak: L0 on the network alone. By hand: every pixel tried through the whole."""
    net = load(_network(), "sparse_fourier")
    pixels = 2
    model = Through(Recovery(), net).eval()

    def adaptive(x: Tensor, y: Tensor) -> Tensor:
        z = x.clone()
        every = torch.arange(64).repeat(2)
        shades = torch.tensor([0.0, 1.0]).repeat_interleave(64)
        for _ in range(pixels):
            tried = z.flatten(1)[:, None].repeat(1, 128, 1)
            tried[:, torch.arange(128), every] = shades
            with torch.no_grad():
                margin = lead(
                    model(tried.view(-1, *x.shape[1:])), y.repeat_interleave(128)
                )
            best = margin.view(len(x), 128).argmin(1)
            moved = tried[torch.arange(len(x)), best].view_as(x)
            done = defense.broken(z, y)
            z = torch.where(done[:, None, None, None], z, moved)
        return z

    defense = Defense(
        name="sparse-fourier",
        title="sparse Fourier",
        source="Bafna, Murtagh, Vyas: Thwarting Adversarial Examples: An L0-Robust "
        "Sparse Fourier Transform, NeurIPS 2018",
        model=model,
        seen=net,
        weak=saliency(pixels),
        weak_title="saliency map, through the network alone",
        adaptive=adaptive,
        adaptive_title="every pixel tried through the recovery, one after another",
        norm="l0",
        epsilon=float(pixels),
    )
    return defense
