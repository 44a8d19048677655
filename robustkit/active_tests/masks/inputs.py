"""Masks of the input, under which the truth of half-spaces stays known."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import LinearConstraint, brentq

from robustkit.active_tests.planted.base import Planted
from robustkit.active_tests.regions import HalfSpace, Region
from robustkit.errors import BadInput
from robustkit.models.base import Model, PullBack, Wrapper
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.integer_programs import milp
from robustkit.numerics.random import Rng, sample_keys
from robustkit.numerics.tensors import Array, Batch, Tensor, like, to_numpy

__all__ = ["noisy_input", "quantised", "shattered"]


class _Seen(Wrapper):
    """A model that is shown a function of each feature.

    Args:
        model: To be masked.
        name: Of the mask.
        seen: What is shown instead of inputs (n, ...), in NumPy.
        slope: Its derivative there (n, ...).
    """

    def __init__(
        self,
        model: Model,
        name: str,
        seen: Callable[[Array], Array],
        slope: Callable[[Array], Array],
    ) -> None:
        super().__init__(model)
        self.name, self._mask = f"{model.name}, {name}", name
        self._seen, self._slope = seen, slope

    def logits(self, x: Batch) -> Tensor:
        return self._model.logits(self._shown(x))

    def linearise(self, x: Batch) -> tuple[Tensor, PullBack]:
        logits, pull_back = self._model.linearise(self._shown(x))
        slope = like(x, self._slope(to_numpy(x))).astype(x.dtype)
        return logits, lambda slopes: pull_back(slopes) * slope

    def _around(self, model: Model, *others: Model) -> Model:
        return _Seen(model, self._mask, self._seen, self._slope)

    def _shown(self, x: Batch) -> Batch:
        return like(x, self._seen(to_numpy(x))).astype(x.dtype)


@dataclass(frozen=True, eq=False)
class _Quantised(Region):
    """The points that are rounded into a half-space, edges included."""

    half: HalfSpace
    levels: int

    def nearest(self, x: Array, norm: str, bounds: Bounds) -> Array | None:
        step = bounds.width / self.levels
        place = np.round((x - bounds.lower) / step)
        margin = self.half.margin(bounds.lower + place * step)
        if margin <= 0:
            return x.copy()
        slope = self.half.slope
        down = slope > 0
        steps = np.where(slope == 0, 0, np.where(down, place, self.levels - place))
        # One move for every level that a feature can be brought to: its cost, what
        # it gains, and where it ends, on the edge of the level's cell.
        feature = np.repeat(np.arange(len(x)), steps.astype(int))
        number = np.concatenate([np.arange(1, s + 1) for s in steps.astype(int)])
        sign = np.where(down[feature], -1.0, 1.0)
        edge = bounds.lower + (place[feature] + sign * (number - 0.5)) * step
        cost = np.abs(edge - x[feature])
        gain = np.abs(slope[feature]) * step * number
        if np.abs(slope * steps * step).sum() < margin:
            return None
        choose = {"linf": _by_pace, "l0": _by_gain}.get(norm, _by_program)
        moves = choose(feature, number, cost if norm != "l2" else cost**2, gain, margin)
        point = x.copy()
        point[feature[moves]] = edge[moves]
        return point


def _by_pace(
    feature: Array, number: Array, cost: Array, gain: Array, margin: float
) -> Array:
    """The last moves of all features whose cost is below the least that suffices."""
    single = gain / number
    order = np.argsort(cost, kind="stable")
    needed = int(np.searchsorted(np.cumsum(single[order]), margin * (1 - 1e-15)))
    made = order[: min(needed, len(order) - 1) + 1]
    return _last_of_each(feature, number, made)


def _by_gain(
    feature: Array, number: Array, cost: Array, gain: Array, margin: float
) -> Array:
    """Few features, those that gain most, as far as they go."""
    ends = _last_of_each(feature, number, np.arange(len(feature)))
    order = ends[np.argsort(-gain[ends], kind="stable")]
    before = np.cumsum(gain[order]) - gain[order]
    return np.asarray(order[before < margin])


def _by_program(
    feature: Array, number: Array, cost: Array, gain: Array, margin: float
) -> Array:
    """The cheapest choice of at most one level for each feature.

    A solver may take a choice that gains not quite enough, which is then excluded.
    """
    once = (feature[None, :] == np.unique(feature)[:, None]).astype(float)
    rules = [
        LinearConstraint(once, ub=1),
        LinearConstraint(gain[None, :] / margin, lb=1),
    ]
    while True:
        found = milp(
            cost,
            integrality=np.ones(len(cost)),
            bounds=(0, 1),
            constraints=rules,
            options={"mip_rel_gap": 0.0},
        )
        if found.status != 0:
            raise RuntimeError(f"the solver gave up: {found.message}")
        chosen = found.x > 0.5
        if gain[chosen].sum() >= margin * (1 - 1e-12):
            return np.flatnonzero(chosen)
        taken = chosen.astype(float)[None, :]
        rules.append(LinearConstraint(taken, ub=taken.sum() - 1))


def _last_of_each(feature: Array, number: Array, made: Array) -> Array:
    """Of the moves made, each feature's farthest."""
    order = made[np.argsort(number[made], kind="stable")]
    last = {int(feature[move]): int(move) for move in order}
    return np.array(list(last.values()), dtype=int)


def quantised(
    problem: Planted, levels: int = 16, *, straight_through: bool = False
) -> Planted:
    """Inputs rounded to a grid before the model sees them; gradients are zero.

    The truth is exact: in Linf by looking at the edges one after the other, in L0 by
    the largest gains, in L1 and L2 by an integer program over which level each feature
    is brought to. In Linf it is within half a step of the truth without a mask, where
    the box is not in the way. Samples that rounding itself makes adversarial are
    dropped.

    Args:
        problem: Untargeted, of a family whose regions are half-spaces: affine, or the
            least of affine functions.
        levels: How many steps of the grid make the width of the box.
        straight_through: Gradients as if there were no rounding.

    Raises:
        BadInput: Another family, fewer than 1 level, or no sample is left.

    >>> from robustkit.active_tests.planted import affine
    >>> problem = affine(samples=4)
    >>> plain, masked = problem.exact("linf"), quantised(problem).exact("linf")
    >>> bool((abs(masked - plain) <= 1 / 32 + 1e-9).all())
    True
    """
    if levels < 1:
        raise BadInput(f"a grid needs at least 1 step; got {levels}")
    box = problem.bounds
    step = box.width / levels

    def seen(x: Array) -> Array:
        return np.asarray(box.lower + np.round((x - box.lower) / step) * step)

    def slope(x: Array) -> Array:
        return np.full_like(x, float(straight_through))

    model = _Seen(problem.model, f"input in {levels} steps", seen, slope)
    regions = [
        [_Quantised(half, levels) for half in _half_spaces(problem, union)]
        for union in problem.regions
    ]
    return _without_losers(
        Planted(
            f"{problem.name}, quantised", model, problem.x, problem.y, None, regions
        )
    )


@dataclass(frozen=True, eq=False)
class _Shattered(Region):
    """The points that x + amplitude sin(frequency x) takes into a half-space."""

    half: HalfSpace
    amplitude: float
    frequency: float

    @property
    def norms(self) -> frozenset[str]:
        return frozenset({"l0", "linf"})

    def seen(self, x: Array) -> Array:
        return np.asarray(x + self.amplitude * np.sin(self.frequency * x))

    def nearest(self, x: Array, norm: str, bounds: Bounds) -> Array | None:
        margin = self.half.margin(self.seen(x))
        if margin <= 0:
            return x.copy()
        ends = self._best(x, bounds.width, bounds)
        gain = self.half.slope * (self.seen(x) - self.seen(ends))
        if gain.sum() < margin:
            return None
        if norm == "l0":
            order = np.argsort(-gain, kind="stable")
            before = np.cumsum(gain[order]) - gain[order]
            point = x.copy()
            moving = order[before < margin]
            point[moving] = ends[moving]
            return point

        def left(step: float) -> float:
            return self.half.margin(self.seen(self._best(x, step, bounds)))

        rounding = float(np.finfo(np.float64).eps)
        step = brentq(left, 0.0, bounds.width, xtol=1e-300, rtol=4 * rounding)
        return self._best(x, step, bounds)

    def _best(self, x: Array, step: float, bounds: Bounds) -> Array:
        """For each feature, by moves of at most `step`, what lowers the margin most."""
        low = np.maximum(x - step, bounds.lower)
        high = np.minimum(x + step, bounds.upper)
        candidates = [x, low, high]
        steep = self.amplitude * self.frequency
        if abs(steep) > 1:
            # Where the derivative 1 + steep cos(frequency x) is zero.
            turn = np.arccos(-1 / steep)
            period = 2 * np.pi / self.frequency
            count = int(np.ceil(2 * step / period)) + 1
            for root in (turn / self.frequency, -turn / self.frequency):
                first = root + np.ceil((low - root) / period) * period
                for turns in range(count):
                    candidates.append(np.clip(first + turns * period, low, high))
        points = np.stack(candidates)
        value = self.half.slope * self.seen(points)
        return np.asarray(points[value.argmin(axis=0), np.arange(len(x))])


def shattered(
    problem: Planted, amplitude: float = 0.02, frequency: float = 200.0
) -> Planted:
    """Each feature seen as x + a sin(f x): gradients of random sign.

    The truth is exact in Linf, since the best that each feature can do within a step is
    known, and in L0. In Linf it is within the amplitude of the truth without a mask,
    where the box is not in the way. Samples that the mask itself makes adversarial are
    dropped.

    Args:
        problem: Untargeted, of a family whose regions are half-spaces: affine, or the
            least of affine functions.
        amplitude: a, as a share of the box's width.
        frequency: f, per width of the box; gradients change their sign where a f > 1.

    Raises:
        BadInput: Another family, a frequency not above 0, or no sample is left.

    >>> from robustkit.active_tests.planted import affine
    >>> problem = affine(samples=4)
    >>> plain, masked = problem.exact("linf"), shattered(problem).exact("linf")
    >>> bool((abs(masked - plain) <= 0.02 + 1e-9).all())
    True
    """
    if not frequency > 0:
        raise BadInput(f"the frequency must be above 0; got {frequency}")
    width = problem.bounds.width
    size, rate = amplitude * width, frequency / width

    def seen(x: Array) -> Array:
        return np.asarray(x + size * np.sin(rate * x))

    def slope(x: Array) -> Array:
        return np.asarray(1 + size * rate * np.cos(rate * x))

    model = _Seen(problem.model, "shattered", seen, slope)
    regions = [
        [_Shattered(half, size, rate) for half in _half_spaces(problem, union)]
        for union in problem.regions
    ]
    return _without_losers(
        Planted(
            f"{problem.name}, shattered", model, problem.x, problem.y, None, regions
        )
    )


class _NoisyInput(_Seen):
    """A model that is shown its input and noise, other noise in every pass."""

    def __init__(self, model: Model, sigma: float, seed: int) -> None:
        super().__init__(
            model, f"input noise {sigma:g}", self._with_noise, np.ones_like
        )
        self._sigma, self._seed, self._passes = sigma, seed, 0

    def _around(self, model: Model, *others: Model) -> Model:
        return _NoisyInput(model, self._sigma, self._seed)

    def _with_noise(self, x: Array) -> Array:
        rng = Rng(self._seed, sample_keys(x), self._passes, self._model.to_tensor(x))
        self._passes += 1
        return np.asarray(x + self._sigma * to_numpy(rng.normal(x.shape[1:])))


def noisy_input(problem: Planted, sigma: float = 0.1, seed: int = 0) -> Planted:
    """Gaussian noise on the input, drawn anew in every pass and not clipped.

    With two linear classes the truth is that of the majority of many passes: a point
    at the margin m is classified as without noise with the probability
    Phi(m / (sigma |a|_2)), a half on the boundary. One pass alone may be lucky, so an
    adversarial has to be judged by a vote.

    Args:
        problem: Linear with two classes.
        sigma: Standard deviation, as a share of the box's width.
        seed: Of the noise.

    Raises:
        BadInput: Another problem, or a sigma not above 0.

    >>> from robustkit.active_tests.planted import affine
    >>> noisy = noisy_input(affine(classes=2, samples=2))
    >>> x = noisy.model.to_tensor(noisy.x)
    >>> bool((noisy.model.logits(x) == noisy.model.logits(x)).any())
    False
    """
    single = all(
        len(union) == 1 and isinstance(union[0], HalfSpace) for union in problem.regions
    )
    if not single:
        raise BadInput(
            "the majority's truth is known for a linear classifier of two classes; got "
            f"'{problem.name}'"
        )
    if not sigma > 0:
        raise BadInput(f"sigma must be above 0; got {sigma}")
    model = _NoisyInput(problem.model, sigma * problem.bounds.width, seed)
    return problem.with_model(model, f"{problem.name}, noisy input")


def _half_spaces(problem: Planted, union: Any) -> list[HalfSpace]:
    if not all(isinstance(region, HalfSpace) for region in union):
        raise BadInput(
            "the truth behind a mask of the input is known for half-spaces only: of "
            f"untargeted affine and min-of-affines problems; got '{problem.name}'"
        )
    return list(union)


def _without_losers(problem: Planted) -> Planted:
    """The samples that are not adversarial from the start."""
    logits = problem.model.logits(problem.model.to_tensor(problem.x))
    kept = np.flatnonzero(to_numpy(problem.criterion().margin(logits)) > 0)
    if len(kept) == 0:
        raise BadInput(
            f"all samples of '{problem.name}' are adversarial from the start; take a "
            "finer grid, a smaller amplitude, or more samples"
        )
    return Planted(
        problem.name,
        problem.model,
        problem.x[kept],
        problem.y[kept],
        None,
        [problem.regions[int(row)] for row in kept],
    )
