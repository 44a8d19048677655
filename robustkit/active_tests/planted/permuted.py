"""Any planted problem with its features in another order, some of them mirrored."""

from dataclasses import dataclass

import numpy as np

from robustkit.active_tests.planted.base import Planted
from robustkit.active_tests.regions import Region
from robustkit.models.base import Model, PullBack, Wrapper
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.tensors import Array, Batch, Tensor, flatten, like, where

__all__ = ["permuted"]


def permuted(problem: Planted, seed: int = 0) -> Planted:
    """The same problem seen through a signed permutation of the box.

    An orthogonal first layer that maps the box onto itself: the truth is the same in
    all norms, sample by sample, so an attack that does better or worse depends on the
    order or the direction of features.

    Args:
        problem: To be seen so.
        seed: Of order and mirrors.

    >>> from robustkit.active_tests.planted import affine
    >>> problem = affine(seed=1, samples=3)
    >>> permuted(problem).exact("l1").round(9) == problem.exact("l1").round(9)
    array([ True,  True,  True])
    """
    shape = problem.x.shape[1:]
    count = int(np.prod(shape))
    rng = np.random.default_rng([seed, 9])
    turn = _Turn(rng.permutation(count), rng.random(count) < 0.5, problem.bounds)
    flat = problem.x.reshape(len(problem.x), -1)
    return Planted(
        f"{problem.name}-permuted",
        _PermutedModel(problem.model, turn),
        np.stack([turn.forth(row) for row in flat]).reshape(-1, *shape),
        problem.y,
        problem.targets,
        [[_Turned(region, turn) for region in union] for union in problem.regions],
    )


@dataclass(frozen=True, eq=False)
class _Turn:
    """Feature i of the result is feature order[i], mirrored where `mirrored`[i]."""

    order: Array
    mirrored: Array
    bounds: Bounds

    def forth(self, x: Array) -> Array:
        """What is seen instead of `x` (d,)."""
        return self._mirror(x[self.order])

    def back(self, z: Array) -> Array:
        """The (d,) that is seen as `z` (d,)."""
        x = np.empty_like(z)
        x[self.order] = self._mirror(z)
        return x

    def _mirror(self, z: Array) -> Array:
        sum_of_both = self.bounds.lower + self.bounds.upper
        turned = (sum_of_both - z).clip(self.bounds.lower, self.bounds.upper)
        return np.where(self.mirrored, turned, z)


@dataclass(frozen=True, eq=False)
class _Turned(Region):
    """A region as seen through a turn."""

    region: Region
    turn: _Turn

    @property
    def norms(self) -> frozenset[str]:
        return self.region.norms

    def nearest(self, x: Array, norm: str, bounds: Bounds) -> Array | None:
        inner = self.turn.back(x)
        found = self.region.nearest(inner, norm, bounds)
        if found is None:
            return None
        # Mirroring twice may round.
        return np.where(
            self.turn.forth(found) == self.turn.forth(inner),
            x,
            self.turn.forth(found),
        )

    def at_least(self, x: Array, norm: str, bounds: Bounds) -> float:
        return self.region.at_least(self.turn.back(x), norm, bounds)


class _PermutedModel(Wrapper):
    """A model behind a turn."""

    def __init__(self, model: Model, turn: _Turn) -> None:
        super().__init__(model)
        self._turn = turn
        self._inverse = np.argsort(turn.order)
        # A row of its own, which every sample is shown.
        self._mirrored = turn.mirrored[None]

    def logits(self, x: Batch) -> Tensor:
        return self._model.logits(self._back(x))

    def linearise(self, x: Batch) -> tuple[Tensor, PullBack]:
        logits, pull_back = self._model.linearise(self._back(x))

        def turned(slopes: Tensor) -> Batch:
            inner = flatten(pull_back(slopes))
            picked = inner[:, like(x, self._turn.order)]
            mirrored = like(x, self._mirrored)
            return where(mirrored, -picked, picked).reshape(x.shape)

        return logits, turned

    def _around(self, model: Model, *others: Model) -> Model:
        return _PermutedModel(model, self._turn)

    def _back(self, x: Batch) -> Batch:
        flat = flatten(x)
        both = self.bounds.lower + self.bounds.upper
        seen = where(like(x, self._mirrored), self.bounds.clip(both - flat), flat)
        return seen[:, like(x, self._inverse)].reshape(x.shape)
