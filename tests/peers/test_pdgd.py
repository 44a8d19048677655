import math

import pytest

from robustkit.attacks.gradient.pdgd import PDGD, PDPGD

STEPS = 300
ORDERS = {"l0": 0, "l1": 1, "l2": 2, "linf": math.inf}


@pytest.mark.slow
@pytest.mark.parametrize("norm", ORDERS)
def test_proximal_is_not_worse_than_adv_lib(peer, duel, norm):
    advlib, case = peer("adv_lib.attacks"), duel()
    # At L0 its hard threshold needs several times as many features as this.
    proximal = 23 if norm == "l0" else None

    def attack(model, x, y):
        return advlib.pdpgd(
            model, x, y, ORDERS[norm], num_steps=STEPS, proximal_operator=proximal
        )

    theirs, passes = case.theirs(attack, norm)
    assert passes == STEPS
    assert case.ratio(case.ours(PDPGD(steps=STEPS), norm), theirs) <= 1.02


@pytest.mark.slow
def test_primal_dual_is_not_worse_than_adv_lib(peer, duel):
    advlib, case = peer("adv_lib.attacks"), duel()
    theirs, passes = case.theirs(
        lambda model, x, y: advlib.pdgd(model, x, y, num_steps=STEPS), "l2"
    )
    assert passes == STEPS
    assert case.ratio(case.ours(PDGD(steps=STEPS), "l2"), theirs) <= 1.02
