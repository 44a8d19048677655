import numpy as np
import pytest

from robustkit.attacks.gradient.carlini_wagner import (
    CarliniWagnerL2,
    CarliniWagnerLinf,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.parametrize("network", ["cifar_conv_small_pgd", "mnist_cnn_a_adv"]),
]


def not_worse(case, peer, norm, ours, theirs):
    """Where ours finds something, and that is at least as often as theirs."""
    found = np.isfinite(ours)
    ratio = case.ratio("C-W", peer, norm, ours[found], theirs[found])
    return found.mean() >= np.isfinite(theirs).mean() and ratio <= 1.02


def test_l2_is_not_worse_than_adv_lib(peer, duel, network):
    advlib, case = peer("adv_lib.attacks"), duel(network)
    settings = {"max_iterations": 50, "learning_rate": 0.1, "abort_early": False}
    theirs, passes = case.theirs(
        lambda model, x, y: advlib.carlini_wagner_l2(model, x, y, **settings), "l2"
    )
    assert passes == 450
    ours = case.ours(CarliniWagnerL2().within(passes), "l2")
    assert not_worse(case, "adv-lib", "l2", ours, theirs)


def test_l2_is_not_worse_than_foolbox(duel, network):
    foolbox = pytest.importorskip("foolbox")
    case = duel(network)
    attack = foolbox.attacks.L2CarliniWagnerAttack(
        steps=50, stepsize=0.1, abort_early=False
    )
    theirs, passes = case.theirs(
        lambda model, x, y: attack.run(
            foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y
        ),
        "l2",
    )
    assert passes == 450
    ours = case.ours(CarliniWagnerL2().within(passes), "l2")
    assert not_worse(case, "foolbox", "l2", ours, theirs)


def test_linf_is_not_worse_than_adv_lib(peer, duel, network):
    advlib, case = peer("adv_lib.attacks"), duel(network)
    settings = {"max_iterations": 25, "initial_const": 0.01}
    theirs, passes = case.theirs(
        lambda model, x, y: advlib.carlini_wagner_linf(model, x, y, **settings), "linf"
    )
    ours = case.ours(CarliniWagnerLinf(steps=400), "linf", budget=passes)
    assert not_worse(case, "adv-lib", "linf", ours, theirs)
