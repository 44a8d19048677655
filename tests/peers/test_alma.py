import pytest

from robustkit.attacks.gradient.alma import ALMA


@pytest.mark.slow
@pytest.mark.parametrize(
    ("norm", "network", "steps", "constraint"),
    [
        ("l2", "mnist_cnn_a_adv", 100, 0.3),
        ("l2", "mnist_cnn_a_adv", 300, 0.3),
        ("l2", "cifar_conv_small_pgd", 100, 0.3),
        ("l2", "cifar_conv_small_pgd", 300, 0.3),
        ("l1", "mnist_cnn_a_adv", 100, 0.3),
        ("l1", "mnist_cnn_a_adv", 300, 0.3),
        # Where gradients do not mislead, many steps are better spent at a larger one.
        ("l1", "cifar_conv_small_pgd", 300, 0.6),
    ],
)
def test_not_worse_than_adv_lib(peer, duel, norm, network, steps, constraint):
    """With the settings that its paper names for so many steps."""
    advlib, case = peer("adv_lib.attacks"), duel(network)
    settings = {
        "num_steps": steps,
        "init_lr_distance": {"l1": 0.5, "l2": 0.1}[norm],
        "\N{GREEK SMALL LETTER ALPHA}": 0.5 if steps <= 100 else 0.9,
    }
    theirs, passes = case.theirs(
        lambda model, x, y: advlib.alma(model, x, y, distance=norm, **settings), norm
    )
    assert passes == steps
    ours = case.ours(ALMA(steps=steps, constraint=constraint), norm)
    assert case.ratio(f"ALMA, {steps} steps", "adv-lib", norm, ours, theirs) <= 1.02
