"""Deep ReLU networks that compute the least or the largest of some affine functions."""

import numpy as np

from robustkit.active_tests.networks import ReluNetwork
from robustkit.active_tests.planted.base import Planted
from robustkit.active_tests.planted.draws import (
    BoundsLike,
    DType,
    Shape,
    as_bounds,
    as_shape,
    draw,
    draw_inputs,
    feature_count,
)
from robustkit.active_tests.regions import HalfSpace, Region, polyhedron
from robustkit.active_tests.scores import flat_model
from robustkit.errors import BadInput
from robustkit.numerics.tensors import Array

__all__ = ["least_network", "max_of_affines", "min_of_affines"]


def min_of_affines(
    seed: int = 0,
    *,
    samples: int = 8,
    features: Shape = 8,
    pieces: int = 5,
    bounds: BoundsLike = (0.0, 1.0),
    dtype: DType = np.float64,
    rotated: bool = False,
) -> Planted:
    """A deep ReLU network whose margin is the least of some affine functions.

    An input is adversarial in a union of half-spaces, so the truth is in closed form
    in all norms, with the box active.

    Args:
        seed: Of weights and inputs.
        samples: How many inputs.
        features: Of an input: how many, or its shape.
        pieces: How many affine functions; one more layer whenever they double.
        bounds: Of valid inputs.
        dtype: Of inputs and weights.
        rotated: Put a random orthogonal layer in front, which mixes all features.

    Raises:
        BadInput: No piece, or no such inputs.

    >>> problem = min_of_affines(seed=1, samples=4)
    >>> problem.exact("l0")
    array([1., 1., 1., 1.])
    """
    name = "min-of-affines-rotated" if rotated else "min-of-affines"
    return _planted(name, 1, seed, samples, features, pieces, bounds, dtype, rotated)


def max_of_affines(
    seed: int = 0,
    *,
    samples: int = 8,
    features: Shape = 8,
    pieces: int = 3,
    bounds: BoundsLike = (0.0, 1.0),
    dtype: DType = np.float64,
) -> Planted:
    """A deep ReLU network whose margin is the largest of some affine functions.

    An input is adversarial in a polyhedron: a linear program in L1 and Linf, a
    quadratic one in L2, a mixed-integer one in L0. Following the gradient of the piece
    that is largest leads from one piece to the next.

    Args:
        seed: Of weights and inputs.
        samples: How many inputs.
        features: Of an input: how many, or its shape.
        pieces: How many affine functions; one more layer whenever they double.
        bounds: Of valid inputs.
        dtype: Of inputs and weights.

    Raises:
        BadInput: No piece, or no such inputs.

    >>> problem = max_of_affines(seed=1, samples=4)
    >>> bool((problem.exact("l2") <= problem.exact("l1")).all())
    True
    """
    name = "max-of-affines"
    return _planted(name, -1, seed, samples, features, pieces, bounds, dtype, False)


def least_network(slopes: Array, offsets: Array, *, sign: int = 1) -> ReluNetwork:
    """The logits (s v, 0), where v is the least of slopes . x + offsets.

    min(p, q) = relu(q) - relu(-q) - relu(q - p), pair by pair.

    Args:
        slopes: (pieces, d).
        offsets: (pieces,).
        sign: s, 1 or -1.
    """
    dtype = slopes.dtype
    layers = []
    # The values so far are this affine function of the last activations.
    weight, bias = slopes, offsets
    while len(bias) > 1:
        pairs, odd = divmod(len(bias), 2)
        split = np.zeros((3 * pairs + 2 * odd, len(bias)), dtype)
        join = np.zeros((pairs + odd, len(split)), dtype)
        for pair in range(pairs):
            p, q, at = 2 * pair, 2 * pair + 1, 3 * pair
            split[at, q], split[at + 1, q] = 1, -1
            split[at + 2, q], split[at + 2, p] = 1, -1
            join[pair, at : at + 3] = 1, -1, -1
        if odd:
            split[-2, -1], split[-1, -1] = 1, -1
            join[-1, -2:] = 1, -1
        layers.append((split @ weight, split @ bias))
        weight, bias = join, np.zeros(len(join), dtype)
    last = np.array([[sign], [0]], dtype)
    layers.append((last @ weight, last @ bias))
    return ReluNetwork(layers)


def _planted(
    name: str,
    sign: int,
    seed: int,
    samples: int,
    features: Shape,
    pieces: int,
    bounds: BoundsLike,
    dtype: DType,
    rotated: bool,
) -> Planted:
    if pieces < 1:
        raise BadInput(f"expected at least 1 affine function; got {pieces}")
    rng = np.random.default_rng([seed, 2])
    box, shape = as_bounds(bounds), as_shape(features)
    count = feature_count(shape)
    slopes = (rng.normal(size=(pieces, count)) / box.width).astype(dtype)
    mixing = np.eye(count, dtype=dtype)
    if rotated:
        mixing = np.linalg.qr(rng.normal(size=(count, count)))[0].astype(dtype)
    seen = slopes.astype(np.float64) @ mixing.astype(np.float64)
    # The more pieces are on the wrong side, the more corners there are to turn.
    share = 0.2 if sign > 0 else 0.5
    levels = draw_inputs(rng, 64, count, box) @ seen.T
    offsets = -np.quantile(levels, share, axis=0).astype(dtype)
    network = least_network(slopes, offsets, sign=sign)
    if rotated:
        network = _behind(mixing, network)
    x, y = draw(rng, network, samples, count, box, dtype, accept=lambda x, y: y == 0)
    return Planted(
        name,
        flat_model(network, box, name),
        x.reshape(-1, *shape),
        y,
        None,
        [_regions(seen, offsets.astype(np.float64), sign)] * len(x),
    )


def _behind(matrix: Array, network: ReluNetwork) -> ReluNetwork:
    """A network that is shown matrix . x; v = relu(v) - relu(-v)."""
    (weight, bias), *rest = network.layers
    both = np.vstack([matrix, -matrix])
    first = (both, np.zeros(len(both), matrix.dtype))
    return ReluNetwork([first, (np.hstack([weight, -weight]), bias), *rest])


def _regions(slopes: Array, offsets: Array, sign: int) -> list[Region]:
    if sign < 0:
        return [polyhedron(-slopes, -offsets, strict=True)]
    rows = zip(slopes, offsets, strict=True)
    return [HalfSpace(slope, float(offset)) for slope, offset in rows]
