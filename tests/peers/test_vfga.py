import pytest
import torch

from robustkit.attacks.gradient.vfga import VFGA


@pytest.mark.slow
@pytest.mark.parametrize("network", ["mnist_6_100_nat", "cifar_conv_small_pgd"])
def test_not_worse_than_adv_lib(peer, duel, network):
    peer("adv_lib.attacks")
    vfga = peer("adv_lib.attacks.stochastic_sparse_attacks").vfga
    case = duel(network)
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(0)
        theirs, passes = case.theirs(
            lambda model, x, y: vfga(model, x, y, targeted=False, max_iter=100), "l0"
        )
    ours = case.ours(VFGA().within(passes), "l0", budget=passes)
    assert case.ratio("VFGA", "adv-lib", "l0", ours, theirs) <= 1.02
