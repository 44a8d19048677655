"""Where, and at which frequencies, perturbations are strong: what probes learn."""

import functools

import numpy as np
from scipy import ndimage

from robustkit.numerics.frequencies import Subspace, low_frequencies
from robustkit.numerics.tensors import Array, Batch, like, to_numpy

__all__ = ["of_frequencies", "of_pixels"]

# Of what is learned from the perturbation, this share stays as if nothing were known.
_FLAT_FREQUENCIES, _FLAT_PIXELS = 0.05, 0.1
_BLUR = 5


def of_frequencies(delta: Batch) -> Array:
    """How strong each frequency is in perturbations, in every channel alike.

    Args:
        delta: (n, channels, *sides) or (n, features).

    Returns:
        (n, 1, 1, *sides), of bands of frequencies of one length; 1 for (n, features).
    """
    shape = tuple(delta.shape[1:])
    sides = shape[1:]
    energy = to_numpy(low_frequencies(shape, 1.0).coefficients(delta)) ** 2
    if not sides:
        return np.ones((len(energy), 1, 1), dtype=energy.dtype)
    energy = energy.mean(axis=1).reshape(len(energy), -1)
    bands, sizes = _bands(sides)
    # Bands of their own for each sample.
    places = bands + len(sizes) * np.arange(len(energy))[:, None]
    sums = np.bincount(places.ravel(), energy.ravel(), len(sizes) * len(energy))
    means = (sums.reshape(len(energy), -1) / sizes).astype(energy.dtype)
    # Laid out sample by sample, so that no rounding depends on how many there are.
    mixed = _mixed(np.take(means, bands, axis=1), _FLAT_FREQUENCIES)
    return mixed.reshape((len(energy), 1, 1, *sides))


def of_pixels(delta: Batch) -> Array:
    """How strong perturbations are where, in every channel alike, and around it.

    Args:
        delta: (n, channels, *sides) or (n, features).

    Returns:
        (n, 1, 1, *sides) or (n, 1, features).
    """
    energy = to_numpy(delta) ** 2
    if delta.ndim > 2:
        sides = delta.shape[2:]
        mean = like(delta, energy.mean(axis=1, keepdims=True))
        energy = np.maximum(to_numpy(_blur(sides).images(mean)), 0)
    mixed = _mixed(energy.reshape(len(energy), -1), _FLAT_PIXELS)
    return mixed.reshape(energy.shape)[:, None]


def _mixed(energy: Array, flat: float) -> Array:
    """Roots of rows (n, m) with the mean 1, and the share `flat` of it everywhere."""
    mean = energy.mean(axis=1, keepdims=True)
    share = (1 - flat) / np.where(mean > 0, mean, 1)
    return np.sqrt(energy * share + flat)


@functools.lru_cache(maxsize=32)
def _bands(sides: tuple[int, ...]) -> tuple[Array, Array]:
    """To which band each frequency belongs, by its length, and how many each has."""
    longest = max(sides)
    axes = [np.arange(side) * (longest / side) for side in sides]
    squares = sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij"))
    bands = np.sqrt(squares).round().astype(np.int64).ravel()
    return bands, np.maximum(np.bincount(bands), 1)


@functools.lru_cache(maxsize=32)
def _blur(sides: tuple[int, ...]) -> Subspace:
    """Of single-channel images, each pixel made of its neighbours."""
    matrices = []
    for side in sides:
        box = ndimage.uniform_filter1d(np.eye(side), _BLUR, axis=0, mode="nearest")
        matrices.append((box @ box).T)
    shape = (1, *sides)
    return Subspace(shape, shape, tuple(matrices), ())
