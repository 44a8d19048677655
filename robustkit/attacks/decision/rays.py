"""RayS: along which ray to the corners of the box is the boundary nearest?"""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from robustkit.engine.attack import Attack
from robustkit.engine.problem import Problem
from robustkit.engine.search import bisect, nearest
from robustkit.models.base import Access
from robustkit.numerics.tensors import (
    Array,
    Batch,
    Mask,
    PerSample,
    full,
    like,
    minimum,
    take,
    to_numpy,
    where,
)

__all__ = ["RayS"]

# A start is only walked on from.
_ROUGH = 1e-2


@dataclass(frozen=True)
class State:
    """The best ray, how far it is known, and which block to turn next.

    Attributes:
        ray: (n, ...) a perturbation, in input units; its point at a radius is what is
            left of it when every feature is clipped to that.
        radius: (n,) at which the ray is adversarial; infinite: no ray is.
        known: (n,) a smaller radius at which it is not; 0: none is known yet.
        stride: (n,) by what share of the radius to go down until one is known.
        level: (n,) how often the features have been halved into blocks.
        block: (n,) which block of that level is next.
        failures: (n,) turned blocks since the last that helped.
    """

    ray: Batch
    radius: PerSample
    known: PerSample
    stride: PerSample
    level: PerSample
    block: PerSample
    failures: PerSample


@dataclass(frozen=True)
class RayS(Attack[State]):
    """Turn blocks of a perturbation's signs, large ones first, and keep what helps.

    The perturbation moves every feature as far as the radius lets it, up or down. One
    block of features after another is turned the other way: one question, just below
    the best radius known. Only where that is adversarial the radius is searched down
    to the boundary. Blocks are the whole, its halves, their halves, and so on to single
    features.

    Starts are the signs of the perturbations that lead to the problem's `starts` and to
    the nearest of its `pool` (and those perturbations themselves, where the signs alone
    are not adversarial), everything brighter, everything darker, and where none of
    these is adversarial random signs. A target class is rarely among the last three:
    for targeted criteria give `starts` or a `pool` with inputs of the target class.

    Args:
        steps: How many; 1 question each. Finding the starts costs some questions more.
        tries: How many inputs of the pool, and how many random signs, to try.
        tolerance: To which share of the radius the boundary is found, and by how much
            a ray has to be better.
        stride: By what share of the radius to go down first, where a turn helped. The
            shares double until the boundary is passed.

    Source:
        Chen, Gu: RayS: A Ray Searching Method for Hard-label Adversarial Attack, KDD
        2020, with hierarchical search.

    Differences from the paper:
        - Blocks are compact: the longest side of the input is halved each time, where
          the paper cuts rows of features. On a CIFAR-10 network the median distance
          after 1,000 questions was a third smaller.
        - The search goes down from the present radius in growing strides, not by
          bisection of all there is below it, since most turns help a little only.
        - Starts other than all features brighter.
        - After single features come whole images again, until a round helps nowhere.

    >>> import robustkit as rk, torch
    >>> model = torch.nn.Linear(2, 2, bias=False).eval()
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> x, y = torch.tensor([[0.8, 0.4]]), torch.tensor([0])
    >>> result = rk.run(rk.RayS(), model, x, y, norm="linf")
    >>> round(float(result.distance[0]), 2)
    0.2
    """

    access: ClassVar[Access] = Access.DECISION
    norms: ClassVar[frozenset[str]] = frozenset({"linf"})
    cost: ClassVar[str] = "1 forward"
    source: ClassVar[str] = "Chen, Gu, KDD 2020"

    steps: int = 5000
    tries: int = 20
    tolerance: float = 1e-3
    stride: float = 1e-2

    def init(self, p: Problem) -> State:
        ray, radius = p.x.zeros_like() + p.bounds.width, full(p.x, math.inf)
        for side in self._sides(p):
            ray, radius = _nearer(p, ray, radius, side, radius > 0)
        rng = p.rng(-1)
        for _ in range(self.tries):
            searching = radius == math.inf
            if not bool(searching.any()):
                break
            side = where(rng.uniform(p.x.shape[1:]) < 0.5, -p.bounds.width, _wide(p))
            ray, radius = _nearer(p, ray, radius, side, searching)
        zero = full(p.x, 0.0)
        known = radius * (1 - _ROUGH)
        return State(ray, radius, known, zero, zero, zero, zero)

    def step(self, p: Problem, s: State, t: int) -> State:
        searching = s.radius - s.known > self.tolerance * s.radius
        inside, blocks = _block(p, s)
        turned = where(s.ray > 0, -p.bounds.width, _wide(p))
        turned = where(inside, turned, s.ray)
        ray = where(searching, s.ray, turned)

        down = where(s.known > 0, (s.radius + s.known) / 2, s.radius * (1 - s.stride))
        radius = where(searching, down, s.radius * (1 - self.tolerance))
        passed = p.decide(p.x + p.norm.project(ray, radius))
        failed = passed.logical_not()

        helped = passed.logical_and(searching.logical_not())
        known = where(failed, where(searching, radius, s.radius), s.known)
        known = where(helped, 0.0, known)
        longer = where(searching, minimum(2 * s.stride, 0.5), self.stride)
        stride = where(passed, longer, s.stride)
        ray = where(helped, turned, s.ray)
        radius = where(passed, radius, s.radius)

        settled = radius - known <= self.tolerance * radius
        block = where(settled, s.block + 1, s.block)
        failures = where(searching, s.failures, where(helped, 0.0, s.failures + 1))
        over = block >= blocks
        last = blocks >= math.prod(p.x.shape[1:])
        level = where(over, where(last, 0.0, s.level + 1), s.level)
        block = where(over, 0.0, block)
        return State(ray, radius, known, stride, level, block, failures)

    def finished(self, p: Problem, s: State) -> Mask:
        features = math.prod(p.x.shape[1:])
        levels = math.ceil(math.log2(features))
        a_round = 2**levels - 1 + features
        stuck: Mask = s.failures >= a_round
        return stuck.logical_or(s.radius == math.inf)

    def _sides(self, p: Problem) -> Iterator[Batch]:
        """Rays (n, ...) that may be adversarial far out."""
        starts = [] if p.starts is None else [p.starts]
        if p.pool is not None and p.pool.shape[0]:
            order = nearest(p, p.pool)[:, : self.tries]
            starts += [take(p.pool, column) for column in order.T]
        # Features that a start leaves alone move to the nearer bound, the least change.
        middle = (p.bounds.lower + p.bounds.upper) / 2
        nearer_bound = where(p.x < middle, -p.bounds.width, _wide(p))
        for start in starts:
            delta = start - p.x
            yield delta
            signs = where(delta > 0, _wide(p), -p.bounds.width)
            yield where(delta == 0, nearer_bound, signs)
        yield _wide(p)
        yield -_wide(p)


def _wide(p: Problem) -> Batch:
    return p.x.zeros_like() + p.bounds.width


def _nearer(
    p: Problem, ray: Batch, radius: PerSample, side: Batch, asked: Mask
) -> tuple[Batch, PerSample]:
    """The ray that is adversarial at the smaller radius, this or another, and that."""
    reach = minimum(radius * (1 - _ROUGH), p.bounds.width)
    point = p.bounds.clip(p.x + p.norm.project(side, reach))
    moved = p.norm(point - p.x) > 0
    unspent = like(p.x, ~p.ledger.spent())
    passed = p.decide(point, asked.logical_and(moved).logical_and(unspent))
    reached = p.norm(bisect(p, point, passed, _ROUGH) - p.x)
    return where(passed, side, ray), where(passed, reached, radius)


def _block(p: Problem, s: State) -> tuple[Mask, PerSample]:
    """(n, ...) which features are in each sample's next block, and how many blocks."""
    rank = _rank(p.x.shape[1:])
    # No block is empty.
    blocks = np.minimum(2 ** to_numpy(s.level).astype(np.int64), rank.size)
    number = rank[None] * blocks[:, None] // rank.size
    inside = number == to_numpy(s.block).astype(np.int64)[:, None]
    return (
        like(p.x, inside.reshape(p.x.shape)),
        like(p.x, blocks.astype(to_numpy(s.level).dtype)),
    )


@functools.lru_cache(maxsize=8)
def _rank(shape: tuple[int, ...]) -> Array:
    """Each feature's place (features,) in an order whose every section is compact.

    The order of the leaves where the longest side of the input is halved, time after
    time.
    """
    lengths = np.array(shape, dtype=float)
    places = np.indices(shape).reshape(len(shape), -1)
    fractions = (places + 0.5) / lengths[:, None]
    key = np.zeros(places.shape[1], dtype=np.int64)
    while lengths.max(initial=0) > 1:
        axis = int(lengths.argmax())
        fractions[axis] *= 2
        upper = fractions[axis] >= 1
        fractions[axis] -= upper
        key = 2 * key + upper
        lengths[axis] /= 2
    rank = np.empty(len(key), dtype=np.int64)
    rank[np.argsort(key, kind="stable")] = np.arange(len(key))
    return rank
