"""Every attack that can be named keeps the laws of the conformance suite."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from robustkit.combine import Minimise
from robustkit.models.base import Access
from robustkit.presets import auto
from robustkit.registry import attack_names, get_attack
from robustkit.testing import LAWS, conformance

ORDER = ["l2", "linf", "l1", "l0"]


@dataclass(frozen=True)
class Promise:
    """How an attack is asked, and what it promises then.

    Attributes:
        budget: Passes per sample.
        factor: For the norms where it is not the suite's own.
        misses: In these norms it need not find an adversarial wherever there is one.
        changes: To its settings.
    """

    budget: int = 60
    factor: dict[str, float] = field(default_factory=dict)
    misses: frozenset[str] = frozenset()
    changes: dict[str, Any] = field(default_factory=dict)


def blind(budget=40):
    """They look where they look, and promise nothing about what they find."""
    return Promise(budget, dict.fromkeys(ORDER, np.inf), frozenset(ORDER))


def walks(budget, **changes):
    """They ask for decisions, some hundreds of them before they are near.

    And they end on the piece of the boundary where they began, by up to four times
    farther away than the nearest one.
    """
    return Promise(budget, dict.fromkeys(ORDER, 4.0), changes=changes)


# Of a quarter of the sides of 4 by 4 pixels there is one frequency, the mean.
WHOLE = {"frequencies": 1.0}

PROMISES = {
    # One tangent after another in L1 may lead round in a circle.
    "fab": Promise(misses=frozenset({"l1"})),
    "fab-targeted": Promise(misses=frozenset({"l1"})),
    # They go one way, and do not turn where it ends in a corner.
    "fgsm": Promise(factor={"l1": 1.5}, misses=frozenset(ORDER)),
    "polish": Promise(misses=frozenset(ORDER)),
    "vfga": Promise(misses=frozenset(ORDER)),
    # Features that stand at a bound need some hundred steps to come away from it.
    "carlini-wagner-l2": Promise(300),
    "carlini-wagner-linf": Promise(600, factor={"linf": 1.5}),
    "pdgd": Promise(150, factor={"l2": 1.5}),
    "pdpgd": Promise(150, factor=dict.fromkeys(ORDER, 2.5)),
    "alma": Promise(factor={"l1": 1.5, "l2": 1.5}),
    "ead": Promise(150, factor={"l1": 1.5}),
    # What it learns of the best directions may lead into a corner in L1.
    "thompson": Promise(200, misses=frozenset({"l1"})),
    "square": Promise(100),
    "sparse-rs": Promise(100),
    "patch-rs": Promise(150),
    "simba": Promise(150, changes=WHOLE),
    "evolution": Promise(300, changes=WHOLE),
    "boundary": walks(200),
    "hopskipjump": walks(500),
    "qeba": walks(500, share=1.0),
    "cgba": walks(500, **WHOLE),
    "cgba-h": walks(500, **WHOLE),
    "geoda": walks(500, **WHOLE),
    "sign-opt": walks(500),
    "compass": walks(300),
    "sieve": walks(300),
    "pointwise": walks(100),
    "rays": walks(100),
    "surfree": walks(150),
    "triangle": walks(100),
    "uniform-noise": blind(),
    "gaussian-noise": blind(),
    "salt-and-pepper": blind(),
    "gaussian-blur": blind(),
    "spatial": blind(),
    "contrast": blind(),
    "blend": blind(),
}
# In the first of its norms an attack is asked every law, in the others these. In a
# quick run it is asked these in the first norm only: they are about the same few runs.
CORE = {
    "in-bounds",
    "finite",
    "really-adversarial",
    "distance-as-reported",
    "never-below-minimum",
    "near-minimum",
    "finds-the-feasible",
    "nothing-infeasible",
    "nearest-class",
    "inputs-untouched",
    "batch-invariant",
}


def changed(attack, changes):
    """An attack, or the one whose radius is searched, with other settings."""
    if changes and isinstance(attack, Minimise):
        inner = dataclasses.replace(attack.attack, **changes)
        return dataclasses.replace(attack, attack=inner)
    return dataclasses.replace(attack, **changes)


def checks():
    for name in attack_names():
        promise = PROMISES.get(name, Promise())
        attack = changed(get_attack(name), promise.changes)
        if not type(attack).__module__.startswith("robustkit."):
            # A plug-in of another package has tests of its own.
            continue
        norms = sorted(attack.norms, key=ORDER.index)
        for norm in norms:
            for check in conformance(
                attack,
                norm,
                name=name,
                factor=promise.factor.get(norm),
                complete=norm not in promise.misses,
                budget=promise.budget,
                samples=3,
                laws=LAWS if norm == norms[0] else CORE,
            ):
                quick = norm == norms[0] and check.law in CORE
                marks = () if quick else pytest.mark.slow
                yield pytest.param(check, id=check.name, marks=marks)


@pytest.mark.parametrize("check", list(checks()))
def test_it_keeps_the_law(check):
    check()


@pytest.mark.slow
@pytest.mark.parametrize("norm", ORDER)
@pytest.mark.parametrize("access", Access)
def test_the_default_attack_keeps_the_law(norm, access):
    budget = 60 if access is Access.GRADIENT else 300
    attack = auto(norm, budget, access)
    # Of few decisions, the median of three samples is chance.
    for check in conformance(attack, norm, samples=9, budget=budget, laws=CORE):
        check()


def test_what_is_promised_is_promised_by_attacks_there_are():
    assert PROMISES.keys() <= set(attack_names())
    assert set(LAWS) >= CORE
