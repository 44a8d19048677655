import math

import pytest

from robustkit.attacks.gradient.fmn import FMN

pytestmark = [
    pytest.mark.slow,
    pytest.mark.parametrize("network", ["mnist_cnn_a_adv", "cifar_conv_small_pgd"]),
]

STEPS = 100
ORDERS = {"l0": 0, "l1": 1, "l2": 2, "linf": math.inf}
NAMES = {"l0": "L0", "l1": "L1", "l2": "L2", "linf": "LInf"}
# For Linf their steps are as long in L2, and one as long as a pixel's range ends short.
FIRST = {"l0": 1.0, "l1": 1.0, "l2": 1.0, "linf": 10.0}


@pytest.mark.parametrize("norm", ORDERS)
def test_not_worse_than_adv_lib(peer, duel, norm, network):
    fmn, case = peer("adv_lib.attacks").fmn, duel(network)
    settings = {
        "steps": STEPS,
        "\N{GREEK SMALL LETTER ALPHA}_init": FIRST[norm],
    }
    theirs, passes = case.theirs(
        lambda model, x, y: fmn(model, x, y, ORDERS[norm], **settings), norm
    )
    assert passes == STEPS
    ours = case.ours(FMN(steps=STEPS), norm)
    assert case.ratio("FMN", "adv-lib", norm, ours, theirs) <= 1.02


@pytest.mark.parametrize("norm", ORDERS)
def test_not_worse_than_foolbox(duel, norm, network):
    foolbox = pytest.importorskip("foolbox")
    case = duel(network)
    attack = getattr(foolbox.attacks, f"{NAMES[norm]}FMNAttack")
    attack = attack(steps=STEPS, max_stepsize=FIRST[norm])
    theirs, passes = case.theirs(
        lambda model, x, y: attack.run(
            foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y
        ),
        norm,
    )
    ours = case.ours(FMN(steps=passes), norm)
    assert case.ratio("FMN", "foolbox", norm, ours, theirs) <= 1.02
