import pytest

from robustkit.attacks.gradient.carlini_wagner import (
    CarliniWagnerL2,
    CarliniWagnerLinf,
)

NETWORK = "cifar_conv_small_pgd"


@pytest.mark.slow
def test_l2_is_not_worse_than_adv_lib(peer, duel):
    advlib, case = peer("adv_lib.attacks"), duel(NETWORK)
    settings = {"max_iterations": 50, "learning_rate": 0.1, "abort_early": False}
    theirs, passes = case.theirs(
        lambda model, x, y: advlib.carlini_wagner_l2(model, x, y, **settings), "l2"
    )
    assert passes == 450
    ours = case.ours(CarliniWagnerL2(steps=passes, stepsize=0.1), "l2")
    assert case.ratio(ours, theirs) <= 1.02


@pytest.mark.slow
def test_l2_is_not_worse_than_foolbox(duel):
    foolbox = pytest.importorskip("foolbox")
    case = duel(NETWORK)
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
    ours = case.ours(CarliniWagnerL2(steps=passes, stepsize=0.1), "l2")
    assert case.ratio(ours, theirs) <= 1.02


@pytest.mark.slow
def test_linf_is_not_worse_than_adv_lib(peer, duel):
    advlib, case = peer("adv_lib.attacks"), duel("mnist_cnn_a_adv")
    settings = {"max_iterations": 25, "initial_const": 0.01}
    theirs, passes = case.theirs(
        lambda model, x, y: advlib.carlini_wagner_linf(model, x, y, **settings), "linf"
    )
    ours = case.ours(CarliniWagnerLinf(steps=400), "linf", budget=passes)
    found = ours < float("inf")
    assert found.mean() >= (theirs < float("inf")).mean()
    assert case.ratio(ours[found], theirs[found]) <= 1.02
