"""A relay of short descents that hand their points on, from norm to norm."""

import dataclasses
import itertools
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from robustkit.attacks.gradient.brendel_bethge import along_boundary
from robustkit.attacks.gradient.greedy import exchange
from robustkit.attacks.gradient.legs import Leg, plan
from robustkit.attacks.gradient.trust import Trust
from robustkit.engine.attack import Attack
from robustkit.engine.criteria import Criterion
from robustkit.engine.losses import Loss
from robustkit.engine.problem import GradientAnswer, Problem
from robustkit.errors import BadInput
from robustkit.models.base import Access
from robustkit.numerics.glide import glide
from robustkit.numerics.norms import Norm, get_norm
from robustkit.numerics.schedules import cosine
from robustkit.numerics.tensors import (
    Array,
    Batch,
    Mask,
    PerSample,
    Tensor,
    flatten,
    full,
    like,
    magnitude,
    maximum,
    minimum,
    to_numpy,
    where,
)

__all__ = ["Leg", "Relay"]

# Of a walk along the boundary: the last trust radius, as a share of the first, and the
# weight of the past in the average of the normals.
_NARROWED, _MOMENTUM = 0.05, 0.7
# How many points to look at for each step of it: more do not bring it further. Problems
# in L2 need no such search (`glide`), but walks in L2 on the way to other norms do.
_TURNS = {"linf": 5, "l2": 3, "l1": 8, "l0": 24}
# Of the best distance, the ball in which starts are compared: a start that leads to no
# more than what is known shall not win.
_NEARER = 0.99
# The ball in which something is looked for that is found nowhere yet, and how far a
# step goes there, as a share of the box.
_BALL, _ROAM = get_norm("linf"), 0.4


@dataclass(frozen=True)
class Start:
    """The best that legs have met, for one that starts there.

    Attributes:
        delta: (n, ...) perturbation.
        mark: (n,) what makes it the best, the less the better: in a search for starts
            its margin, in a walk its size. Infinite where there is none yet.
    """

    delta: Batch
    mark: PerSample

    @classmethod
    def none(cls, p: Problem) -> "Start":
        """Before anything was met."""
        return cls(p.x.zeros_like(), full(p.x, math.inf))

    def or_better(self, delta: Batch, mark: PerSample) -> "Start":
        """The better of the two for each sample."""
        better = mark < self.mark
        return Start(where(better, delta, self.delta), where(better, mark, self.mark))


@dataclass(frozen=True)
class State:
    """Where the relay stands.

    Attributes:
        delta: (n, ...) perturbation, in input units.
        normal: (n, ...) average of the boundary's normals, where it is walked along, or
            of the gradients' directions, where features are exchanged; in a search for
            starts the gradient at the best point.
        price: (n,) what the steps there cost, as `glide` has it.
        radius: (n,) of the ball that holds delta, in units of the leg's norm; of the
            trust region (an L2 length) where the boundary is walked along.
        limit: (n,) what the radius may not grow past: the size of the best adversarial
            that this leg may build on; infinite where there is none.
        largest: (n,) the size of the largest perturbation, in the leg's norm.
        ways: (n, ways) margins of the single ways at the original.
        way: (n,) integers, which of them the leg aims at.
        trust: What the gradients have been worth.
        kept: A start for a leg to come.
    """

    delta: Batch
    normal: Batch
    price: PerSample
    radius: PerSample
    limit: PerSample
    largest: PerSample
    ways: Tensor
    way: Tensor
    trust: Trust
    kept: Start


@dataclass(frozen=True)
class Relay(Attack[State]):
    """Many short descents, each from another side; the nearest adversarial counts.

    A single descent ends in the first local minimum it meets, and which start leads to
    a good one differs from model to model. So the passes are shared among legs: from
    the original, from noise, and from the best point known, towards one class after
    another; and by way of other norms. That last is what networks need whose gradients
    only lead somewhere once every feature has moved (adversarially trained or
    thresholding ones): a walk in the Linf ball finds an adversarial there, and the next
    legs shrink it in L2, L1 and L0.

    Every step of a descent is a step along the gradient, as long as a share of the
    ball, and a projection on ball and box. The ball shrinks below an adversarial to
    where the linearised margin vanishes, and grows while there is none. A walk along
    the boundary takes the steps of `BrendelBethge`; those of problems in L2 start from
    what the step before taught. For L0, some legs exchange features as `Greedy` does.
    Where the first leg found nothing, as it may if the class to be reached is far away,
    the others begin with large steps by the gradient's signs anywhere in the box; and
    so do those from the original once every way has been gone from there.

    A search for starts looks where no descent comes by. Parts of a model may be silent
    wherever descents begin and end, such as rectified units below zero, and then no
    gradient shows what they could do. Among the original's own values in random order
    some of them speak. So each try asks for the gradient there, goes to the corner of
    the ball of the best distance that it leads to, and on by the gradients there; the
    next leg starts at the point of the ball where the margin was lowest. Every other
    try adds the gradient at the best point, lest what is known be lost.

    Samples whose gradients lie (see `robustkit.attacks.gradient.trust`) are given up:
    `robustkit.auto` has another attack go on with them.

    Args:
        steps: How many; 1 forward and 1 backward pass each, and one more at the start.
        legs: None: a plan that suits the norm, the steps and whether there is one way
            to meet the criterion or several.

    Raises:
        BadInput: The legs are none.

    Source:
        This project. The descents are kin to Pintor et al., Fast Minimum-norm
        Adversarial Attacks, NeurIPS 2021; the walks are those of Brendel et al.,
        Accurate, reliable and fast robustness evaluation, NeurIPS 2019.

    >>> import robustkit as rk, torch
    >>> from robustkit.attacks.gradient.relay import Relay
    >>> model = torch.nn.Linear(2, 2, bias=False).eval()
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> x, y = torch.tensor([[0.8, 0.4]]), torch.tensor([0])
    >>> result = rk.run(Relay(steps=50), model, x, y, norm="l1")
    >>> round(float(result.distance[0]), 3)
    0.4
    """

    access: ClassVar[Access] = Access.GRADIENT
    norms: ClassVar[frozenset[str]] = frozenset({"l0", "l1", "l2", "linf"})
    cost: ClassVar[str] = "1 forward + 1 backward; the same once at the start"
    source: ClassVar[str] = "this project"
    aside: ClassVar[int] = 1

    steps: int = 100
    legs: tuple[Leg, ...] | None = None

    def __post_init__(self) -> None:
        given: Any = self.legs
        if given is None:
            return
        if not isinstance(given, tuple | list) or not all(
            isinstance(leg, Leg) for leg in given
        ):
            raise BadInput(f"legs must be a tuple or a list of `Leg`; got {given!r}")
        object.__setattr__(self, "legs", tuple(given))

    def init(self, p: Problem) -> State:
        a, ways = _surveyed(p, p.x)
        leg, _, length = self._turn(p.norm, ways, 0)
        trust, kept = Trust.unknown(p), Start.none(p)
        s = self._start(p, leg, -1, a.delta, ways, trust, kept)
        return self._next(p, s, a, leg, 0, length, -1)

    def step(self, p: Problem, s: State, t: int) -> State:
        leg, turn, length = self._turn(p.norm, s.ways, t)
        if turn == 0 and t > 0:
            trust = s.trust.silent()
            s = self._start(p, leg, t, s.delta, s.ways, trust, s.kept)
        if turn == 0 and leg.tries:
            # What comes next at the best point is what matters there.
            a, ways = _surveyed(p, p.place(s.delta))
            s = dataclasses.replace(s, normal=a.gradient, way=_choose(ways, leg.way))
        else:
            loss = "margin" if leg.way is None else _towards(s.way)
            a = p.gradient(p.place(s.delta), loss)
        return self._next(p, s, a, leg, turn, length, t)

    def given_up(self, p: Problem, s: State) -> Mask:
        return s.trust.lost

    def _start(
        self,
        p: Problem,
        leg: Leg,
        t: int,
        here: Batch,
        ways: Tensor,
        trust: Trust,
        kept: Start,
    ) -> State:
        """The state before a leg's first question; the last leg ended `here`."""
        norm = p.norm if leg.norm is None else get_norm(leg.norm)
        largest = norm(maximum(-p.low, p.high))
        limit = full(p.x, math.inf)
        delta = p.x.zeros_like()
        if leg.start == "here":
            delta = here
        elif leg.start == "best" or leg.tries:
            delta = p.ledger.best - p.x
        elif leg.start == "kept":
            delta = where(kept.mark < math.inf, kept.delta, p.ledger.best - p.x)
        elif leg.start == "middle":
            delta = (p.low + p.high) / 2
        elif leg.start == "noise":
            delta = _anywhere(p, t) if leg.along else _noise(p, t)
        radius = norm(delta)
        if not leg.along and not leg.exchange and leg.start != "here":
            if leg.norm is None:
                limit = p.ledger.distance
            elif leg.start == "best":
                limit = where(p.ledger.found, radius, limit)
            # Not zero, since it could not grow from there where the margin is zero.
            radius = where(limit < math.inf, limit, 1e-5 * largest)
        radius = norm.scale_down(radius, _NEARER if leg.tries else 1 - leg.gamma / 2)
        if leg.tries or leg.start == "kept":
            kept = Start.none(p)
        again = _again(ways, leg)
        if t > 0 and (again.any() or not p.ledger.all_found):
            # The way from the original was tried; or all were, and led nowhere.
            elsewhere = p.ledger.found.logical_not().logical_or(like(p.x, again))
            delta = where(elsewhere, _noise(p, t), delta)
            radius = where(elsewhere, largest / 2, radius)
        if not leg.along and not leg.tries:
            delta = norm.project_box(delta, radius, p.low, p.high)
        way = _choose(ways, leg.way)
        zero, price = p.x.zeros_like(), full(p.x, 1.0)
        return State(delta, zero, price, radius, limit, largest, ways, way, trust, kept)

    def _next(
        self,
        p: Problem,
        s: State,
        a: GradientAnswer,
        leg: Leg,
        turn: int,
        length: int,
        t: int,
    ) -> State:
        """The state for the next question, from the answer to the last."""
        # Far away a gradient may well be zero, or lead nowhere.
        if leg.tries:
            s = self._seek(p, s, a, leg, turn, t)
            return dataclasses.replace(s, trust=s.trust.silent())
        s = dataclasses.replace(s, trust=s.trust.judged(a))
        if leg.along:
            s = self._follow(p, s, a, leg, length, t)
        elif leg.exchange:
            s = _exchange(p, s, a, leg, turn, length)
        else:
            s = self._descend(p, s, a, leg, turn / length, t)
        if t > turn and 2 * turn < length and not p.ledger.all_found:
            # The first leg led nowhere, and the steps of others are cautious.
            s = dataclasses.replace(s, delta=self._roam(p, s, a))
        if leg.way is not None:
            return dataclasses.replace(s, trust=s.trust.silent())
        delta, trust = s.trust.foretelling(p, a, s.delta)
        return dataclasses.replace(s, delta=delta, trust=trust)

    def _seek(
        self, p: Problem, s: State, a: GradientAnswer, leg: Leg, turn: int, t: int
    ) -> State:
        """A step of a search for starts."""
        number, place = divmod(turn - 1, leg.tries)
        if turn > 0 and place > 0:
            s = dataclasses.replace(s, kept=s.kept.or_better(a.delta, a.margin))
        if place == leg.tries - 1:
            return dataclasses.replace(s, delta=_shuffled(p, t) - p.x)
        gradient = a.gradient
        if place == 0 and number % 2:
            gradient = gradient + s.normal
        stride = p.norm.stride(gradient, s.radius, 1.0, p.x, p.bounds)
        delta = p.norm.project_box(-stride, s.radius, p.low, p.high)
        return dataclasses.replace(s, delta=delta)

    def _follow(
        self, p: Problem, s: State, a: GradientAnswer, leg: Leg, length: int, t: int
    ) -> State:
        """A step along the boundary, once that is reached."""
        norm = p.norm if leg.norm is None else get_norm(leg.norm)
        size = a.distance if leg.norm is None else norm(a.delta)
        away = where(a.adversarial, size, math.inf)
        limit = minimum(s.limit, away)
        if leg.keep:
            s = dataclasses.replace(s, kept=s.kept.or_better(a.delta, away))
        flat, gradient = s.trust.flat, a.gradient
        if bool(flat.any()):
            gradient = where(flat, _noise(p, t), gradient)
        known = s.limit < math.inf
        gliding = norm.name == "l2" and leg.norm is None
        size = a.distance if gliding else magnitude(a.delta, 2)
        radius = (leg.along or 0.0) * size
        radius = where(known, s.radius * _NARROWED ** (1 / length), radius)
        momentum = where(known, full(p.x, _MOMENTUM), 0.0)
        trusted = where(limit < math.inf, radius, math.inf)
        if gliding:
            delta, normal, price = glide(
                s.normal,
                where(known, s.price, 1.0),
                a.delta,
                a.margin,
                gradient,
                momentum,
                trusted,
                p.low,
                p.high,
            )
        else:
            price = s.price
            delta, normal = along_boundary(
                p,
                norm,
                a,
                gradient,
                momentum,
                s.normal,
                trusted,
                turns=_TURNS[norm.name],
            )
        return dataclasses.replace(
            s, delta=delta, normal=normal, price=price, radius=radius, limit=limit
        )

    def _descend(
        self,
        p: Problem,
        s: State,
        a: GradientAnswer,
        leg: Leg,
        progress: float,
        t: int,
    ) -> State:
        """A step down the gradient, in a ball that shrinks below an adversarial."""
        norm = p.norm if leg.norm is None else get_norm(leg.norm)
        stepsize = cosine(progress, leg.stepsize, 0.02)
        gamma = cosine(progress, leg.gamma, 0.002)
        size = a.distance if leg.norm is None else norm(a.delta)
        gap = norm.to_boundary(a.margin, a.gradient)
        limit = where(a.adversarial, minimum(s.limit, size), s.limit)
        needed = size - norm.slack(a.margin, a.gradient, a.delta)
        shrunk = norm.shrink(minimum(s.radius, limit), needed, gamma)
        grown = minimum(norm.scale_up(s.radius, 1 + gamma), limit)
        gradient = a.gradient
        if leg.norm or leg.start == "here" or not p.ledger.all_found:
            reach = maximum(1.05 * (size + gap), norm.scale_up(s.radius, 1.3))
            grown = where(limit < math.inf, grown, reach)
            flat = gap == math.inf
            if not leg.norm and leg.start != "here":
                # Who was found is worked on as if all neighbours were, too.
                flat = flat.logical_and(p.ledger.found.logical_not())
            if bool(flat.any()):
                gradient = where(flat, _noise(p, t), gradient)
        radius = minimum(where(a.adversarial, shrunk, grown), s.largest)
        stride = norm.stride(gradient, radius, stepsize, a.point, p.bounds)
        delta = norm.project_box(a.delta - stride, radius, p.low, p.high)
        return dataclasses.replace(s, delta=delta, radius=radius, limit=limit)

    def _roam(self, p: Problem, s: State, a: GradientAnswer) -> Batch:
        """(n, ...) far down the gradient's signs where nothing is found, else as is.

        As is where they led up rather than down so far, or where all is flat.
        """
        width = full(p.x, p.bounds.width)
        stride = _BALL.stride(a.gradient, width, _ROAM, a.point, p.bounds)
        far = _BALL.project_box(a.delta - stride, width, p.low, p.high)
        blind = s.trust.flat.logical_or(s.trust.kept < 0)
        return where(p.ledger.found.logical_or(blind), s.delta, far)

    def _turn(self, norm: Norm, ways: Tensor, t: int) -> tuple[Leg, int, int]:
        """The leg of step `t`, which of its steps that is, and how many it has."""
        legs = self.legs or plan(norm.name, self.steps, ways.shape[1] == 1)
        total = sum(leg.length for leg in legs)
        ends = itertools.accumulate(leg.length * self.steps / total for leg in legs)
        first = 0
        for leg, end in zip(legs, map(round, ends), strict=True):
            if t < end:
                return leg, t - first, end - first
            first = end
        raise AssertionError("the loop took more steps than there are")


def _surveyed(p: Problem, point: Batch) -> tuple[GradientAnswer, Tensor]:
    """An answer, and the margins (n, ways) of the single ways by the same question."""
    seen: list[Tensor] = []

    def margin(criterion: Criterion, logits: Tensor) -> tuple[PerSample, Tensor]:
        seen.append(criterion.ways(logits))
        return criterion.slopes(logits)

    return p.gradient(point, margin), seen[0]


def _shuffled(p: Problem, t: int) -> Batch:
    """(n, ...) the originals' own values, each sample's in an order of its own."""
    keys = to_numpy(flatten(p.rng(t).uniform(p.x.shape[1:])))
    order = np.argsort(keys, axis=1, kind="stable")
    values = np.take_along_axis(to_numpy(flatten(p.x)), order, axis=1)
    return like(p.x, values).reshape(p.x.shape)


def _exchange(
    p: Problem, s: State, a: GradientAnswer, leg: Leg, turn: int, length: int
) -> State:
    """Features come and go by what they contribute."""
    delta, normal, radius = exchange(
        p,
        a,
        a.gradient,
        s.normal if turn > 0 else None,
        s.radius,
        cosine(turn / length, leg.stepsize, 0.02),
        cosine(turn / length, leg.gamma, 0.002),
    )
    return dataclasses.replace(s, delta=delta, normal=normal, radius=radius)


def _noise(p: Problem, t: int) -> Batch:
    """(n, ...) from one corner of the box to the opposite one."""
    return p.rng(t).uniform(p.x.shape[1:], -1.0, 1.0) * p.bounds.width


def _anywhere(p: Problem, t: int) -> Batch:
    """(n, ...) to any point of the box."""
    return p.low + (p.high - p.low) * p.rng(t).uniform(p.x.shape[1:])


def _choose(ways: Tensor, place: int | None) -> Tensor:
    """(n,) the way that comes at a place by margin, among those that are open."""
    order = np.argsort(to_numpy(ways), axis=1, kind="stable")
    column = (place or 0) % _count(ways)
    return like(ways, order[np.arange(len(order)), column])


def _again(ways: Tensor, leg: Leg) -> Array:
    """(n,) whose way from the original an earlier leg has taken: there are no more."""
    tour = leg.start == "origin" and not leg.tries
    return np.asarray(tour & (_count(ways) <= (leg.way or 0)))


def _count(ways: Tensor) -> Array:
    """(n,) how many ways are open; one at least."""
    return np.asarray(np.isfinite(to_numpy(ways)).sum(axis=1).clip(1))


def _towards(way: Tensor) -> Loss:
    def loss(criterion: Criterion, logits: Tensor) -> tuple[PerSample, Tensor]:
        return criterion.slopes_of(logits, way)

    return loss
