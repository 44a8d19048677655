"""What a gradient attack descends, as slopes with regard to the logits.

Whatever loss is descended, the margin alone decides and is logged.
"""

import math
from collections.abc import Callable
from typing import TypeAlias

from robustkit.engine.criteria import Criterion, Targeted
from robustkit.errors import BadInput, suggestion
from robustkit.numerics.logits import one_less_another
from robustkit.numerics.tensors import (
    PerSample,
    Tensor,
    highest,
    magnitude,
    maximum,
    where,
)
from robustkit.numerics.thresholds import nonzero

__all__ = ["LOSSES", "Loss", "aimed_loss", "get_loss"]

Loss: TypeAlias = Callable[[Criterion, Tensor], tuple[PerSample, Tensor]]
"""From a criterion and logits to values (n,) and slopes (n, classes), to be lowered."""


def _margin(criterion: Criterion, logits: Tensor) -> tuple[PerSample, Tensor]:
    return criterion.slopes(logits)


def _cross_entropy(criterion: Criterion, logits: Tensor) -> tuple[PerSample, Tensor]:
    return criterion.cross_entropy(logits)


def _dlr(criterion: Criterion, logits: Tensor) -> tuple[PerSample, Tensor]:
    margin, slopes = criterion.slopes(logits)
    if logits.shape[1] == 2:
        return margin, slopes
    targeted = isinstance(criterion, Targeted)
    return _ratio(margin, slopes, *_spread(logits, targeted))


def _joint(criterion: Criterion, logits: Tensor) -> tuple[PerSample, Tensor]:
    return criterion.joint(logits)


def _matching(criterion: Criterion, logits: Tensor) -> tuple[PerSample, Tensor]:
    return criterion.matching(logits)


LOSSES: dict[str, Loss] = {
    "margin": _margin,
    "cross-entropy": _cross_entropy,
    "dlr": _dlr,
    "joint": _joint,
    "matching": _matching,
}


def get_loss(name: str) -> Loss:
    """The loss of that name.

    "margin" never saturates; the gradients of "cross-entropy" vanish in float32 once
    the margin passes about 17.

    "dlr", the difference of logits ratio, is the margin over the gap between the
    highest and the third highest logit (for `Targeted`, between the highest and the
    mean of the third and fourth), so that neither the scale nor the shift of the logits
    matters. Where margin and gap are the same two logits, as once the own class is
    third, the ratio is constant, and a descent of it would stay there for ever: the
    slopes given there are those of the margin over the present gap, though the value
    does not follow them. With three classes the targeted gap is the plain one; of two
    logits no ratio is left that would not be constant, so it is the margin then, and
    where margin or gap is infinite, since a model gives minus infinity to some classes.

    "joint" is the sum of what is still missing of each condition, for criteria that
    have several (`AllOf`, `Undetected`), so that meeting one does not undo another; for
    others it is the margin.

    "matching" is the mean squared distance from the outputs that `Matching` says are to
    be reached: logits like those of an honest input of another class, or features.

    Source of "dlr": Croce, Hein: Reliable Evaluation of Adversarial Robustness with an
    Ensemble of Diverse Parameter-free Attacks, ICML 2020, equations 6 and 7. Of
    "matching": Tramer, Carlini, Brendel, Madry: On Adaptive Attacks to Adversarial
    Example Defenses, NeurIPS 2020; Sabour, Cao, Faghri, Fleet: Adversarial Manipulation
    of Deep Representations, ICLR 2016.

    Raises:
        BadInput: No such loss.
    """
    if not isinstance(name, str) or name not in LOSSES:
        raise BadInput(f"unknown loss '{name}'; {suggestion(name, LOSSES)}")
    return LOSSES[name]


def aimed_loss(name: str, way: Tensor) -> Loss:
    """The loss of that name for one `way` (n,) of each sample (`Criterion.ways`).

    Args:
        name: "margin"; "dlr", here with the gap that it has for `Targeted`; or
            "cross-entropy", of the class that the way leads to.
        way: (n,) integers, open ways.

    Raises:
        BadInput: No such loss, or it is not about single ways.
    """
    if get_loss(name) not in (_margin, _dlr, _cross_entropy):
        raise BadInput(
            f"the loss '{name}' cannot aim at single ways to meet a criterion; use "
            "'margin', 'dlr' or 'cross-entropy'"
        )

    def loss(criterion: Criterion, logits: Tensor) -> tuple[PerSample, Tensor]:
        if name == "cross-entropy":
            return criterion.cross_entropy_of(logits, way)
        margin, slopes = criterion.slopes_of(logits, way)
        if name == "margin" or logits.shape[1] == 2:
            return margin, slopes
        return _ratio(margin, slopes, *_spread(logits, True))

    return loss


def _spread(logits: Tensor, targeted: bool) -> tuple[PerSample, Tensor]:
    """How far apart the highest logits of three or more are (n,), with slopes."""
    four = targeted and logits.shape[1] > 3
    top, places = highest(logits, 4 if four else 3)
    slopes = one_less_another(logits, places[:, 0], places[:, 2])
    if not four:
        return top[:, 0] - top[:, 2], slopes
    slopes = (slopes + one_less_another(logits, places[:, 0], places[:, 3])) / 2
    return top[:, 0] - (top[:, 2] + top[:, 3]) / 2, slopes


def _ratio(
    margin: PerSample, slopes: Tensor, spread: PerSample, spread_slopes: Tensor
) -> tuple[PerSample, Tensor]:
    # A spread of zero makes the margin zero too, or as good as; and an infinite one, of
    # too few classes that have a chance, would make each ratio zero. Where the margin
    # is infinite, as that of a class that has none, the ratio has no slopes.
    known = maximum(spread, margin.abs()) < math.inf
    spread = where(known, nonzero(spread), 1.0)
    ratio = margin / spread
    change = slopes - where(known, ratio, 0.0).expand_dims(1) * spread_slopes
    constant = magnitude(change, math.inf) == 0
    return ratio, where(constant, slopes, change) / spread.expand_dims(1)
