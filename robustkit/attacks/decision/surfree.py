"""SurFree: along circles in random planes."""

from dataclasses import dataclass
from typing import ClassVar

from robustkit.attacks.decision.arc import Arc
from robustkit.numerics.tensors import Mask, PerSample

__all__ = ["SurFree"]


@dataclass(frozen=True)
class SurFree(Arc):
    """Walk on the circles on which a flat boundary has its nearest point.

    In the plane of the perturbation and of a random smooth direction, a flat boundary
    through the present point comes nearest to the original somewhere on the circle
    whose diameter is the perturbation. So points of that circle are asked about, on
    one side, on the other, and as far round as they stay adversarial: the distance is
    the diameter times the cosine of the angle. No question is spent on estimating the
    boundary's normal.

    Args:
        steps: How many; 1 question each. Finding the starts costs some questions more.
        tries: How many starting points of each kind to try (see `starting_point`).
        frequencies: The share of each side's frequencies that directions have; every
            other one has half as many.
        memory: How many earlier directions a new one is at right angles to.
        slope: Tangent of the angle tried first.
        precision: To which share of itself the tangent of the largest is found.
        slower: By what factor angles shrink where neither side is adversarial.

    Source:
        Maho, Furon, Le Merrer: SurFree: A Fast Surrogate-free Black-box Attack, CVPR
        2021.

    Differences from the paper:
        - One angle is tried on either side in place of several; it follows what
          succeeded in its own sample. Larger ones follow by doubling.
        - Directions are low frequencies of the whole image, not modulated by the
          image's own spectrum.
        - Starts are the nearest of several (`starting_point`).

    >>> import robustkit as rk, torch
    >>> model = torch.nn.Linear(2, 2, bias=False).eval()
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> x, y = torch.tensor([[0.8, 0.4]]), torch.tensor([0])
    >>> result = rk.run(rk.SurFree(steps=300), model, x, y, norm="l2")
    >>> round(float(result.distance[0]), 2)
    0.28
    """

    source: ClassVar[str] = "Maho, Furon, Le Merrer, CVPR 2021"

    steps: int = 5000
    tries: int = 20
    frequencies: float = 0.5
    memory: int = 100
    slope: float = 0.5
    precision: float = 0.1
    slower: float = 0.9

    def learned(self, lean: PerSample, passed: Mask) -> PerSample:
        return lean
