import math

import pytest

from robustkit.attacks.gradient.pdgd import PDGD, PDPGD

STEPS = 300
ORDERS = {"l0": 0, "l1": 1, "l2": 2, "linf": math.inf}


pytestmark = [
    pytest.mark.slow,
    pytest.mark.parametrize("network", ["mnist_cnn_a_adv", "cifar_conv_small_pgd"]),
]


@pytest.mark.parametrize("norm", ORDERS)
def test_proximal_is_not_worse_than_adv_lib(peer, duel, norm, network):
    advlib, case = peer("adv_lib.attacks"), duel(network)
    # At L0 its hard threshold needs several times as many features as this.
    proximal = 23 if norm == "l0" else None

    def attack(model, x, y):
        return advlib.pdpgd(
            model, x, y, ORDERS[norm], num_steps=STEPS, proximal_operator=proximal
        )

    theirs, passes = case.theirs(attack, norm)
    assert passes == STEPS
    ours = case.ours(PDPGD(steps=STEPS), norm)
    assert case.ratio("PDPGD", "adv-lib", norm, ours, theirs) <= 1.02


def test_primal_dual_is_not_worse_than_adv_lib(peer, duel, network):
    advlib, case = peer("adv_lib.attacks"), duel(network)
    theirs, passes = case.theirs(
        lambda model, x, y: advlib.pdgd(model, x, y, num_steps=STEPS), "l2"
    )
    assert passes == STEPS
    ours = case.ours(PDGD(steps=STEPS), "l2")
    assert case.ratio("PDGD", "adv-lib", "l2", ours, theirs) <= 1.02
