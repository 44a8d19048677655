"""Distances, tensors and criteria, from ours to foolbox's and back."""

from typing import Any

import numpy as np
import torch
from eagerpy.astensor import astensor_
from foolbox import criteria as guest_criteria
from foolbox import distances

from robustkit.engine import criteria
from robustkit.errors import BadInput
from robustkit.numerics.tensors import Tensor, as_tensor, like, to_numpy

__all__ = ["DISTANCES", "from_foolbox", "from_torch", "to_foolbox", "to_torch"]

DISTANCES = {
    "l0": distances.l0,
    "l1": distances.l1,
    "l2": distances.l2,
    "linf": distances.linf,
}
"""foolbox's distances, by the names of our norms."""


def to_torch(tensor: Tensor) -> torch.Tensor:
    """A tensor of any framework in torch: itself, or a copy on the host."""
    if isinstance(tensor.raw, torch.Tensor):
        return tensor.raw
    return torch.from_numpy(np.array(to_numpy(tensor)))


def from_torch(raw: torch.Tensor, reference: Tensor) -> Tensor:
    """`raw`, detached, in the framework of `reference`."""
    if isinstance(reference.raw, torch.Tensor):
        return as_tensor(raw.detach())
    return like(reference, raw.detach().cpu().numpy())


def to_foolbox(
    criterion: criteria.Criterion, reference: Tensor
) -> guest_criteria.Criterion:
    """Our criterion in foolbox's words, for scores in torch.

    Misclassification and targets become foolbox's own. What others become serves the
    attacks that ask no more than whether it is met.

    Args:
        criterion: Of n samples.
        reference: Any tensor of the criterion's framework.
    """
    if isinstance(criterion, criteria.Misclassification):
        return guest_criteria.Misclassification(to_torch(criterion.labels).long())
    if isinstance(criterion, criteria.Targeted):
        targets = to_torch(criterion.targets).long()
        return guest_criteria.TargetedMisclassification(targets)
    return _Met(criterion, reference)


def from_foolbox(criterion: guest_criteria.Criterion) -> criteria.Criterion:
    """A criterion of foolbox as ours.

    Raises:
        BadInput: It is not made of misclassification and targets.
    """
    if isinstance(criterion, guest_criteria.Misclassification):
        return criteria.Misclassification(criterion.labels)
    if isinstance(criterion, guest_criteria.TargetedMisclassification):
        return criteria.Targeted(criterion.target_classes)
    if isinstance(criterion, guest_criteria._And):
        return criteria.AllOf(from_foolbox(criterion.a), from_foolbox(criterion.b))
    raise BadInput(
        f"foolbox's criterion {criterion!r} has no margin to descend; expected labels, "
        "Misclassification or TargetedMisclassification, or several joined by &"
    )


class _Met(guest_criteria.Criterion):
    def __init__(self, criterion: criteria.Criterion, reference: Tensor) -> None:
        self._criterion, self._reference = criterion, reference

    def __repr__(self) -> str:
        return f"robustkit {type(self._criterion).__name__}"

    def __call__(self, perturbed: Any, outputs: Any) -> Any:
        logits, restore_type = astensor_(outputs)
        margin = self._criterion.margin(from_torch(logits.raw, self._reference))
        return restore_type(as_tensor(to_torch(margin < 0)))
