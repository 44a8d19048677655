"""Patch-RS: square patches of a given size, by random search."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from robustkit.attacks.score.random_search import Schedule, check_share
from robustkit.engine.attack import FixedBudget, broken, check_images
from robustkit.engine.problem import Problem
from robustkit.models.base import Access
from robustkit.numerics.norms import L0
from robustkit.numerics.random import Rng
from robustkit.numerics.tensors import (
    Array,
    Batch,
    Mask,
    PerSample,
    Tensor,
    full,
    like,
    to_numpy,
    where,
)

__all__ = ["PatchRS"]

# How the share to repaint falls.
_SCHEDULE = Schedule(
    after=(10, 50, 200, 500, 1000, 4000, 8000),
    divisors=(1, 2, 4, 8, 16, 32, 64, 128),
)


@dataclass(frozen=True)
class State:
    """Where the search stands; places are whole numbers kept as floats.

    Attributes:
        content: (n, channels, height, width) the patch, its corner at the first row and
            column; what lies outside the patch does not matter.
        place: (n, 2) row and column of its upper left corner.
        margin: (n,) of it; infinite before the first question.
        new_content: (n, channels, height, width) what is asked about next.
        new_place: (n, 2) where it lies.
        side: (n,) of the patch, in pixels.
        epsilon: (n,) the most that may change, in norm units.
    """

    content: Tensor
    place: Tensor
    margin: PerSample
    new_content: Tensor
    new_place: Tensor
    side: PerSample
    epsilon: PerSample


@dataclass(frozen=True)
class PatchRS(FixedBudget[State]):
    """Repaint a random square of a patch, now and then move it; keep what helps.

    The threat is a square of pixels, anywhere in the image and with any content within
    the bounds. Its size is counted as in L0: a patch of side s changes at most s * s
    pixels, or as many features times the channels.

    Args:
        epsilon: The most pixels (or features) that may change. The patch is the largest
            square with so many; its side is at least 1.
        steps: How many; 1 question each.
        share: Of the patch, that the first squares repaint.
        rescale: The squares shrink with the share of the steps taken. Else as in a
            search of 10,000 questions, however many there are.
        stop: Stop working on a sample once an adversarial within epsilon is known.

    Source:
        Croce, Andriushchenko, Singh, Flammarion, Hein: Sparse-RS: a versatile framework
        for query-efficient sparse black-box adversarial attacks, AAAI 2022, image- and
        location-specific patches.

    Differences from the paper:
        - Each sample's squares and moves are its own.
        - Where an adversarial is known, as inside `Minimise`, the search starts from a
          random part of its bounding box.

    >>> import robustkit as rk, torch
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(9, 2)).eval()
    >>> _ = model[1].weight.data.copy_(torch.tensor([[1.0] * 9, [0.0] * 9]))
    >>> _ = model[1].bias.data.copy_(torch.tensor([0.0, 3.0]))
    >>> x, y = torch.full((1, 1, 3, 3), 0.5), torch.tensor([0])
    >>> result = rk.run(PatchRS(epsilon=4), model, x, y, norm="l0-pixels")
    >>> float(result.distance[0])
    4.0
    """

    access: ClassVar[Access] = Access.SCORE
    norms: ClassVar[frozenset[str]] = frozenset({"l0"})
    cost: ClassVar[str] = "1 forward"
    source: ClassVar[str] = "Croce et al., AAAI 2022"

    epsilon: float
    steps: int = 5000
    share: float = 0.4
    rescale: bool = True
    stop: bool = True

    def start(self, p: Problem, epsilon: PerSample, rng: Rng) -> State:
        rows, columns = p.x.shape[2:]
        side = _side(p, epsilon)
        chance = to_numpy(rng.uniform((2,)))
        stripes = rng.uniform((p.x.shape[1], 1, columns), -1.0, 1.0)
        content = where(stripes + 0 * p.x > 0, p.bounds.upper, p.bounds.lower + 0 * p.x)
        room = np.array([rows, columns]) - side[:, None]
        place = np.floor(chance * (room + 1))
        best = p.ledger.best
        first, last = _box(to_numpy(best != p.x))
        cut = np.maximum(last - first + 1 - side[:, None], 0)
        known = np.minimum(first + np.floor(chance * (cut + 1)), room)
        found = to_numpy(p.ledger.found)
        corner = np.where(found[:, None], known, place).astype(_dtype(p))
        at = like(p.x, corner)
        content = where(p.ledger.found, _moved(best, -1 * at), content)
        return State(
            content=content,
            place=at,
            margin=full(p.x, math.inf),
            new_content=content,
            new_place=at,
            side=like(p.x, side.astype(_dtype(p))),
            epsilon=epsilon,
        )

    def advance(self, p: Problem, s: State, progress: PerSample, rng: Rng) -> State:
        inside = _inside(p.x, s.new_place, s.side)
        a = p.score(where(inside, _moved(s.new_content, s.new_place), p.x))
        better = a.margin < s.margin
        content = where(better, s.new_content, s.content)
        place = where(better, s.new_place, s.place)
        chance = to_numpy(rng.uniform((4,)))
        signs = rng.uniform((p.x.shape[1], 1, 1), -1.0, 1.0).sign()
        done, side = to_numpy(progress), to_numpy(s.side)
        share = _SCHEDULE.share(self, done, self.rescale)
        small = np.maximum(np.floor(np.sqrt(share) * side), 1)
        at = np.floor(chance[:, :2] * (side - small + 1)[:, None]).astype(_dtype(p))
        here = _inside(p.x, like(p.x, at), like(p.x, small.astype(_dtype(p))))
        painted = p.bounds.clip(content + signs * p.bounds.width)
        # Ever more rarely, and ever less far.
        number = np.round(done * self.steps)
        turn = (number + 1) % (5 * (1 + number // 1000)) == 0
        sides = np.array(p.x.shape[2:])
        reach = np.floor(0.75 * (1 - done)[:, None] * sides)
        shift = np.floor(chance[:, 2:] * (2 * reach + 1)) - reach
        shifted = np.clip(to_numpy(place) + shift, 0, sides - side[:, None])
        moving = like(p.x, turn & (reach > 0).any(axis=1))
        return State(
            content=content,
            place=place,
            margin=where(better, a.margin, s.margin),
            new_content=where(moving, content, where(here, painted, content)),
            new_place=where(moving, like(p.x, shifted.astype(_dtype(p))), place),
            side=s.side,
            epsilon=s.epsilon,
        )

    def finished(self, p: Problem, s: State) -> Mask | None:
        return broken(p, s.epsilon) if self.stop else None

    def check(self, p: Problem) -> None:
        super().check(p)
        check_share(self)
        check_images(self, p)


def _side(p: Problem, epsilon: PerSample) -> Array:
    """(n,) whole numbers: sides of the largest squares with so many units."""
    assert isinstance(p.norm, L0)
    each = 1 if p.norm.channel_axis is not None else p.x.shape[1]
    side = np.floor(np.sqrt(to_numpy(epsilon) / each + 1e-6))
    return np.asarray(side.clip(1, min(p.x.shape[2:])))


def _inside(image: Batch, corner: Tensor, side: PerSample) -> Mask:
    """(n, 1, height, width): which pixels lie in the squares there."""
    row, column = (np.arange(size) for size in image.shape[2:])
    first, last = to_numpy(corner), to_numpy(corner) + to_numpy(side)[:, None]
    rows = (row >= first[:, :1]) & (row < last[:, :1])
    columns = (column >= first[:, 1:]) & (column < last[:, 1:])
    return like(image, (rows[:, :, None] & columns[:, None, :])[:, None])


def _moved(image: Batch, by: Tensor) -> Batch:
    """Each image moved down and right by (n, 2) pixels; what leaves comes in again."""
    count, channels, rows, columns = image.shape
    down, right = to_numpy(by).astype(np.int64).T
    row = (np.arange(rows) - down[:, None]) % rows
    column = (np.arange(columns) - right[:, None]) % columns
    index = (row[:, :, None] * columns + column[:, None, :]).reshape((count, 1, -1))
    index = index.repeat(channels, axis=1).reshape((count * channels, -1))
    flat = image.reshape((count * channels, rows * columns))
    return flat.take_along_axis(like(image, index), axis=1).reshape(image.shape)


def _box(changed: Array) -> tuple[Array, Array]:
    """(n, 2) first and (n, 2) last rows and columns of what has changed."""
    first, last = [], []
    for axes in ((1, 3), (1, 2)):
        hit = np.asarray(changed.any(axis=axes))
        first.append(hit.argmax(axis=1))
        last.append(hit.shape[1] - 1 - hit[:, ::-1].argmax(axis=1))
    return np.stack(first, axis=1), np.stack(last, axis=1)


def _dtype(p: Problem) -> type[np.floating]:
    return np.float64 if "64" in str(p.x.dtype) else np.float32
