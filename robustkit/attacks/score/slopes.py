"""What is expected of a margin's slope, and what answers leave open of it."""

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from robustkit.attacks.score.square import as_images
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.frequencies import Subspace, low_frequencies
from robustkit.numerics.tensors import Array, Batch, Tensor, like, to_numpy, where

__all__ = [
    "Slopes",
    "Told",
    "expected",
    "features_of",
    "images_of",
    "sampled",
    "space_of",
    "to_blurred",
]

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
# Answers of other sizes make slopes whose squares are no numbers, or vanish.
_LEAST, _MOST = 1e-15, 1e15


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

    @classmethod
    def nothing(cls, samples: int, guesses: int, features: int, dtype: Any) -> "Told":
        """Before the first answer; room for so many guesses of each sample."""
        return cls(
            np.zeros((samples, guesses, features), dtype),
            np.zeros((samples, guesses, guesses)),
            np.zeros((samples, guesses)),
        )

    def note(self, row: int, place: int, features: Array, margin: float) -> None:
        """Write down the answer to a sample's guess number `place`."""
        self.features[row, place], self.margins[row, place] = features, margin
        products = self.features[row, : place + 1] @ features
        self.products[row, place, : place + 1] = products
        self.products[row, : place + 1, place] = products


def space_of(x: Batch) -> Subspace:
    """What smooth slopes of inputs (n, ...) are made of."""
    shape = as_images(x).shape[1:]
    # One row of features may have no order.
    return low_frequencies(shape, _SHARE) if shape[1] > 1 else _every(shape)


def expected(x: Batch, bounds: Bounds) -> Slopes:
    """What slopes are expected at inputs (n, ...), before anything is asked."""
    images = to_numpy(as_images(x))
    middle = (bounds.lower + bounds.upper) / 2
    contrast, ways = np.ones_like(images[:, :1]), [middle - images]
    if images.shape[2] > 1:
        energy = ((_blurred(images, _WINDOW) - images) ** 2).mean(axis=1, keepdims=True)
        energy = np.maximum(_blurred(energy, _WINDOW), 0)
        contrast = np.sqrt(_FLAT + (1 - _FLAT) * energy / _mean(energy))
        ways += [_blurred(images, width) - images for width in _BLURS]
    ways = [math.sqrt(_STRENGTH) * way / np.sqrt(_mean(way**2)) for way in ways]
    return Slopes(like(x, contrast), like(x, np.stack(ways, axis=1)))


def to_blurred(x: Batch, bounds: Bounds) -> Batch:
    """(n, ...) the way to a picture without details; where it has none, to grey."""
    grey = (bounds.lower + bounds.upper) / 2 - x
    images = as_images(x)
    if images.shape[2] == 1:
        return grey
    blurred = like(x, _blurred(to_numpy(images), _WINDOW)).reshape(x.shape) - x
    return where(blurred == 0, grey, blurred)


def features_of(space: Subspace, slopes: Slopes, delta: Batch) -> Array:
    """(m, features) of perturbations (m, ...), with which a slope's are multiplied."""
    images = as_images(delta)
    smooth = _mixed(to_numpy(space.coefficients(images * slopes.contrast)))
    ways = (slopes.ways * images.expand_dims(1)).sum(axis=(2, 3, 4))
    smooth = (smooth * _strengths(space)).reshape(len(smooth), -1)
    return np.concatenate([smooth, to_numpy(ways)], axis=1)


def images_of(space: Subspace, slopes: Slopes, features: Tensor) -> Batch:
    """(m, ...) the slopes that are made of features (m, features)."""
    smooth = features[:, : space.size].reshape((-1, *space.inner))
    strengths = like(features, _strengths(space)).astype(features.dtype)
    mixed = like(features, _mixed(to_numpy(smooth * strengths)))
    images = space.images(mixed) * slopes.contrast
    shares = features[:, space.size :]
    shares = shares.reshape((*shares.shape, 1, 1, 1))
    return images + (slopes.ways * shares).sum(axis=1)


def sampled(told: Told, rows: Array, count: Array, drawn: Array) -> Array:
    """(m, features) slopes drawn from what the first `count` (m,) answers leave open.

    Coefficients are normal with one unknown variance, answers linear in them from an
    unknown margin of the original on, but for a part that a linear model leaves over.
    Where all answers are the same they say that the slopes lie across what was asked
    about, and nothing of how steep they are. Slopes of tiny or huge answers are in
    units of the largest.

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
        answers, gram = _tamed(answers[valid]), told.products[row, :many, :many]
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
        scale = math.sqrt((change**2).mean() / size) or 1.0
        left = change - scale * (known @ drawn[place])[valid]
        weights = np.zeros(many)
        weights[valid] = np.linalg.solve(gram, left)
        slopes[place] = scale * drawn[place] + weights.astype(known.dtype) @ known
    return slopes


def _tamed(answers: Array) -> Array:
    """In units of the largest, where that is tiny or huge."""
    largest = abs(answers).max(initial=0)
    if largest == 0 or _LEAST < largest < _MOST:
        return answers
    return np.asarray(answers / largest)


def _mixed(coefficients: Array) -> Array:
    """Of coefficients (m, channels, ...) that are independent: with a part in common.

    The root of a covariance, and its own transpose.
    """
    own = math.sqrt(1 - _COMMON)
    mean = coefficients.mean(axis=1, keepdims=True)
    return np.asarray(own * coefficients + (1 - own) * mean)


def _blurred(images: Array, width: int) -> Array:
    """(n, channels, height, width) the mean of so many pixels a side."""
    for axis in (2, 3):
        images = ndimage.uniform_filter1d(images, width, axis, mode="nearest")
    return images


def _mean(images: Array) -> Array:
    """(n, 1, 1, 1) of each sample; 1 where that is zero."""
    mean = np.stack([one.mean(keepdims=True) for one in images])
    return np.where(mean > 0, mean, 1).astype(images.dtype)


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
