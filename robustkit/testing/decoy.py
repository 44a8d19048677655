"""Inputs whose nearest class is not the one that scores second."""

import functools

import numpy as np

from robustkit.active_tests.planted import Planted
from robustkit.active_tests.planted.affine import Affine
from robustkit.active_tests.planted.draws import DType, draw
from robustkit.active_tests.scores import flat_model
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.tensors import Array

__all__ = ["with_decoy"]

# The margin over the decoy falls so much more slowly than that over the nearest class,
# and this is the cosine of the two ways down.
_SLOW, _COSINE = 0.3, 0.7
# In the middle of the box, the margins over decoy, nearest class and a remote one.
_GAPS = (0.28, 0.35, 1.2)
# At the inputs, that over the decoy as a share of that over the nearest class.
_SHARES = (0.7, 0.95)


@functools.cache
def with_decoy(
    samples: int, shape: tuple[int, ...], dtype: DType, *, swapped: bool
) -> Planted:
    """A linear model of four classes, one of which scores second and is far away.

    All inputs are of class 0, and a third class is less than half as far as the decoy,
    in every norm. The way down the margin over the decoy leads towards that class as
    well, until it scores second: who follows the margin comes to turn. Who goes for one
    class, such as that which scores second at the input, or the lowest, does not.

    Args:
        samples: How many inputs.
        shape: Of an input.
        dtype: Of inputs and weights.
        swapped: The decoy is class 2 and the nearest one class 1, else the other way
            round.
    """
    rng, box = np.random.default_rng(11), Bounds()
    features = int(np.prod(shape))
    nearest, aside, remote = _unit(rng.normal(size=(3, features)))
    aside = _unit(aside - nearest * (aside @ nearest))
    decoy = _SLOW * (_COSINE * nearest + np.sqrt(1 - _COSINE**2) * aside)
    # By which class 0 is ahead of the others: these slopes, and the gaps in the middle.
    slopes = np.stack([np.zeros(features), decoy, nearest, 0.3 * remote])
    offsets = np.array([0, *_GAPS]) - slopes @ np.full(features, box.width / 2)
    order = [0, 2, 1, 3] if swapped else [0, 1, 2, 3]
    scores = Affine(-slopes[order].T.astype(dtype), -offsets[order].astype(dtype))

    def accept(x: Array, y: Array) -> Array:
        logits = scores.logits(x)
        gaps = (logits[:, :1] - logits)[:, order]
        share = gaps[:, 1] / np.maximum(gaps[:, 2], 0.2)
        wanted = (y == 0) & (gaps[:, 2] > 0.2)
        return np.asarray(wanted & (_SHARES[0] < share) & (share < _SHARES[1]))

    x, y = draw(
        rng, scores, samples, features, box, dtype, accept=accept,
        candidates=lambda count: rng.uniform(0.2, 0.8, (count, features)),
    )  # fmt: skip
    return Planted(
        "affine with a decoy",
        flat_model(scores, box, "affine with a decoy"),
        x.reshape(-1, *shape),
        y,
        None,
        [scores.regions(0, None)] * samples,
    )


def _unit(ways: Array) -> Array:
    return np.asarray(ways / np.linalg.norm(ways, axis=-1, keepdims=True))
