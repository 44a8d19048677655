"""Rotations and shifts."""

import itertools
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy import ndimage

from robustkit.engine.attack import Attack, check_images
from robustkit.engine.problem import Problem
from robustkit.models.base import Access
from robustkit.numerics.tensors import Array, Batch, like, to_numpy

__all__ = ["Spatial"]

_HALVINGS = 8


@dataclass(frozen=True)
class Spatial(Attack[None]):
    """Rotate and shift images a little: natural changes that no small ball holds.

    First a grid of rotations and shifts is gone through, small ones first, then random
    ones within the same limits. What is found counts by its distance in the problem's
    norm, like everything else; but that distance says little here, since a shift by one
    pixel is far in every norm. The threat is what the limits allow, so look at whether
    an adversarial was found, and at the robust accuracy for a huge epsilon.

    Nothing is asked about an image that is farther away than an adversarial found
    before. Where one is found, the same motion is halved towards standing still as long
    as that is adversarial.

    Args:
        steps: How many motions to try; at most 1 question each, 8 more where it helps.
        rotation: The largest, in degrees, either way.
        shift: The largest along either side, as a share of it.
        grid: How many rotations, and as many shifts along each side; odd numbers have
            standing still among them.
        channels_last: Whether images are (height, width, channels).

    Raises:
        BadInput: The inputs are not images.

    Source:
        Engstrom, Tran, Tsipras, Schmidt, Madry: Exploring the Landscape of Spatial
        Robustness, ICML 2019.

    Differences from the paper:
        Nearer adversarials are looked for after the first; random motions follow the
        grid. Pixels from outside are as dark as the bounds allow.

    >>> import numpy as np, robustkit as rk
    >>> def logits(x):
    ...     return np.stack([x[:, 0, 0, 0], x[:, 0, 0, 1]], axis=1)
    >>> x, y = np.zeros((1, 1, 8, 8)), np.array([0])
    >>> x[0, 0, :, 0] = 1
    >>> spatial = rk.Spatial(shift=0.25)
    >>> bool(rk.run(spatial, rk.NumPyModel(logits), x, y, norm="l2").found[0])
    True
    """

    access: ClassVar[Access] = Access.DECISION
    norms: ClassVar[frozenset[str]] = frozenset({"l0", "l1", "l2", "linf"})
    cost: ClassVar[str] = "1 forward or none; 8 more where it helps"
    source: ClassVar[str] = "Engstrom et al., ICML 2019"

    steps: int = 400
    rotation: float = 30.0
    shift: float = 0.1
    grid: int = 5
    channels_last: bool = False

    def check(self, p: Problem) -> None:
        super().check(p)
        check_images(self, p, ". Choose a noise attack instead")

    def init(self, p: Problem) -> None:
        return None

    def step(self, p: Problem, s: None, t: int) -> None:
        motion = self._motion(p, t)
        passed = self._ask(p, motion, np.ones(p.size, dtype=bool))
        low, high = np.zeros(p.size), np.ones(p.size)
        for _ in range(_HALVINGS):
            if not passed.any():
                break
            middle = (low + high) / 2
            nearer = self._ask(p, motion * middle[:, None], passed)
            low, high = np.where(nearer, low, middle), np.where(nearer, middle, high)

    def _motion(self, p: Problem, t: int) -> Array:
        """(n, 3) the rotation and the two shifts of step `t`, as shares of limits."""
        line = np.linspace(-1, 1, self.grid) if self.grid > 1 else np.zeros(1)
        grid = np.array(list(itertools.product(line, repeat=3)))
        grid = grid[np.argsort(np.abs(grid).sum(axis=1), kind="stable")]
        grid = grid[np.abs(grid).sum(axis=1) > 0]
        if t < len(grid):
            return np.tile(grid[t], (p.size, 1))
        return to_numpy(p.rng(t).uniform((3,), -1.0, 1.0)).astype(np.float64)

    def _ask(self, p: Problem, motion: Array, asked: Array) -> Array:
        """(n,) whether the moved images are nearer adversarials than those known."""
        moved = self._moved(p, motion, asked)
        nearer = to_numpy(p.norm(moved - p.x) < p.ledger.distance)
        asked = asked & nearer & ~p.ledger.spent()
        return to_numpy(p.decide(moved, like(p.x, asked)))

    def _moved(self, p: Problem, motion: Array, asked: Array) -> Batch:
        """The images (n, ...) rotated around their middle and shifted; bilinear."""
        images = np.array(to_numpy(p.x))
        for row in np.flatnonzero(asked):
            image = images[row]
            image = image if self.channels_last else np.moveaxis(image, 0, 2)
            sides = np.array(image.shape[:2])
            angle = np.deg2rad(self.rotation) * motion[row, 0]
            turn = np.array(
                [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
            )
            middle = (sides - 1) / 2
            origin = middle - turn @ (middle + self.shift * sides * motion[row, 1:])
            moved = np.stack(
                [
                    ndimage.affine_transform(
                        channel, turn, origin, order=1, cval=p.bounds.lower
                    )
                    for channel in np.moveaxis(image, 2, 0)
                ]
            )
            images[row] = np.moveaxis(moved, 0, 2) if self.channels_last else moved
        return like(p.x, images)
