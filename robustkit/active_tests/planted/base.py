"""What every planted problem has: a model, inputs, and the truth."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from robustkit.active_tests.regions import ALL_NORMS, Region, size
from robustkit.engine.criteria import Criterion, Misclassification, Targeted
from robustkit.errors import BadInput
from robustkit.models.base import Model
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.norms import Norm, get_norm
from robustkit.numerics.tensors import Array

if TYPE_CHECKING:
    import torch

__all__ = ["Planted"]


@dataclass(frozen=True, eq=False)
class Planted:
    """A model, inputs, and how far the nearest adversarial of each is: exactly.

    A sample is adversarial in a union of regions, closed sets whose nearest points are
    known. So distances are infima: an attack, which has to cross the boundary,
    approaches them from above and never falls below them, but for rounding.

    Attributes:
        name: Of the family, for people.
        model: On NumPy arrays, with exact gradients; each row by itself, so that no
            rounding depends on the company. `module` is the same for torch.
        x: (n, ...) inputs within `bounds`, none of them adversarial.
        y: (n,) int64, their labels.
        targets: (n,) int64, the classes to be reached; None: any but the label.
        regions: For each sample, where it is adversarial.

    >>> from robustkit.active_tests.planted import affine
    >>> import robustkit as rk
    >>> problem = affine(seed=0, samples=5)
    >>> exact = problem.exact("l2")
    >>> found = rk.run("fmn", problem.model, problem.x, problem.y, norm="l2").distance
    >>> bool((found >= exact).all() and (found < 1.05 * exact).all())
    True
    """

    name: str
    model: Model
    x: Array
    y: Array
    targets: Array | None
    regions: Sequence[Sequence[Region]] = field(repr=False)
    _known: dict[str, tuple[Array, Array]] = field(
        default_factory=dict, init=False, repr=False
    )

    @property
    def bounds(self) -> Bounds:
        """The box of valid inputs."""
        return self.model.bounds

    @property
    def norms(self) -> frozenset[str]:
        """In which the truth is known."""
        known = [region.norms for union in self.regions for region in union]
        return ALL_NORMS.intersection(*known)

    def exact(self, norm: str | Norm) -> Array:
        """(n,) float64: the least distance of an adversarial, in norm units.

        Infinite where there is none in the box. Computed when first asked for.

        Raises:
            BadInput: The truth is not known in this norm.
        """
        return self._solved(norm)[0].copy()

    def nearest(self, norm: str | Norm) -> Array:
        """(n, ...) float64: boundary points at the distance `exact`.

        The input itself where there is none.

        Raises:
            BadInput: The truth is not known in this norm.
        """
        return self._solved(norm)[1].copy()

    def criterion(self) -> Criterion:
        """When a sample is adversarial, for the engine."""
        if self.targets is None:
            return Misclassification(self.model.to_tensor(self.y))
        return Targeted(self.model.to_tensor(self.targets))

    def module(self) -> "torch.nn.Module":
        """The model as a torch module without parameters, for attacks that need one.

        It computes on the CPU, in NumPy; gradients with regard to the input are those
        of `model`. On models without gradients it is not differentiable.
        """
        from robustkit.active_tests.modules import ModelModule

        return ModelModule(self.model)

    def with_model(self, model: Model, name: str) -> "Planted":
        """The same inputs and truth under another model, such as a masked one."""
        return Planted(name, model, self.x, self.y, self.targets, self.regions)

    def _solved(self, norm: str | Norm) -> tuple[Array, Array]:
        name = repr(get_norm(norm))
        if name not in self.norms:
            raise BadInput(
                f"the exact distances of '{self.name}' are not known in the norm "
                f"{name}; they are in {', '.join(sorted(self.norms)) or 'none'}"
            )
        if name not in self._known:
            distances = np.full(len(self.x), np.inf)
            points = np.array(self.x, dtype=np.float64)
            box = self.bounds.rounded_to(self.x.dtype)
            for row, union in enumerate(self.regions):
                flat = points[row].reshape(-1)
                distance, point = self._nearest_of(flat, union, name, box)
                distances[row] = distance
                points[row] = point.reshape(points[row].shape)
            self._known[name] = distances, points
        return self._known[name]

    def _nearest_of(
        self, x: Array, union: Sequence[Region], norm: str, bounds: Bounds
    ) -> tuple[float, Array]:
        """The nearest point of several regions; those surely farther are left out."""
        best, point = np.inf, x
        floors = [region.at_least(x, norm, bounds) for region in union]
        for place in np.argsort(floors, kind="stable"):
            if floors[place] >= best:
                break
            found = union[place].nearest(x, norm, bounds)
            if found is not None and size(found - x, norm) < best:
                best, point = size(found - x, norm), found
        return best, point
