"""Subspaces of smooth perturbations: low frequencies, or images made larger.

A network's decisions often depend more on smooth changes than on noise, and a search
among few coefficients needs fewer questions. A subspace acts along every axis after
the first, which is taken to be the channels: height and width of (channels, height,
width), the length of (channels, length). Inputs that are one row of features have no
such axis, and often no order, so for them the subspace is the whole space.
"""

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import fft

from robustkit.errors import BadInput
from robustkit.numerics.tensors import Array, Tensor, like, matmul

__all__ = ["Subspace", "low_frequencies", "resized"]


@dataclass(frozen=True, eq=False)
class Subspace:
    """Perturbations made of fewer coefficients, by one matrix per axis.

    Args:
        shape: Of one input, such as (channels, height, width).
        inner: Of its coefficients, such as (channels, rows, columns).
        out: From coefficients to features, (inner size, outer size) for each axis
            after the first.
        back: From features to coefficients, (outer size, inner size) each.
    """

    shape: tuple[int, ...]
    inner: tuple[int, ...]
    out: tuple[Array, ...]
    back: tuple[Array, ...]

    @property
    def size(self) -> int:
        """How many coefficients there are."""
        return math.prod(self.inner)

    def images(self, coefficients: Tensor) -> Tensor:
        """The perturbations (..., *shape) of coefficients (..., *inner)."""
        return _along_axes(coefficients, self.inner, self.out)

    def coefficients(self, images: Tensor) -> Tensor:
        """The coefficients (..., *inner) of perturbations (..., *shape).

        Where a perturbation is not in the subspace, of the nearest that is.
        """
        return _along_axes(images, self.shape, self.back)


@functools.lru_cache(maxsize=32)
def low_frequencies(shape: tuple[int, ...], share: float) -> Subspace:
    """The lowest frequencies of an orthonormal cosine transform (type 2).

    Coefficients have the length of their perturbation: an isometry.

    Args:
        shape: Of one input.
        share: Of each side's frequencies to keep, 0 < share <= 1; at least one.

    Raises:
        BadInput: No such share.

    >>> low_frequencies((3, 32, 32), 0.25).inner
    (3, 8, 8)
    """
    outer, inner = _sizes(shape, share)
    out = tuple(
        fft.dct(np.eye(size), norm="ortho", axis=0)[:kept]
        for size, kept in zip(outer, inner, strict=True)
    )
    return Subspace(shape, (*shape[:1], *inner), out, tuple(matrix.T for matrix in out))


@functools.lru_cache(maxsize=32)
def resized(shape: tuple[int, ...], share: float) -> Subspace:
    """Smaller images, made larger by linear interpolation between their pixels.

    Pixels are squares with their values in the middle; beyond the outermost middles
    values stay as they are there.

    Args:
        shape: Of one input.
        share: Of each side, 0 < share <= 1; at least one pixel.

    Raises:
        BadInput: No such share.

    >>> resized((1, 4, 4), 0.5).out[0].T.tolist()
    [[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]]
    """
    outer, inner = _sizes(shape, share)
    out = []
    for size, kept in zip(outer, inner, strict=True):
        place = (np.arange(size) + 0.5) * kept / size - 0.5
        place = place.clip(0, kept - 1)
        out.append(np.maximum(1 - np.abs(place - np.arange(kept)[:, None]), 0.0))
    back = tuple(np.linalg.pinv(matrix) for matrix in out)
    return Subspace(shape, (*shape[:1], *inner), tuple(out), back)


def _sizes(
    shape: tuple[int, ...], share: float
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if not 0 < share <= 1:
        raise BadInput(
            f"the share of each side must be above 0 and at most 1; got {share}"
        )
    outer = shape[1:]
    return outer, tuple(max(round(share * size), 1) for size in outer)


def _along_axes(
    x: Tensor, shape: tuple[int, ...], matrices: tuple[Array, ...]
) -> Tensor:
    """`x` (..., *shape) with each axis but the first multiplied by its matrix."""
    if not matrices:
        return x
    leading = x.shape[: x.ndim - len(shape)]
    sizes = list(shape)
    for axis in range(len(matrices), 0, -1):
        matrix = matrices[axis - 1].astype(_dtype(x))
        size, new = matrix.shape
        if axis == len(matrices):
            # All rows of a sample in one product.
            rows = x.reshape((leading[0] if leading else 1, -1, size))
            x = matmul(rows, like(x, matrix))
        else:
            columns = x.reshape((-1, size, math.prod(sizes[axis + 1 :])))
            x = matmul(like(x, matrix.T), columns)
        sizes[axis] = new
    return x.reshape((*leading, *sizes))


def _dtype(x: Tensor) -> type[np.floating[Any]]:
    return np.float64 if "64" in str(x.dtype) else np.float32
