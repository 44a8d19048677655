import pytest

from robustkit.attacks.gradient.alma import ALMA


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("network", ["mnist_cnn_a_adv", "cifar_conv_small_pgd"])
@pytest.mark.parametrize("steps", [100, 300])
def test_not_worse_than_adv_lib(peer, duel, norm, network, steps):
    """With the settings that its paper names for so many steps."""
    # With few images the median says little where ratios lie far apart, as in L1.
    advlib = peer("adv_lib.attacks")
    case = duel(network, samples=32 if norm == "l1" else 16)
    settings = {
        "num_steps": steps,
        "init_lr_distance": {"l1": 0.5, "l2": 0.1}[norm],
        "\N{GREEK SMALL LETTER ALPHA}": 0.5 if steps <= 100 else 0.9,
    }
    theirs, passes = case.theirs(
        lambda model, x, y: advlib.alma(model, x, y, distance=norm, **settings), norm
    )
    assert passes == steps
    # The default is for linear models too, where a larger one ends twice as far.
    constraint = 0.45 if norm == "l1" and steps > 100 else 0.3
    ours = case.ours(ALMA(steps=steps, constraint=constraint), norm)
    assert case.ratio(f"ALMA, {steps} steps", "adv-lib", norm, ours, theirs) <= 1.02
