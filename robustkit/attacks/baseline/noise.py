"""Random noise: what any attack worth its name must beat."""

from dataclasses import dataclass
from typing import ClassVar

from robustkit.attacks.baseline.walk import Walk
from robustkit.engine.problem import Problem
from robustkit.numerics.random import Rng
from robustkit.numerics.tensors import Batch

__all__ = ["GaussianNoise", "UniformNoise"]


@dataclass(frozen=True)
class UniformNoise(Walk):
    """Add uniform noise, as little as still changes the decision.

    Args:
        steps: How many noises to try; most cost 1 question.

    Source:
        Folklore.

    Differences from the paper:
        There is no paper. Each noise is followed down to the boundary by bisection.

    >>> import robustkit as rk, torch
    >>> model = torch.nn.Linear(2, 2, bias=False).eval()
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> x, y = torch.tensor([[0.8, 0.4]]), torch.tensor([0])
    >>> result = rk.run(rk.UniformNoise(steps=100), model, x, y, norm="linf")
    >>> 0.2 <= float(result.distance[0]) < 0.22
    True
    """

    source: ClassVar[str] = "folklore"
    baseline: ClassVar[str | None] = "noise"

    steps: int = 100

    def far(self, p: Problem, rng: Rng, t: int) -> Batch:
        return p.x + rng.uniform(p.x.shape[1:], -p.bounds.width, p.bounds.width)


@dataclass(frozen=True)
class GaussianNoise(Walk):
    """Add Gaussian noise, as little as still changes the decision.

    Args:
        steps: How many noises to try; most cost 1 question.
        scale: Standard deviation of the noise walked towards, in widths of the bounds.

    Source:
        Folklore.

    Differences from the paper:
        There is no paper. Each noise is followed down to the boundary by bisection.

    >>> import robustkit as rk, torch
    >>> model = torch.nn.Linear(2, 2, bias=False).eval()
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> x, y = torch.tensor([[0.8, 0.4]]), torch.tensor([0])
    >>> result = rk.run(rk.GaussianNoise(steps=100), model, x, y, norm="l2")
    >>> round(float(result.distance[0]), 2)
    0.28
    """

    source: ClassVar[str] = "folklore"
    baseline: ClassVar[str | None] = "noise"
    positive: ClassVar[tuple[str, ...]] = ("scale",)

    steps: int = 100
    scale: float = 0.5

    def far(self, p: Problem, rng: Rng, t: int) -> Batch:
        return p.x + rng.normal(p.x.shape[1:]) * (self.scale * p.bounds.width)
