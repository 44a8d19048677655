"""Thompson sampling of the margin's slope, and squares beside it."""

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from robustkit.attacks.score import random_search
from robustkit.attacks.score.slopes import (
    Slopes,
    Told,
    expected,
    features_of,
    images_of,
    sampled,
    space_of,
    to_blurred,
)
from robustkit.attacks.score.sparse_rs import SparseRS
from robustkit.attacks.score.square import Square, as_images
from robustkit.engine.attack import FixedBudget, broken
from robustkit.engine.problem import Answer, Problem
from robustkit.models.base import Access
from robustkit.numerics.norms import L0
from robustkit.numerics.random import Rng
from robustkit.numerics.tensors import (
    Array,
    Batch,
    Mask,
    PerSample,
    Tensor,
    expand,
    flatten,
    full,
    like,
    maximum,
    put,
    take,
    to_numpy,
    where,
)
from robustkit.numerics.thresholds import largest, nonzero

__all__ = ["Thompson"]

# What a kind of question lately gained is a mean in which the last weighs so much; so
# many questions in vain, and the other kind is tried.
_LATELY, _VAIN = 0.1, 12
# Images with a side of so many pixels have room for patterns that no guess has.
_LARGE = 64


@dataclass(frozen=True)
class State:
    """Where the search stands.

    Attributes:
        best: The best perturbation, and the one to be asked about next.
        slopes: What slopes are expected.
        told: The answers about guesses.
        asked: (n,) how many of these there are.
        turn: (n,) 0 where the next question is about a guess, while there are any left;
            1 where it is about a change.
        vain: (n,) questions since the last that lowered the margin, or since the other
            kind was tried.
        gain: (n, 2) by how much a guess and a change lately lowered the margin.
        age: (n,) how many questions were asked, since the first ball or since the last
            one in which nothing was found.
    """

    best: random_search.State
    slopes: Slopes
    told: Told
    asked: PerSample
    turn: PerSample
    vain: PerSample
    gain: Tensor
    age: PerSample


@dataclass(frozen=True)
class Thompson(FixedBudget[State]):
    """Guess the margin's slope from all answers so far, and go to the edge of the ball.

    At first the margin is taken for a linear function of the perturbation, whose slope
    is normally distributed: smooth, alike in a pixel's channels, stronger where the
    picture has contrasts, and with a share along the way to a picture without details.
    Every answer says how steep it is in one direction. Each question is about the best
    point of the ball for a slope drawn at random from those that agree with the answers
    (Thompson sampling), so that what is not known is tried and what is known is used.
    The first is about the way to the blurred picture.

    A linear model teaches less and less, and of some networks it teaches nothing. Other
    questions are about the best perturbation with a random part of it changed, as in
    `Square` or, for L0, `SparseRS`. The next one is of the kind that has lately lowered
    the margin more; the other is tried after some in vain. After some guesses none
    follows another, and in the end all are changes. Large images begin as in `Square`.
    A search over the radius (`Minimise`) takes what was learned from one ball to the
    next.

    Args:
        epsilon: Radius of the ball, in norm units.
        steps: How many; 1 question each.
        guesses: So many questions are about guesses.
        alone: Only the first so many of them may follow each other.
        share: Of the perturbation, that the first changes would replace, had they come
            at once.
        stop: Stop working on a sample once an adversarial within epsilon is known.

    Source:
        The sampling: Thompson, Biometrika 1933, for linear functions Agrawal, Goyal,
        ICML 2013. As an attack this project's. Random changes: Andriushchenko et al.,
        ECCV 2020; Croce et al., AAAI 2022.

    >>> import robustkit as rk, torch
    >>> model = torch.nn.Linear(2, 2, bias=False).eval()
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> x, y = torch.tensor([[0.8, 0.4]]), torch.tensor([0])
    >>> result = rk.run(Thompson(epsilon=0.25, steps=20), model, x, y, norm="linf")
    >>> bool(result.found[0])
    True
    """

    access: ClassVar[Access] = Access.SCORE
    norms: ClassVar[frozenset[str]] = frozenset({"l0", "l1", "l2", "linf"})
    cost: ClassVar[str] = "1 forward"
    source: ClassVar[str] = "ours, with the changes of Square and Sparse-RS"
    positive: ClassVar[tuple[str, ...]] = ("guesses",)

    epsilon: float
    steps: int = 5000
    guesses: int = 100
    alone: int = 50
    share: float = 0.8
    stop: bool = True

    def start(self, p: Problem, epsilon: PerSample, rng: Rng) -> State:
        slopes = expected(p.x, p.bounds)
        features = space_of(p.x).size + slopes.ways.shape[1]
        dtype = to_numpy(p.x[:0]).dtype
        told = Told.nothing(p.size, self.guesses, features, dtype)
        # Until one was tried a guess is thought to gain much, and a change nothing.
        gain = _like(p.x, np.tile([0.0 if _large(p) else math.inf, 0.0], (p.size, 1)))
        none = full(p.x, 0.0)
        best, turn = self._begun(p, epsilon, rng)
        return State(best, slopes, told, none, turn, none, gain, none)

    def restart(self, p: Problem, s: State, epsilon: PerSample, rng: Rng) -> State:
        # What the answers said of slopes holds in every ball.
        age = where(p.ledger.found, s.age, 0.0)
        best, turn = self._begun(p, epsilon, rng)
        return dataclasses.replace(s, best=best, turn=turn, age=age)

    def advance(self, p: Problem, s: State, progress: PerSample, rng: Rng) -> State:
        a = p.score(p.x + s.best.proposal)
        better = a.margin < s.best.margin
        delta = where(better, a.delta, s.best.delta)
        margin = where(better, a.margin, s.best.margin)
        epsilon = s.best.epsilon
        if p.norm.name == "l2":
            # A search in another ball starts from what was found in this one, for which
            # large changes have had their time. (In L1 that costs distance.)
            progress = s.age / self.steps
        proposal = self._search(p).propose(p, delta, epsilon, progress, rng)

        s = self._turned(p, self._learned(p, s, a), a, self._guessing(s))
        guessing = self._guessing(s)
        if guessing.any():
            rows = np.flatnonzero(guessing)
            way = put(delta, rows, _guesses(p, s, rows, rng.of(rows)))
            proposal = where(like(p.x, guessing), _to_edge(p, way, epsilon), proposal)
        best = random_search.State(delta, margin, proposal, epsilon)
        return dataclasses.replace(s, best=best)

    def finished(self, p: Problem, s: State) -> Mask | None:
        return broken(p, s.best.epsilon) if self.stop else None

    def check(self, p: Problem) -> None:
        super().check(p)
        self._search(p).check(p)

    def _search(self, p: Problem) -> Square | SparseRS:
        if isinstance(p.norm, L0):
            return SparseRS(self.epsilon, self.steps, self.share)
        # Small pyramids bring little in few questions.
        rescale = p.norm.name == "linf"
        return Square(self.epsilon, self.steps, self.share, rescale)

    def _guessing(self, s: State) -> Array:
        """(n,) booleans: whose question is about a guess."""
        left = to_numpy(s.asked) < self.guesses
        return np.asarray(left & (to_numpy(s.turn) == 0))

    def _begun(
        self, p: Problem, epsilon: PerSample, rng: Rng
    ) -> tuple[random_search.State, PerSample]:
        """A search from the best adversarial known, or else from a first attempt.

        Also the kind (n,) of its first question.
        """
        search, kind = self._search(p), 0.0
        if isinstance(search, Square) and _large(p):
            first, kind = search.first(p, epsilon, rng), 1.0
        else:
            epsilon = maximum(epsilon, 1.0) if isinstance(p.norm, L0) else epsilon
            first = _to_edge(p, to_blurred(p.x, p.bounds), epsilon)
        delta = where(p.ledger.found, p.ledger.best - p.x, first)
        delta = p.norm.project_box(delta, epsilon, p.low, p.high)
        best = random_search.State(delta, full(p.x, math.inf), delta, epsilon)
        return best, full(p.x, kind)

    def _learned(self, p: Problem, s: State, a: Answer) -> State:
        """With the answers about guesses noted."""
        margin, asked = to_numpy(a.margin), to_numpy(s.asked).astype(np.int64)
        rows = np.flatnonzero(self._guessing(s))
        if len(rows):
            slopes, moved = take(s.slopes, rows), take(a.delta, rows)
            features = features_of(space_of(p.x), slopes, moved)
            for row, values in zip(rows.tolist(), features, strict=True):
                s.told.note(row, asked[row], values, margin[row])
            asked[rows] += 1
        return dataclasses.replace(s, asked=_like(p.x, asked), age=s.age + 1)

    def _turned(self, p: Problem, s: State, a: Answer, guessed: Array) -> State:
        """With the kind of the next question."""
        margin, before = to_numpy(a.margin), to_numpy(s.best.margin)
        gain = to_numpy(s.gain).copy()
        kind = np.arange(p.size), np.where(guessed, 0, 1)
        # What the first question in a ball gained is not known.
        with np.errstate(invalid="ignore"):
            gained = np.maximum(before, margin) - margin
            mean = np.where(gain[kind] < math.inf, gain[kind], gained)
            mean = mean + _LATELY * (gained - mean)
        gain[kind] = np.where(np.isfinite(gained), mean, gain[kind])

        ahead = gain[:, 1] - gain[:, 0]
        changing = ahead >= 0 if _large(p) else ahead > 0
        vain = np.where(gained > 0, 0, to_numpy(s.vain) + 1)
        tired = vain >= _VAIN
        alone = guessed & (to_numpy(s.asked) >= self.alone)
        return dataclasses.replace(
            s,
            turn=_like(p.x, (changing ^ tired) | alone),
            vain=_like(p.x, np.where(tired, 0, vain)),
            gain=_like(p.x, gain),
        )


def _large(p: Problem) -> bool:
    return min(as_images(p.x).shape[2:]) >= _LARGE


def _like(x: Batch, values: Array) -> Tensor:
    """Values on the host in the framework and the dtype of `x`."""
    return like(x, values).astype(x.dtype)


def _to_edge(p: Problem, way: Batch, epsilon: PerSample) -> Batch:
    """The perturbation (n, ...) of ball and box that goes farthest along a way."""
    if isinstance(p.norm, L0):
        room = where(way > 0, p.high, where(way < 0, p.low, 0 * way))
        gain = p.norm.summed(way * room)
        return room * largest(flatten(gain), epsilon).reshape(gain.shape)
    if p.norm.name == "linf":
        delta = way.sign() * expand(epsilon, way)
    else:
        # So far out that what the box cuts off goes to other features.
        delta = way * expand(4 * epsilon / nonzero(p.norm(way)), way)
    return p.norm.project_box(delta, epsilon, p.low, p.high)


def _guesses(p: Problem, s: State, rows: Array, rng: Rng) -> Batch:
    """(m, ...) the ways down slopes drawn for the samples `rows` (m,)."""
    slopes = sampled(
        s.told,
        rows,
        to_numpy(s.asked)[rows].astype(np.int64),
        to_numpy(rng.normal(s.told.features.shape[2:])),
    )
    down = _like(p.x, -slopes)
    images = images_of(space_of(p.x), take(s.slopes, rows), down)
    return images.reshape((-1, *p.x.shape[1:]))
