"""Blurring."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy import ndimage

from robustkit.engine.attack import Attack, check_images
from robustkit.engine.problem import Problem
from robustkit.errors import BadInput
from robustkit.models.base import Access
from robustkit.numerics.tensors import (
    Array,
    Mask,
    PerSample,
    full,
    like,
    to_numpy,
    where,
)

__all__ = ["GaussianBlur"]


@dataclass(frozen=True)
class State:
    """How much blur is known to do.

    Attributes:
        least: (n,) standard deviation, in pixels, up to which none was adversarial.
        enough: (n,) one that was; infinite until one is found.
    """

    least: PerSample
    enough: PerSample


@dataclass(frozen=True)
class GaussianBlur(Attack[State]):
    """Blur images more and more until they are adversarial, and then as little as does.

    The standard deviation of the Gaussian filter grows by a constant factor from a
    fraction of a pixel to the longer side of the image; from the first that is
    adversarial, bisection goes back to the one before.

    Args:
        steps: How many standard deviations to try; 1 question each.
        first: The least standard deviation, in pixels.
        growth: From each to the next, above 1.
        precision: To which share of itself the standard deviation is found.
        channels_last: Whether images are (height, width, channels).

    Raises:
        BadInput: The inputs are not images, or the growth is none.

    Source:
        Rauber, Brendel, Bethge: Foolbox, ICML workshop 2017 (Gaussian blur).

    Differences from the paper:
        Standard deviations grow by a factor, not by a constant, and bisection follows:
        about 30 questions in place of up to 1,000.

    >>> import numpy as np, robustkit as rk
    >>> def logits(x):
    ...     return np.stack([x[:, 0, 3, 3], 0.5 + 0 * x[:, 0, 3, 3]], axis=1)
    >>> x, y = np.zeros((1, 1, 7, 7)), np.array([0])
    >>> x[0, 0, 3, 3] = 1
    >>> result = rk.run(rk.GaussianBlur(), rk.NumPyModel(logits), x, y, norm="linf")
    >>> round(float(result.distance[0]), 2)
    0.5
    """

    access: ClassVar[Access] = Access.DECISION
    norms: ClassVar[frozenset[str]] = frozenset({"l0", "l1", "l2", "linf"})
    cost: ClassVar[str] = "1 forward"
    source: ClassVar[str] = "Rauber, Brendel, Bethge, 2017"
    positive: ClassVar[tuple[str, ...]] = ("first",)

    steps: int = 50
    first: float = 0.2
    growth: float = 1.2
    precision: float = 1e-3
    channels_last: bool = False

    def check(self, p: Problem) -> None:
        super().check(p)
        if not self.growth > 1:
            raise BadInput(
                f"GaussianBlur needs a growth above 1; got {self.growth}: its standard "
                "deviations would never grow"
            )
        check_images(self, p, ". Choose a noise attack instead")

    def init(self, p: Problem) -> State:
        return State(full(p.x, 0.0), full(p.x, np.inf))

    def step(self, p: Problem, s: State, t: int) -> State:
        found = s.enough < np.inf
        further = where(s.least > 0, s.least * self.growth, self.first)
        # In a cascade nobody leaves before all steps are over.
        active = self.finished(p, s).logical_not()
        deviation = where(found, (s.least + s.enough) / 2, further)
        deviation = where(active, deviation, 0.0)
        passed = p.decide(like(p.x, self._blurred(p, to_numpy(deviation))), active)
        return State(
            least=where(active.logical_and(passed.logical_not()), deviation, s.least),
            enough=where(passed, deviation, s.enough),
        )

    def finished(self, p: Problem, s: State) -> Mask:
        longest = max(p.x.shape[1:3] if self.channels_last else p.x.shape[2:])
        gone: Mask = (s.least > longest).logical_and(s.enough == np.inf)
        narrow = s.enough - s.least <= self.precision * s.enough
        return gone.logical_or(narrow.logical_and(s.enough < np.inf))

    def _blurred(self, p: Problem, deviations: Array) -> Array:
        rows = []
        for image, deviation in zip(to_numpy(p.x), deviations, strict=True):
            sizes = [deviation, deviation]
            sizes.insert(2 if self.channels_last else 0, 0.0)
            rows.append(ndimage.gaussian_filter(image, sizes))
        return np.stack(rows)
