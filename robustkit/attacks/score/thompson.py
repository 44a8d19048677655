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
class State:
    """Where the search stands.

    Attributes:
        best: The best perturbation, and the one to be asked about next.
        slopes: What slopes are expected.
        features: (n, guesses, features) of the guesses asked about.
        margins: (n, guesses) the answers.
        asked: (n,) how many of both there are.
        turn: (n,) 0 where the next question is about a guess, while there are any left.
        age: (n,) how many questions were asked, since the first ball or since the last
            one in which nothing was found.
    """

    best: random_search.State
    slopes: Slopes
    features: Tensor
    margins: Tensor
    asked: PerSample
    turn: PerSample
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

    A linear model teaches less and less. So after some questions every other one is
    about the best perturbation with a random part of it changed, as in `Square` or, for
    L0, `SparseRS`, and in the end all are. A search over the radius (`Minimise`) takes
    what was learned from one ball to the next.

    Args:
        epsilon: Radius of the ball, in norm units.
        steps: How many; 1 question each.
        guesses: So many questions are about guesses.
        alone: The first so many of them follow each other.
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
        size = self.guesses, _space(p.x).size + slopes.ways.shape[1]
        features = like(p.x, np.zeros((p.size, *size))).astype(p.x.dtype)
        asked = full(p.x, 0.0)
        best = _begun(p, epsilon)
        return State(best, slopes, features, features[:, :, 0], asked, asked, asked)

    def restart(self, p: Problem, s: State, epsilon: PerSample, rng: Rng) -> State:
        # What the answers said of slopes holds in every ball.
        age = where(p.ledger.found, s.age, 0.0)
        return dataclasses.replace(s, best=_begun(p, epsilon), turn=0 * s.turn, age=age)

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

        s = self._learned(p, s, a)
        guessing = self._guessing(s)
        # The last draw of the step, since whether there is one depends on the company.
        if guessing.any():
            way = put(delta, np.flatnonzero(guessing), _guesses(p, s, guessing, rng))
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

    def _learned(self, p: Problem, s: State, a: Answer) -> State:
        """With the answers about guesses noted, and the next turn."""
        rows = np.flatnonzero(self._guessing(s))
        features, margins, asked = s.features, s.margins, to_numpy(s.asked).copy()
        if len(rows):
            known = to_numpy(take(features, rows)).copy()
            answers = to_numpy(take(margins, rows)).copy()
            here = np.arange(len(rows)), asked[rows].astype(np.int64)
            slopes, moved = take(s.slopes, rows), take(a.delta, rows)
            known[here] = _features(_space(p.x), slopes, moved)
            answers[here] = to_numpy(a.margin)[rows]
            features = put(features, rows, like(p.x, known))
            margins = put(margins, rows, like(p.x, answers))
            asked[rows] += 1
        turn = where(like(p.x, asked < self.alone), 0.0, 1 - s.turn)
        return dataclasses.replace(
            s,
            features=features,
            margins=margins,
            asked=like(p.x, asked),
            turn=turn,
            age=s.age + 1,
        )


def _begun(p: Problem, epsilon: PerSample) -> random_search.State:
    """A search from the best adversarial known, or else towards the blurred picture."""
    epsilon = maximum(epsilon, 1.0) if isinstance(p.norm, L0) else epsilon
    first = _to_edge(p, _to_blurred(p), epsilon)
    delta = where(p.ledger.found, p.ledger.best - p.x, first)
    delta = p.norm.project_box(delta, epsilon, p.low, p.high)
    return random_search.State(delta, full(p.x, math.inf), delta, epsilon)


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


def _guesses(p: Problem, s: State, guessing: Array, rng: Rng) -> Batch:
    """(m, ...) the ways down slopes drawn for those samples where `guessing` (n,)."""
    rows = np.flatnonzero(guessing)
    slopes = _sampled(
        to_numpy(take(s.features, rows)),
        to_numpy(take(s.margins, rows)),
        to_numpy(s.asked)[rows].astype(np.int64),
        to_numpy(rng.normal(s.features.shape[2:]))[rows],
    )
    down = like(p.x, -slopes).astype(p.x.dtype)
    images = _images(_space(p.x), take(s.slopes, rows), down)
    return images.reshape((-1, *p.x.shape[1:]))


def _sampled(features: Array, margins: Array, count: Array, drawn: Array) -> Array:
    """(m, features) slopes drawn from what the first `count` (m,) answers leave open.

    Coefficients are normal with one unknown variance, answers linear in them from an
    unknown margin of the original on, but for a part that a linear model leaves over.

    Args:
        features: (m, guesses, features) of the perturbations asked about.
        margins: (m, guesses) the answers.
        count: (m,) how many of both there are.
        drawn: (m, features) independent standard normal values.
    """
    slopes = np.empty_like(drawn)
    # Sample by sample, so that no rounding depends on the others.
    for row, many in enumerate(count):
        known, answers = features[row, :many], margins[row, :many].astype(float)
        valid = np.isfinite(answers)
        known, answers = known[valid].astype(float), answers[valid]
        if len(answers) == 0:
            slopes[row] = drawn[row]
            continue
        gram = known @ known.T
        size = gram.trace() / len(gram)
        if not size > 0:
            slopes[row] = drawn[row]
            continue
        gram[np.diag_indices(len(gram))] += _BENT * size
        ones = np.ones_like(answers)
        solved = np.linalg.solve(gram, np.stack([ones, answers], axis=1))
        at_origin = solved[:, 1].sum() / solved[:, 0].sum()
        if len(answers) == 1:
            at_origin = _AT_FIRST * answers[0]
        change = answers - at_origin
        scale = math.sqrt((change**2).mean() / size)
        left = change - scale * (known @ drawn[row])
        slopes[row] = scale * drawn[row] + known.T @ np.linalg.solve(gram, left)
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
