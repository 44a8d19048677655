"""What a gradient attack descends, as slopes with regard to the logits.

Whatever loss is descended, the margin alone decides and is logged.
"""

from collections.abc import Callable
from typing import TypeAlias

from robustkit.engine.criteria import Criterion
from robustkit.errors import BadInput, suggestion
from robustkit.numerics.tensors import PerSample, Tensor

__all__ = ["LOSSES", "Loss", "get_loss"]

Loss: TypeAlias = Callable[[Criterion, Tensor], tuple[PerSample, Tensor]]
"""From a criterion and logits to values (n,) and slopes (n, classes), to be lowered."""


def _margin(criterion: Criterion, logits: Tensor) -> tuple[PerSample, Tensor]:
    return criterion.slopes(logits)


def _cross_entropy(criterion: Criterion, logits: Tensor) -> tuple[PerSample, Tensor]:
    return criterion.cross_entropy(logits)


LOSSES: dict[str, Loss] = {"margin": _margin, "cross-entropy": _cross_entropy}


def get_loss(name: str) -> Loss:
    """The loss of that name.

    "margin" never saturates; the gradients of "cross-entropy" vanish in float32 once
    the margin passes about 17.

    Raises:
        BadInput: No such loss.
    """
    if name not in LOSSES:
        raise BadInput(f"unknown loss '{name}'; {suggestion(name, LOSSES)}")
    return LOSSES[name]
