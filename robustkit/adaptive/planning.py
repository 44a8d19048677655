"""Which attacks a remedy makes, and how they share its budget."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

from robustkit import presets
from robustkit.adaptive.remedy import Case
from robustkit.attacks.gradient.apgd import APGD
from robustkit.attacks.gradient.fmn import FMN
from robustkit.combine import Minimise
from robustkit.engine.attack import Attack, questions
from robustkit.models.base import Access, Model
from robustkit.numerics.norms import Norm

__all__ = ["Maker", "aimed", "apgd", "auto", "blind", "descents", "shared", "sparse"]

# The fewest steps with which an attack is worth its name, and with which it is planned
# where there is not enough for that.
_FEWEST, _LEAST = 20, 5

Maker = Callable[[int], Attack[Any]]
"""From a number of steps to an attack."""


def shared(
    case: Case,
    model: Model,
    makers: Mapping[str, Maker],
    *,
    share: float = 1.0,
    access: Access = Access.GRADIENT,
) -> dict[str, Attack[Any]]:
    """Attacks that share a budget equally.

    The first of them only, where all could not take 20 steps each.

    Args:
        case: Whose budget it is.
        model: To be asked.
        makers: Of each attack, by its name; the most important one first.
        share: Of the budget.
        access: What these attacks need.
    """
    steps = questions(share * case.budget, model, access)
    count = min(len(makers), max(steps // _FEWEST, 1))
    each = max(steps // count, _LEAST)
    return {name: make(each) for name, make in itertools.islice(makers.items(), count)}


def apgd(case: Case, **settings: Any) -> Maker:
    """Makes an APGD that first takes half its steps at the size of most interest."""

    def make(steps: int) -> Attack[Any]:
        attack = APGD(1.0, steps=max(steps // 2, 1), **settings)
        return Minimise(attack, steps=steps, first=case.epsilon)

    return make


def aimed(case: Case, loss: str = "margin") -> Maker:
    """Makes one that aims at the likeliest classes one after the other."""

    def make(steps: int) -> Attack[Any]:
        targets = min(max(case.classes - 1, 1), 9)
        targets = max(min(targets, steps // 2), 1)
        return apgd(case, loss=loss, targets=targets)(steps)

    return make


def auto(case: Case) -> Maker:
    """Makes the default attack, for as many steps."""
    return lambda steps: presets.auto(case.norm, steps)


def sparse(norm: Norm) -> bool:
    """Whether projected gradients do not serve the norm."""
    return norm.name not in APGD.norms


def descents(case: Case, model: Model, share: float = 1.0) -> dict[str, Attack[Any]]:
    """What attacks a model once its gradients are mended."""
    other: dict[str, Maker] = {"apgd": apgd(case)}
    if sparse(case.norm):
        other = {"fmn": lambda steps: FMN(steps=steps)}
    return shared(case, model, {"auto": auto(case), **other}, share=share)


def blind(case: Case, model: Model) -> dict[str, Attack[Any]]:
    """Attacks that follow no gradients."""
    makers: dict[str, Maker] = {
        "decisions": lambda steps: presets.auto(case.norm, steps, Access.DECISION)
    }
    if case.model.access >= Access.SCORE:
        makers["scores"] = lambda steps: presets.auto(
            case.norm, steps, Access.SCORE, epsilon=case.epsilon
        )
    return shared(case, model, makers, access=Access.SCORE)
