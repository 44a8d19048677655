"""Attacks put together as the literature does."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from robustkit.arguments import as_whole
from robustkit.attacks.decision.compass import Compass
from robustkit.attacks.decision.pointwise import Pointwise
from robustkit.attacks.decision.rays import RayS
from robustkit.attacks.decision.sieve import Sieve
from robustkit.attacks.gradient import apgd, momentum
from robustkit.attacks.gradient.apgd import APGD
from robustkit.attacks.gradient.fab import TargetedFAB
from robustkit.attacks.gradient.greedy import Greedy
from robustkit.attacks.gradient.legs import last_walks
from robustkit.attacks.gradient.momentum import MIFGSM
from robustkit.attacks.gradient.pdgd import PDPGD
from robustkit.attacks.gradient.polish import Polish
from robustkit.attacks.gradient.relay import Relay
from robustkit.attacks.score import patch_rs, random_search, simba, thompson
from robustkit.attacks.score.patch_rs import PatchRS
from robustkit.attacks.score.simba import SimBA
from robustkit.attacks.score.sparse_rs import SparseRS
from robustkit.attacks.score.square import Square
from robustkit.attacks.score.thompson import Thompson
from robustkit.combine import ByAim, Cascade, Minimise, Part
from robustkit.engine.attack import Attack
from robustkit.errors import BadInput, suggestion
from robustkit.models.base import Access, as_access
from robustkit.numerics.norms import Norm, get_norm

__all__ = [
    "auto",
    "autoattack",
    "minimum_norm_apgd",
    "minimum_norm_bim",
    "minimum_norm_mi_fgsm",
    "minimum_norm_ni_fgsm",
    "minimum_norm_patch_rs",
    "minimum_norm_simba",
    "minimum_norm_sparse_rs",
    "minimum_norm_square",
    "minimum_norm_thompson",
]

_VERSIONS = ("standard", "rand")
# Steps of attacks that a budget ends.
_AMPLE = 1_000_000
# From so many passes on a primal-dual descent goes on from where the relay ended: in L0
# where any class will do, and where a certain one is to be reached, which is far away.
# (In L1 with fewer the relay would be left too few to find something everywhere.)
_MANY, _AIMED = 600, {"l1": 600, "l0": 100}
# Where a certain class is to be reached, the relay gets so many at least.
_FEWEST = 40
# The first step of that descent, which is to leave the valley.
_STRIDE = 0.2


def auto(
    norm: str | Norm = "linf",
    budget: int | None = None,
    access: Access | str = Access.GRADIENT,
    epsilon: float | None = None,
) -> Attack[Any]:
    """The nearest adversarials for a number of passes: what to use unless you know why.

    With gradients: a relay of short descents and walks along the boundary (`Relay`),
    and from 50 passes on from its best point the last thousandth by `Polish`, or for L0
    once more an exchange of features by `Greedy`. In L0 with 600 passes or more a fifth
    goes to `PDPGD` in between; aimed at a class about half, in L0 from 100 passes on,
    in L1 from 600. Samples whose gradients lie go on without: half of what is left of
    their passes (in L2 a fifth) as with scores, the rest as with decisions only.

    With decisions only: for L2 normals of the boundary by probes that adapt to the
    sample (`Compass`), for Linf blocks of signs (`RayS`), for L1 and L0 the few
    features that a descent in L2 shows to matter (`Sieve`).

    With scores: guesses of the margin's slope, and squares or for L0 features exchanged
    at random (`Thompson`), with a search over the radius.

    Args:
        norm: "linf", "l2", "l1" or "l0".
        budget: Passes per sample, each forward and backward if there are gradients.
            None: 300 with gradients, else what the attack takes by itself.
        access: What the model shows, or less where less shall be used; or its name.
        epsilon: The size of most interest, in norm units; with scores, the first radius
            that is searched, for as long as success there is likely. None: none.

    Raises:
        BadInput: No such norm or access, or the budget is no whole number above zero.

    >>> attack = auto("l2", budget=100)
    >>> [type(part).__name__ for part in attack.attacks], attack.steps
    (['Relay', 'Polish'], 99)
    >>> attack = auto("linf", 1000, Access.DECISION)
    >>> type(attack).__name__, attack.steps
    ('RayS', 1000)
    """
    name, access = get_norm(norm).name, as_access(access)
    if budget is not None:
        budget = as_whole(budget, "the budget", least=1)
    if access < Access.GRADIENT:
        attack: Attack[Any] = (
            _DECISIONS[name]()
            if access is Access.DECISION
            else dataclasses.replace(minimum_norm_thompson(), first=epsilon)
        )
        return attack if budget is None else attack.within(budget)
    budget = 300 if budget is None else budget
    return dataclasses.replace(
        _with_gradients(name, budget),
        successor=_without_gradients(name, budget),
        budget=budget,
    )


def _with_gradients(norm: str, budget: int) -> Cascade:
    free = _free(norm, budget)
    if budget < _AIMED.get(norm, math.inf):
        return free
    return Cascade((ByAim(_aimed(norm, budget), free),))


def _free(norm: str, budget: int) -> Cascade:
    """Where any class will do."""
    if norm != "l0":
        last = budget // 25
        if last < 2:
            # The first question of `Polish` is about what is known.
            return _in_turn(budget, 0)
        return _in_turn(budget - last, 0, Polish(steps=last))
    many = budget >= _MANY
    middle, last = budget // 5 if many else 0, max(budget // (10 if many else 4), 1)
    return _in_turn(budget - middle - last, middle, Greedy(steps=last))


def _aimed(norm: str, budget: int) -> Cascade:
    """Where a certain class is to be reached."""
    if norm == "l0":
        first, last = max(budget // 4, _FEWEST), budget // 10
        return _in_turn(first, budget - first - last, Greedy(steps=last))
    first, last, polish = budget // 3, budget // 5, budget // 25
    walks = Relay(legs=last_walks(norm)).within(last - polish)
    return _in_turn(first, budget - first - last, walks, Polish(steps=polish))


def _in_turn(first: int, middle: int, *last: Attack[Any]) -> Cascade:
    """A relay; where there is a middle, a descent from where that ended; the last."""
    parts: tuple[Attack[Any], ...] = (Relay().within(first),)
    if middle:
        parts += (PDPGD(steps=middle, stepsize=_STRIDE),)
    return Cascade(parts + last)


def _without_gradients(norm: str, budget: int) -> Attack[Any]:
    """Scores first, since they say more; then decisions, since they deceive less."""
    scores = dataclasses.replace(minimum_norm_thompson(), steps=_AMPLE)
    decisions = _LAST.get(norm, _DECISIONS[norm])().within(_AMPLE)
    return Part(scores, 0.2 if norm == "l2" else 0.5, decisions).within(budget)


_DECISIONS: dict[str, Callable[[], Attack[Any]]] = {
    "l0": Sieve,
    "l1": Sieve,
    "l2": Compass,
    "linf": RayS,
}
# From few features, which scores have found, nothing leads on but to set some back.
_LAST: dict[str, Callable[[], Attack[Any]]] = {"l0": Pointwise, "l1": Pointwise}


def autoattack(
    epsilon: float, norm: str | Norm = "linf", version: str = "standard"
) -> Cascade:
    """AutoAttack: robust accuracy at one epsilon by a fixed cascade of attacks.

    In their order: APGD on the cross-entropy, APGD on the targeted difference of logits
    ratio, targeted FAB, Square; samples that one has broken leave. For models whose
    answers are random, "rand": APGD on the cross-entropy and on the difference of
    logits ratio, each gradient averaged over 20 passes.

    Give it to `evaluate` or `run` as any attack. Its distances say whether a sample
    stands `epsilon`, and nothing about other sizes.
    It needs a criterion with a cross-entropy. For fewer than 4 classes (3 for "rand")
    its second loss is not defined as published, and is what `get_loss` says.

    Args:
        epsilon: Radius of the ball, in norm units.
        norm: "linf", "l2" or "l1".
        version: "standard" (up to some 6,900 questions per sample) or "rand" (4,000).

    Source:
        Croce, Hein: Reliable Evaluation of Adversarial Robustness with an Ensemble of
        Diverse Parameter-free Attacks, ICML 2020; for L1 Croce, Hein: Mind the Box,
        ICML 2021.

    Raises:
        BadInput: No such version, or no such attack for the norm.

    >>> for attack in autoattack(0.02).attacks:
    ...     print(type(attack).__name__, attack.steps)
    APGD 100
    APGD 900
    TargetedFAB 900
    Square 5000
    """
    name = get_norm(norm).name
    if name not in APGD.norms:
        raise BadInput(f"AutoAttack knows l1, l2 and linf; got {name}")
    if version not in _VERSIONS:
        raise BadInput(f"unknown version '{version}'; {suggestion(version, _VERSIONS)}")
    sparse = name == "l1"
    if version == "rand":
        losses = ("cross-entropy", "dlr")
        return Cascade(
            tuple(
                APGD(epsilon, loss=loss, random_start=True, passes=20, wide=sparse)
                for loss in losses
            ),
            epsilon,
        )
    targets, restarts = (5, 5) if sparse else (9, 1)
    first = APGD(epsilon, loss="cross-entropy", random_start=True, wide=sparse)
    aimed = APGD(
        epsilon,
        steps=100 * targets,
        loss="dlr",
        targets=targets,
        random_start=True,
        wide=sparse,
    )
    return Cascade(
        (
            *(first,) * restarts,
            aimed,
            TargetedFAB(steps=900, targets=9),
            Square(epsilon, steps=5000, rescale=False),
        ),
        epsilon,
    )


def minimum_norm_apgd() -> Minimise[apgd.State]:
    """APGD with a search over its radius."""
    return Minimise(APGD(epsilon=1.0, steps=20))


def minimum_norm_bim() -> Minimise[momentum.State]:
    """The basic iterative method with a search over its radius."""
    return Minimise(MIFGSM(epsilon=1.0, steps=20, decay=0.0, loss="margin"))


def minimum_norm_mi_fgsm() -> Minimise[momentum.State]:
    """MI-FGSM with a search over its radius."""
    return Minimise(MIFGSM(epsilon=1.0, steps=20, loss="margin"))


def minimum_norm_ni_fgsm() -> Minimise[momentum.State]:
    """NI-FGSM with a search over its radius."""
    return Minimise(MIFGSM(epsilon=1.0, steps=20, nesterov=True, loss="margin"))


def minimum_norm_square() -> Minimise[random_search.State]:
    """Square Attack with a search over its radius."""
    return Minimise(Square(epsilon=1.0, steps=1000), steps=5000)


def minimum_norm_thompson() -> Minimise[thompson.State]:
    """Guesses of the margin's slope, random changes, and a search over the radius."""
    return Minimise(Thompson(epsilon=1.0, steps=1000), steps=5000)


def minimum_norm_simba() -> Minimise[simba.State]:
    """SimBA with a search over its radius."""
    return Minimise(SimBA(epsilon=1.0, steps=1000), steps=5000)


def minimum_norm_sparse_rs() -> Minimise[random_search.State]:
    """Sparse-RS with a search over the number of features."""
    return Minimise(SparseRS(epsilon=1.0, steps=1000), steps=5000)


def minimum_norm_patch_rs() -> Minimise[patch_rs.State]:
    """Patch-RS with a search over the size of the patch."""
    return Minimise(PatchRS(epsilon=1.0, steps=1000), steps=5000)
