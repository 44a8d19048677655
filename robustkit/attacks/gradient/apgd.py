"""Auto-PGD within a given distance."""

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from robustkit.engine.attack import FixedBudget, broken
from robustkit.engine.losses import aimed_loss, get_loss
from robustkit.engine.problem import Problem
from robustkit.errors import BadInput
from robustkit.models.base import Access
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.fused import fused
from robustkit.numerics.logits import at_label
from robustkit.numerics.norms import L0, Norm
from robustkit.numerics.random import Rng
from robustkit.numerics.tensors import (
    Batch,
    Mask,
    PerSample,
    Tensor,
    choose,
    expand,
    finite_or_zero,
    flatten,
    full,
    like,
    maximum,
    minimum,
    minus,
    stack_columns,
    where,
)
from robustkit.numerics.thresholds import largest

__all__ = ["APGD"]

# Of the run: the first window between checkpoints, how much shorter each next one is,
# and the shortest.
_WINDOW, _DECREASE, _SHORTEST = 0.22, 0.03, 0.06
# A window in which no larger share of the steps improves halves the step.
_ENOUGH = 0.75
_INERTIA = 0.25
# For L1: the window, what the step is divided by, and the smallest step.
_SPARSE_WINDOW, _SPARSE_DIVISOR, _SPARSE_SMALLEST = 0.04, 1.5, 0.1
# Of a wide L1 descent: how much each of the first two parts takes of it.
_PART = 0.3


@dataclass(frozen=True)
class State:
    """Where the descent stands.

    Attributes:
        delta: (n, ...) perturbation to be asked about next, in input units.
        previous: (n, ...) the one before the last step.
        best: (n, ...) the one of the lowest loss since this descent began.
        gradient: (n, ...) of the loss there.
        lowest: (n,) the loss there.
        before: (n,) the lowest loss at the last checkpoint.
        last: (n,) the loss of the last question.
        falls: (n,) how many steps since the last checkpoint lowered the loss.
        halved: (n,) whether the step was halved at the last checkpoint.
        stepsize: (n,) as a share of the ball.
        inertia: (n,) share of the last step that is repeated.
        window: (n,) questions between the last checkpoint and the next.
        checkpoint: (n,) the number of the question that the next checkpoint follows.
        features: (n,) for L1: how many features are thought to matter.
        epsilon: (n,) largest distance allowed, in norm units.
        radius: (n,) of the ball that the descent keeps to, in norm units.
        run: (n,) the number of the run, an integer.
        order: (n, targets) the ways that the runs aim at, integers.
    """

    delta: Batch
    previous: Batch
    best: Batch
    gradient: Batch
    lowest: PerSample
    before: PerSample
    last: PerSample
    falls: PerSample
    halved: Mask
    stepsize: PerSample
    inertia: PerSample
    window: PerSample
    checkpoint: PerSample
    features: PerSample
    epsilon: PerSample
    radius: PerSample
    run: Tensor
    order: Tensor


@dataclass(frozen=True)
class APGD(FixedBudget[State]):
    """Descend with momentum, and halve the step wherever the descent stalls.

    At checkpoints, which come ever more often, the step is halved and the descent goes
    back to the best point known if too few of the last steps lowered the loss, or if
    the lowest loss has not changed since the last checkpoint. So no step size need be
    chosen. For L1, steps change a few features only; how many follows from the
    sparsity of the best point.

    Args:
        epsilon: Radius of the ball, in norm units.
        steps: How many in all; `passes` forward and backward passes each.
        loss: What to descend; a name of `robustkit.engine.losses`.
        targets: 0: one descent of the criterion's loss. Else so many shorter ones that
            share the steps, each aimed at one of the nearest single ways to meet the
            criterion (`Criterion.ways`), such as other classes; the loss is then
            "margin", "dlr" or "cross-entropy".
        random_start: Start each descent at a random point of the ball, not at the
            original or the best point known. With targets the first question is about
            the latter all the same, to rank the ways.
        passes: Average the gradient over so many passes, for models whose answers are
            random.
        wide: For L1: spend the first 60 % of each descent in balls of three times and
            twice the radius.
        stop: Stop working on a sample once an adversarial within epsilon is known.

    Source:
        Croce, Hein: Reliable Evaluation of Adversarial Robustness with an Ensemble of
        Diverse Parameter-free Attacks, ICML 2020, algorithm 1. For L1: Croce, Hein:
        Mind the Box: l1-APGD for Sparse Adversarial Attacks on Image Classifiers,
        ICML 2021, algorithm 1 and section 3.2 (`wide`).

    Differences from the paper:
        - Projections are on ball and box together, and features that stand at a bound
          and are pushed outwards take no part in the step (`Norm.stride`).
        - After going back to the best point, the momentum of the step that was undone
          is forgotten.
        - Targets are the single ways of any criterion, ranked where the descent starts.
        - Where an adversarial is known, as inside `Minimise`, the descent starts from
          it, drawn into the ball.
        - For L1 the first steps of a descent from the original change a fifth of the
          features; from elsewhere two thirds of those changed there, also after a
          random start.

    >>> import robustkit as rk, torch
    >>> model = torch.nn.Linear(2, 2, bias=False).eval()
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> x, y = torch.tensor([[0.8, 0.4]]), torch.tensor([0])
    >>> result = rk.run(APGD(epsilon=0.25), model, x, y, norm="linf")
    >>> bool(result.found[0])
    True
    """

    access: ClassVar[Access] = Access.GRADIENT
    norms: ClassVar[frozenset[str]] = frozenset({"l1", "l2", "linf"})
    cost: ClassVar[str] = "1 forward + 1 backward; 1 forward at the end"
    source: ClassVar[str] = "Croce, Hein, ICML 2020, algorithm 1"
    aside: ClassVar[int] = 1
    positive: ClassVar[tuple[str, ...]] = ("passes",)

    epsilon: float
    steps: int = 100
    loss: str = "margin"
    targets: int = 0
    random_start: bool = False
    passes: int = 1
    wide: bool = False
    stop: bool = True

    def start(self, p: Problem, epsilon: PerSample, rng: Rng) -> State:
        zero = full(p.x, 0.0)
        unknown = np.zeros((p.size, max(self.targets, 1)), dtype=np.int64)
        order = like(p.x, unknown)
        random = self.random_start and self.targets == 0
        return self._begin(
            p, epsilon, order[:, 0], order, zero, rng if random else None
        )

    def advance(self, p: Problem, s: State, progress: PerSample, rng: Rng) -> State:
        age = progress * self.steps
        s, gradient = self._look(p, s, age)
        delta, previous = s.delta, s.previous
        due = age >= s.checkpoint - 0.5
        if bool(due.any()):
            check = self._check_sparse if p.norm.name == "l1" else self._check
            s, undone = check(p, s, due)
            delta, previous = (
                where(undone, s.best, delta),
                where(undone, s.best, previous),
            )
            gradient = where(undone, s.gradient, gradient)
        move = self._move_sparse if p.norm.name == "l1" else self._move
        moved = move(p, s, delta, previous, gradient)
        s = dataclasses.replace(
            s, delta=moved, previous=delta, inertia=full(p.x, _INERTIA)
        )
        return self._turn(p, s, age + 1, rng)

    def finished(self, p: Problem, s: State) -> Mask | None:
        return broken(p, s.epsilon) if self.stop else None

    def finalise(self, p: Problem, s: State) -> None:
        p.score(p.x + s.delta)

    def check(self, p: Problem) -> None:
        super().check(p)
        if self.targets:
            aimed_loss(self.loss, full(p.x, 0.0))
        if self.steps < self.targets:
            raise BadInput(
                f"{self.targets} targets need as many steps; got {self.steps}"
            )

    def within(self, budget: int) -> Self:
        """The last question is about the point that the last step leads to."""
        steps = max((budget - self.aside) // self.passes, 1)
        targets = min(self.targets, steps)
        return dataclasses.replace(self, steps=steps, targets=targets)

    @property
    def _length(self) -> float:
        """Questions of one descent."""
        return self.steps / max(self.targets, 1)

    def _begin(
        self,
        p: Problem,
        epsilon: PerSample,
        run: Tensor,
        order: Tensor,
        age: PerSample,
        rng: Rng | None,
    ) -> State:
        """A descent whose first question is number `age`; without `rng`, not random."""
        radius = 3 * epsilon if self._wide(p) else epsilon
        delta = p.ledger.best - p.x if rng is None else _noise(p, radius, rng)
        delta = p.norm.project_box(delta, radius, p.low, p.high)
        return self._restart(p, delta, epsilon, radius, run, order, age)

    def _restart(
        self,
        p: Problem,
        delta: Batch,
        epsilon: PerSample,
        radius: PerSample,
        run: Tensor,
        order: Tensor,
        age: PerSample,
    ) -> State:
        zero, infinite = full(p.x, 0.0), full(p.x, math.inf)
        features = 0.2 * _SPARSE_DIVISOR * flatten(p.x).shape[1]
        changed = L0()(delta)
        sparse = p.norm.name == "l1"
        share = _SPARSE_WINDOW if sparse else _WINDOW
        length = self._length * (_PART if self._wide(p) else 1.0)
        window = full(p.x, max(math.floor(share * length), 1))
        return State(
            delta=delta,
            previous=delta,
            best=delta,
            gradient=delta.zeros_like(),
            lowest=infinite,
            before=infinite,
            # The first loss is no fall.
            last=-infinite,
            falls=zero,
            halved=zero == 0,
            stepsize=full(p.x, 1.0 if sparse else 2.0),
            inertia=zero,
            window=window,
            checkpoint=age + window,
            features=where(changed > 0, changed, features),
            epsilon=epsilon,
            radius=radius,
            run=run,
            order=order,
        )

    def _wide(self, p: Problem) -> bool:
        return self.wide and p.norm.name == "l1"

    def _look(self, p: Problem, s: State, age: PerSample) -> tuple[State, Batch]:
        """Ask about the present point, and note it if its loss is the lowest."""
        gradient = value = None
        for _ in range(self.passes):
            logits, pull_back = p.linearise(p.x + s.delta)
            first = age < 0.5
            if self.targets and bool(first.any()):
                order = _nearest_ways(p.criterion.ways(logits), self.targets)
                s = dataclasses.replace(s, order=where(first, order, s.order))
            loss = get_loss(self.loss)
            if self.targets:
                loss = aimed_loss(self.loss, at_label(s.order, s.run))
            one_value, slopes = loss(p.criterion, logits)
            one = finite_or_zero(pull_back(slopes))
            gradient = one if gradient is None else gradient + one
            value = one_value if value is None else value + one_value
        assert gradient is not None
        assert value is not None
        best, kept, lowest, falls = _noted(
            s.delta,
            s.best,
            gradient,
            s.gradient,
            value,
            s.lowest,
            s.last,
            s.falls,
        )
        noted = dataclasses.replace(
            s, best=best, gradient=kept, lowest=lowest, last=value, falls=falls
        )
        return noted, gradient

    def _check(self, p: Problem, s: State, due: Mask) -> tuple[State, Mask]:
        """Halve the step where the descent stalls; (n,) who goes back to the best."""
        few = s.falls <= _ENOUGH * s.window
        stuck = (s.lowest >= s.before).logical_and(s.halved.logical_not())
        halve = due.logical_and(few.logical_or(stuck))
        shorter = s.window - max(math.floor(_DECREASE * self._length), 1)
        shortest = max(math.floor(_SHORTEST * self._length), 1)
        window = where(due, maximum(shorter, shortest), s.window)
        checked = dataclasses.replace(
            s,
            stepsize=where(halve, s.stepsize / 2, s.stepsize),
            halved=where(due, halve, s.halved),
            before=where(due, s.lowest, s.before),
            falls=where(due, 0.0, s.falls),
            window=window,
            checkpoint=where(due, s.checkpoint + window, s.checkpoint),
        )
        return checked, halve

    def _check_sparse(self, p: Problem, s: State, due: Mask) -> tuple[State, Mask]:
        """Full steps where the best point became sparser, shorter ones elsewhere."""
        features = L0()(s.best)
        sparser = due.logical_and(features < 0.95 * s.features)
        shorter = maximum(s.stepsize / _SPARSE_DIVISOR, _SPARSE_SMALLEST)
        stepsize = where(due, where(sparser, 1.0, shorter), s.stepsize)
        checked = dataclasses.replace(
            s,
            stepsize=stepsize,
            features=where(due, features, s.features),
            checkpoint=where(due, s.checkpoint + s.window, s.checkpoint),
        )
        return checked, sparser

    def _move(
        self, p: Problem, s: State, delta: Batch, previous: Batch, gradient: Batch
    ) -> Batch:
        norm = p.norm
        move = _moved_at_once if norm.pure else _moved
        return move(
            norm,
            p.bounds,
            p.x,
            p.low,
            p.high,
            delta,
            previous,
            gradient,
            s.radius,
            s.stepsize,
            s.inertia,
        )

    def _move_sparse(
        self, p: Problem, s: State, delta: Batch, previous: Batch, gradient: Batch
    ) -> Batch:
        room = where(gradient > 0, delta > p.low, delta < p.high)
        steep = flatten(gradient.abs() * room.astype(gradient.dtype))
        count = maximum(s.features / _SPARSE_DIVISOR, 1.0)
        chosen = largest(steep, count).reshape(gradient.shape)
        share = s.radius * s.stepsize / count
        moved = delta - chosen * gradient.sign() * expand(share, delta)
        return p.norm.project_box(moved, s.radius, p.low, p.high)

    def _turn(self, p: Problem, s: State, age: PerSample, rng: Rng) -> State:
        """Begin the next descent, or the next part of one, where this one is over."""
        if self.targets:
            run = minimum((age + 0.5) / self._length, self.targets - 1.0)
            run = run.astype(s.run.dtype)
            over = run > s.run
            if self.random_start:
                # The first question was only there to rank the ways.
                over = over.logical_or(age < 1.5)
            if bool(over.any()):
                begun = self._begin(
                    p, s.epsilon, run, s.order, age, rng if self.random_start else None
                )
                s = choose(over, begun, s)
        if self._wide(p):
            within = (age + 0.5) / self._length - s.run.astype(age.dtype)
            early = (within < _PART).astype(age.dtype)
            middle = (within < 2 * _PART).astype(age.dtype)
            radius = s.epsilon * (1 + early + middle)
            over = radius < s.radius
            if bool(over.any()):
                drawn = p.norm.project_box(s.best, radius, p.low, p.high)
                begun = self._restart(p, drawn, s.epsilon, radius, s.run, s.order, age)
                s = choose(over, begun, s)
        return s


@fused
def _noted(
    delta: Batch,
    best: Batch,
    gradient: Batch,
    best_gradient: Batch,
    value: PerSample,
    lowest: PerSample,
    last: PerSample,
    falls: PerSample,
) -> tuple[Batch, Batch, PerSample, PerSample]:
    """The best point, its gradient and its loss, and how often the loss fell."""
    better = value < lowest
    return (
        where(better, delta, best),
        where(better, gradient, best_gradient),
        where(better, value, lowest),
        falls + (value < last).astype(value.dtype),
    )


def _moved(
    norm: Norm,
    bounds: Bounds,
    x: Batch,
    low: Batch,
    high: Batch,
    delta: Batch,
    previous: Batch,
    gradient: Batch,
    radius: PerSample,
    stepsize: PerSample,
    inertia: PerSample,
) -> Batch:
    """The step down the gradient, with a share of the last step."""
    ahead = _stepped(norm, bounds, x, delta, gradient, radius, stepsize)
    target = norm.project_box(ahead, radius, low, high)
    moved = _carried(target, delta, previous, inertia)
    return norm.project_box(moved, radius, low, high)


_moved_at_once = fused(_moved)


@fused
def _stepped(
    norm: Norm,
    bounds: Bounds,
    x: Batch,
    delta: Batch,
    gradient: Batch,
    radius: PerSample,
    stepsize: PerSample,
) -> Batch:
    stride = norm.stride(gradient, radius, stepsize, x + delta, bounds)
    return minus(delta, stride, reuse=True)


@fused
def _carried(target: Batch, delta: Batch, previous: Batch, inertia: PerSample) -> Batch:
    return target + expand(inertia, delta) * (2 * delta - previous - target)


def _noise(p: Problem, radius: PerSample, rng: Rng) -> Batch:
    """(n, ...) random perturbations, to be projected on the ball."""
    if p.norm.name == "linf":
        noise = rng.uniform(p.x.shape[1:], -1.0, 1.0)
        return noise * expand(radius, noise)
    return p.bounds.width * rng.normal(p.x.shape[1:])


def _nearest_ways(margins: Tensor, count: int) -> Tensor:
    """(n, count) the ways of the smallest margins; the nearest again where too few."""
    order = margins.argsort(axis=1)[:, :count]
    nearest = order[:, :1]
    is_open = margins.take_along_axis(order, axis=1) < math.inf
    order = where(is_open, order, nearest)
    missing = count - int(order.shape[1])
    return stack_columns([order] + [nearest] * missing)
