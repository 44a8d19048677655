import pytest

from robustkit.attacks.gradient.ead import EAD


@pytest.mark.slow
@pytest.mark.parametrize("network", ["mnist_cnn_a_adv", "cifar_conv_small_pgd"])
def test_not_worse_than_foolbox(duel, network):
    foolbox = pytest.importorskip("foolbox")
    case = duel(network)
    attack = foolbox.attacks.EADAttack(steps=25, decision_rule="L1", abort_early=False)
    theirs, passes = case.theirs(
        lambda model, x, y: attack.run(
            foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y
        ),
        "l1",
    )
    assert passes == 450
    ours = case.ours(EAD(steps=passes), "l1")
    assert case.ratio("EAD", "foolbox", "l1", ours, theirs) <= 1.02
