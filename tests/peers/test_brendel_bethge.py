"""Brendel-Bethge against foolbox's, which solves its local problems one by one."""

import pytest

from robustkit.attacks.gradient.brendel_bethge import BrendelBethge

pytestmark = [
    pytest.mark.slow,
    # The peer's solvers are compiled at their first use, which takes a minute.
    pytest.mark.filterwarnings("ignore:At the first initialisation"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

NAMES = {
    "l0": "L0BrendelBethgeAttack",
    "l1": "L1BrendelBethgeAttack",
    "l2": "L2BrendelBethgeAttack",
    "linf": "LinfinityBrendelBethgeAttack",
}


@pytest.mark.parametrize("network", ["mnist_cnn_a_adv", "cifar_cnn_a_adv"])
@pytest.mark.parametrize("norm", NAMES)
def test_better_than_foolbox(duel, network, norm):
    pytest.importorskip("numba")
    foolbox = pytest.importorskip("foolbox")
    case = duel(network, samples=12)
    attack = getattr(foolbox.attacks, NAMES[norm])(steps=100)

    # Both start from the same adversarials: images of other classes.
    others = [int((case.labels != label).nonzero()[0]) for label in case.labels]
    starts = case.images[others]

    theirs, passes = case.theirs(
        lambda model, x, y: attack.run(
            foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"),
            x,
            y,
            starting_points=starts,
        ),
        norm,
    )
    ours = BrendelBethge().within(passes)
    ours = case.ours(ours, norm, budget=passes, starts=starts)
    assert case.ratio("Brendel-Bethge", "foolbox", norm, ours, theirs) <= 1.0
