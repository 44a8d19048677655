"""At which spatial frequencies perturbations are strong."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from robustkit.numerics.tensors import Array

__all__ = ["Spectrum", "spectrum"]

_HIGHEST = 0.5
"""The highest frequency that pixels can carry along both axes, in cycles per pixel."""


@dataclass(frozen=True)
class Spectrum:
    """Power by spatial frequency, relative to that of white noise.

    Attributes:
        frequency: (m,) middles of the bins, in cycles per pixel.
        median: (m,) over images; 1: as in white noise of the same energy.
        lower: (m,) lower quartile.
        upper: (m,) upper quartile.
        count: How many images it is of.
    """

    frequency: Array
    median: Array
    lower: Array
    upper: Array
    count: int


def spectrum(images: Sequence[Array]) -> Spectrum | None:
    """The radially averaged power spectrum of images, each weighing the same.

    The power of all channels is added up and divided by its mean over all frequencies
    but zero, so that white noise has 1 everywhere. Frequency zero is left out.

    Args:
        images: Each (height, width, channels), in any unit.

    Returns:
        None where there is no image that is not flat.

    >>> noise = np.random.default_rng(0).normal(size=(50, 16, 16, 1))
    >>> bool(abs(spectrum(list(noise)).median - 1).max() < 0.5)
    True
    """
    rows = [row for row in map(_relative_power, images) if row is not None]
    if not rows:
        return None
    bins, frequency = _bins(images[0].shape[0], images[0].shape[1])
    counts = np.bincount(bins[bins >= 0], minlength=len(frequency))
    means = np.array(
        [
            np.bincount(bins[bins >= 0], row[bins >= 0], len(frequency)) / counts
            for row in rows
        ]
    )
    lower, median, upper = np.quantile(means, (0.25, 0.5, 0.75), axis=0)
    return Spectrum(frequency, median, lower, upper, len(rows))


def _relative_power(image: Array) -> Array | None:
    """(h, w) power over its mean without frequency zero; None: a flat image."""
    power = (np.abs(np.fft.fft2(image.astype(np.float64), axes=(0, 1))) ** 2).sum(2)
    rest = power.sum() - power[0, 0]
    # What is left of a flat image is rounding.
    if rest <= 1e-12 * power[0, 0] or rest == 0:
        return None
    relative: Array = power * (power.size - 1) / rest
    return relative


def _bins(height: int, width: int) -> tuple[Array, Array]:
    """(h, w) the bin of each frequency, -1 for those left out; (m,) middles."""
    across = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    count = max(min(height, width) // 2, 1)
    edges = np.linspace(0, _HIGHEST, count + 1)
    # Every frequency along an axis is the middle of a bin, or between two.
    step = edges[1]
    bins = np.floor(across / step + 0.5).astype(int) - 1
    bins[(bins < 0) | (across > _HIGHEST + step / 2)] = -1
    bins[bins >= count] = -1
    return bins, edges[1:]
