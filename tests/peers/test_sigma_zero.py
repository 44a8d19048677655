import pytest

from robustkit.attacks.gradient.sigma_zero import SigmaZero


@pytest.mark.slow
@pytest.mark.parametrize("network", ["mnist_cnn_a_adv", "cifar_cnn_a_adv"])
def test_not_worse_than_adv_lib(peer, duel, network):
    advlib, case = peer("adv_lib.attacks"), duel(network)
    theirs, passes = case.theirs(
        lambda model, x, y: advlib.sigma_zero(model, x, y, num_steps=100), "l0"
    )
    assert passes == 100
    ours = case.ours(SigmaZero(steps=100), "l0")
    assert case.ratio("sigma-zero", "adv-lib", "l0", ours, theirs) <= 1.02
