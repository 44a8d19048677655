"""Hypothesis strategies: problems with a known answer that shrink to readable ones.

All numbers are multiples of a quarter or an eighth, near zero where nothing asks for
more, so that a failing example can be checked by hand.

>>> from hypothesis import HealthCheck, given, settings
>>> from robustkit.testing.strategies import problems
>>> import robustkit as rk
>>> @settings(max_examples=5, suppress_health_check=list(HealthCheck), deadline=None)
... @given(problems("linf"))
... def test_nothing_is_nearer_than_the_nearest(problem):
...     found = rk.run("deepfool", problem.model, problem.x, problem.y, norm="linf")
...     assert (found.distance >= problem.exact * (1 - 1e-9)).all()
>>> test_nothing_is_nearer_than_the_nearest()
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from robustkit.active_tests.masks import MASKS
from robustkit.active_tests.planted import Planted
from robustkit.active_tests.planted.affine import Affine
from robustkit.active_tests.scores import flat_model
from robustkit.errors import BadInput, MissingPackage, suggestion
from robustkit.models.base import Model
from robustkit.numerics.bounds import Bounds, BoundsLike, as_bounds
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import Array

try:
    from hypothesis import strategies as st
except ImportError as error:
    raise MissingPackage("hypothesis", "test", "drawing of problems") from error

__all__ = ["Problem", "Threat", "batches", "masked_problems", "problems", "threats"]

_BOXES = (Bounds(0, 1), Bounds(-1, 1), Bounds(0, 255), Bounds(-3, 5))
_NORMS = ("linf", "l2", "l1", "l0")
# Those that are asked for logits as usual; "detached" has no gradients at all.
_MASKS = tuple(name for name in MASKS if name != "detached")


@dataclass(frozen=True)
class Threat:
    """What an adversary may do.

    Attributes:
        norm: The norm's name.
        epsilon: The largest perturbation, in norm units.
        bounds: Of valid inputs.
        targeted: Whether a class has to be reached.
    """

    norm: str
    epsilon: float
    bounds: Bounds
    targeted: bool


@dataclass(frozen=True, eq=False)
class Problem:
    """A linear classifier, inputs, labels, and the distance to the nearest adversarial.

    Attributes:
        weights: (features, classes).
        bias: (classes,).
        model: The scores x . weights + bias, perhaps behind a mask.
        x: (n, features) float64, within the model's bounds.
        y: (n,) int64, the classes that win there.
        exact: (n,) float64, in norm units; infinite where the box holds none.
        mask: What hides the model's scores or gradients; empty: nothing.
    """

    weights: Array
    bias: Array
    model: Model
    x: Array
    y: Array
    exact: Array
    mask: str = ""

    def __repr__(self) -> str:
        bounds = self.model.bounds
        parts = [
            f"weights={self.weights.tolist()}",
            f"bias={self.bias.tolist()}",
            f"bounds=({bounds.lower:g}, {bounds.upper:g})",
            f"x={self.x.tolist()}",
            f"y={self.y.tolist()}",
            f"exact={self.exact.tolist()}",
            *([f"mask={self.mask!r}"] if self.mask else []),
        ]
        return f"Problem({', '.join(parts)})"


@st.composite
def threats(draw: st.DrawFn, norms: tuple[str, ...] = _NORMS) -> Threat:
    """Norm, epsilon, bounds, and whether there are targets.

    Args:
        draw: Given by Hypothesis.
        norms: To choose from, the simplest first.
    """
    norm = draw(st.sampled_from([get_norm(name).name for name in norms]))
    bounds = draw(st.sampled_from(_BOXES))
    eighths = draw(st.integers(1, 8))
    epsilon = float(eighths) if norm == "l0" else eighths / 8 * bounds.width
    return Threat(norm, epsilon, bounds, draw(st.booleans()))


@st.composite
def batches(
    draw: st.DrawFn,
    bounds: BoundsLike | None = None,
    *,
    shape: tuple[int, ...] | None = None,
    least: int = 1,
    most: int = 4,
    dtype: Any = np.float64,
) -> Array:
    """Inputs (n, ...) within the bounds; many features stand at one of these.

    Args:
        draw: Given by Hypothesis.
        bounds: Of valid inputs; None: [0, 1] or others.
        shape: Of one input; None: of one to three axes.
        least: How many inputs at least.
        most: How many inputs at most.
        dtype: Of the inputs, a NumPy float dtype.
    """
    box = draw(st.sampled_from(_BOXES)) if bounds is None else as_bounds(bounds)
    if shape is None:
        shape = tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)))
    count = draw(st.integers(least, most))
    size = count * int(np.prod(shape))
    eighths = draw(st.lists(st.integers(0, 8), min_size=size, max_size=size))
    share = np.array(eighths, dtype=np.float64).reshape(count, *shape) / 8
    return np.asarray((box.lower + box.width * share).astype(dtype))


@st.composite
def problems(
    draw: st.DrawFn,
    norm: str = "l2",
    *,
    features: int = 4,
    classes: int = 3,
    samples: int = 3,
    bounds: BoundsLike | None = None,
) -> Problem:
    """Linear classifiers whose nearest adversarials are known, the box active.

    Neither an input nor a corner of the box lies on the boundary, where rounding would
    decide.

    Args:
        draw: Given by Hypothesis.
        norm: Of the distances.
        features: At most so many.
        classes: At most so many, and at least 2.
        samples: At most so many.
        bounds: Of valid inputs; None: [0, 1] or others.

    Raises:
        BadInput: When called: no such norm.
    """
    name = get_norm(norm).name
    box = draw(st.sampled_from(_BOXES)) if bounds is None else as_bounds(bounds)
    size, count = draw(st.integers(1, features)), draw(st.integers(2, classes))
    numbers = st.lists(st.integers(-3, 3), min_size=size * count, max_size=size * count)
    weights = np.array(draw(numbers), dtype=np.float64).reshape(size, count)
    weights /= box.width
    x = draw(batches(box, shape=(size,), most=samples))
    eighths = st.lists(st.integers(-12, 12), min_size=count, max_size=count)
    bias = np.array(draw(eighths), dtype=np.float64) / 8
    # Scores are eighths where inputs are, and at the box's corners. So that there are
    # no ties, the classes are set apart by less.
    bias -= np.arange(count) / 8 / 2 ** np.ceil(np.log2(count))
    scores = Affine(weights, bias)
    y = scores.logits(x).argmax(axis=1).astype(np.int64)
    planted = Planted(
        "affine",
        flat_model(scores, box, "affine"),
        x,
        y,
        None,
        [scores.regions(int(label), None) for label in y],
    )
    return Problem(weights, bias, planted.model, x, y, planted.exact(name))


@st.composite
def masked_problems(
    draw: st.DrawFn, /, norm: str = "l2", *, mask: str | None = None, **settings: Any
) -> Problem:
    """Problems behind a mask, which changes no decision and so no distance.

    Args:
        draw: Given by Hypothesis.
        norm: Of the distances.
        mask: A name of `robustkit.active_tests.masks.MASKS`; None: any that has
            gradients of a kind.
        settings: The others of `problems`.

    Raises:
        BadInput: No such mask.
    """
    if mask is not None and mask not in MASKS:
        raise BadInput(f"unknown mask '{mask}'; {suggestion(mask, MASKS)}")
    chosen = draw(st.sampled_from(_MASKS)) if mask is None else mask
    plain = draw(problems(norm, **settings))
    return Problem(
        plain.weights,
        plain.bias,
        MASKS[chosen](plain.model),
        plain.x,
        plain.y,
        plain.exact,
        chosen,
    )
