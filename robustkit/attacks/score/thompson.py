"""Thompson sampling of the margin's slope, and squares after it."""

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy import ndimage

from robustkit.attacks.score import random_search, square
from robustkit.attacks.score.sparse_rs import SparseRS
from robustkit.attacks.score.square import Square
from robustkit.engine.attack import FixedBudget, broken
from robustkit.engine.problem import Answer, Problem
from robustkit.models.base import Access
from robustkit.numerics.frequencies import Subspace, low_frequencies
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

# The lowest frequencies, as a share of each side's, that a slope is thought to have;
# at which one their strength falls off, and how fast.
_SHARE, _KNEE, _FALL = 0.25, 2.0, 1.5
# How much of a slope's variance the channels of a pixel have in common.
_COMMON = 0.5
# Contrasts are those to the mean of so many pixels a side; of what is expected where
# they are, this share is expected everywhere.
_WINDOW, _FLAT = 5, 0.2
# Pictures without their details, by the pixels a side that are averaged, and how much
# is expected of the way there.
_BLURS, _STRENGTH = (3, 9), 0.3
# Of an answer's variance, what a linear model does not explain.
_BENT = 1e-3
# The original's margin in units of the first answer's, until there are two.
_AT_FIRST = 1.4
# What a kind of question lately gained is a mean in which the last weighs so much; so
# many questions in vain, and the other kind is tried.
_LATELY, _VAIN = 0.1, 12
# Images with a side of so many pixels have room for patterns that no guess has.
_LARGE = 64


@dataclass(frozen=True)
class Slopes:
    """What is expected of each sample's slope: a sum of independent normal features.

    Attributes:
        contrast: (n, 1, ...) how strong smooth slopes are where.
        ways: (n, ways, ...) the other features.
    """

    contrast: Tensor
    ways: Tensor


@dataclass(frozen=True)
class Told:
    """What the answers about guesses said. On the host, and written over.

    Attributes:
        features: (n, guesses, features) of the guesses asked about.
        products: (n, guesses, guesses) of the features of every two.
        margins: (n, guesses) the answers.
    """

    features: Array
    products: Array
    margins: Array

    def note(self, row: int, place: int, features: Array, margin: float) -> None:
        """Write down the answer to a sample's guess number `place`."""
        self.features[row, place], self.margins[row, place] = features, margin
        products = self.features[row, : place + 1] @ features
        self.products[row, place, : place + 1] = products
        self.products[row, : place + 1, place] = products


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
        slopes = _expected(p)
        size = p.size, self.guesses, _space(p.x).size + slopes.ways.shape[1]
        features = np.zeros(size, to_numpy(p.x[:0]).dtype)
        told = Told(features, np.zeros((*size[:2], size[1])), np.zeros(size[:2]))
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
        self._search(p).check(p)
        super().check(p)

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
            first = _to_edge(p, _to_blurred(p), epsilon)
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
            features = _features(_space(p.x), slopes, moved)
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
    return min(p.x.shape[2:], default=0) >= _LARGE


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
    slopes = _sampled(
        s.told,
        rows,
        to_numpy(s.asked)[rows].astype(np.int64),
        to_numpy(rng.normal(s.told.features.shape[2:])),
    )
    down = _like(p.x, -slopes)
    images = _images(_space(p.x), take(s.slopes, rows), down)
    return images.reshape((-1, *p.x.shape[1:]))


def _sampled(told: Told, rows: Array, count: Array, drawn: Array) -> Array:
    """(m, features) slopes drawn from what the first `count` (m,) answers leave open.

    Coefficients are normal with one unknown variance, answers linear in them from an
    unknown margin of the original on, but for a part that a linear model leaves over.

    Args:
        told: The answers.
        rows: (m,) whose slopes.
        count: (m,) how many answers there are.
        drawn: (m, features) independent standard normal values.
    """
    slopes = drawn.copy()
    # Sample by sample, so that no rounding depends on the others.
    for place, (row, many) in enumerate(zip(rows, count, strict=True)):
        answers = told.margins[row, :many]
        valid = np.isfinite(answers)
        answers, gram = answers[valid], told.products[row, :many, :many]
        gram = gram[valid][:, valid]
        size = gram.trace() / max(len(gram), 1)
        if not size > 0:
            continue
        known = told.features[row, :many]
        gram[np.diag_indices(len(gram))] += _BENT * size
        ones = np.ones_like(answers)
        solved = np.linalg.solve(gram, np.stack([ones, answers], axis=1))
        at_origin = solved[:, 1].sum() / solved[:, 0].sum()
        if len(answers) == 1:
            at_origin = _AT_FIRST * answers[0]
        change = answers - at_origin
        scale = math.sqrt((change**2).mean() / size)
        left = change - scale * (known @ drawn[place])[valid]
        weights = np.zeros(many)
        weights[valid] = np.linalg.solve(gram, left)
        slopes[place] = scale * drawn[place] + weights.astype(known.dtype) @ known
    return slopes


def _features(space: Subspace, slopes: Slopes, delta: Batch) -> Array:
    """(m, features) of perturbations (m, ...), with which a slope's are multiplied."""
    images = square.as_images(delta)
    smooth = _mixed(to_numpy(space.coefficients(images * slopes.contrast)))
    ways = (slopes.ways * images.expand_dims(1)).sum(axis=(2, 3, 4))
    smooth = (smooth * _strengths(space)).reshape(len(smooth), -1)
    return np.concatenate([smooth, to_numpy(ways)], axis=1)


def _images(space: Subspace, slopes: Slopes, features: Tensor) -> Batch:
    """(m, ...) the slopes that are made of features (m, features)."""
    smooth = features[:, : space.size].reshape((-1, *space.inner))
    strengths = like(features, _strengths(space)).astype(features.dtype)
    mixed = like(features, _mixed(to_numpy(smooth * strengths)))
    images = space.images(mixed) * slopes.contrast
    shares = features[:, space.size :]
    shares = shares.reshape((*shares.shape, 1, 1, 1))
    return images + (slopes.ways * shares).sum(axis=1)


def _mixed(coefficients: Array) -> Array:
    """Of coefficients (m, channels, ...) that are independent: with a part in common.

    The root of a covariance, and its own transpose.
    """
    own = math.sqrt(1 - _COMMON)
    mean = coefficients.mean(axis=1, keepdims=True)
    return np.asarray(own * coefficients + (1 - own) * mean)


def _to_blurred(p: Problem) -> Batch:
    """(n, ...) the way to a picture without details; where it has none, to grey."""
    grey = (p.bounds.lower + p.bounds.upper) / 2 - p.x
    images = square.as_images(p.x)
    if images.shape[2] == 1:
        return grey
    blurred = like(p.x, _blurred(to_numpy(images), _WINDOW)).reshape(p.x.shape) - p.x
    return where(blurred == 0, grey, blurred)


def _expected(p: Problem) -> Slopes:
    images = to_numpy(square.as_images(p.x))
    middle = (p.bounds.lower + p.bounds.upper) / 2
    contrast, ways = np.ones_like(images[:, :1]), [middle - images]
    if images.shape[2] > 1:
        energy = ((_blurred(images, _WINDOW) - images) ** 2).mean(axis=1, keepdims=True)
        energy = np.maximum(_blurred(energy, _WINDOW), 0)
        contrast = np.sqrt(_FLAT + (1 - _FLAT) * energy / _mean(energy))
        ways += [_blurred(images, width) - images for width in _BLURS]
    ways = [math.sqrt(_STRENGTH) * way / np.sqrt(_mean(way**2)) for way in ways]
    return Slopes(like(p.x, contrast), like(p.x, np.stack(ways, axis=1)))


def _blurred(images: Array, width: int) -> Array:
    """(n, channels, height, width) the mean of so many pixels a side."""
    for axis in (2, 3):
        images = ndimage.uniform_filter1d(images, width, axis, mode="nearest")
    return images


def _mean(images: Array) -> Array:
    """(n, 1, 1, 1) of each sample; 1 where that is zero."""
    mean = np.stack([one.mean(keepdims=True) for one in images])
    return np.where(mean > 0, mean, 1).astype(images.dtype)


def _space(x: Batch) -> Subspace:
    shape = square.as_images(x).shape[1:]
    # One row of features may have no order.
    return low_frequencies(shape, _SHARE) if shape[1] > 1 else _every(shape)


@functools.lru_cache(maxsize=32)
def _every(shape: tuple[int, ...]) -> Subspace:
    return Subspace(shape, shape, (), ())


@functools.lru_cache(maxsize=32)
def _strengths(space: Subspace) -> Array:
    """(*sides) standard deviations of the coefficients, so that a feature's is 1."""
    if not space.out:
        return np.ones(space.inner[1:])

    def variances(sides: tuple[int, ...]) -> Array:
        rows, columns = np.ogrid[: sides[0], : sides[1]]
        squares = (rows**2 + columns**2) / _KNEE**2
        return np.asarray((1 + squares) ** -_FALL)

    mean = variances(space.shape[1:]).mean()
    return np.asarray(np.sqrt(variances(space.inner[1:]) / mean))
