"""Our attacks as foolbox's."""

import numpy as np
import pytest
import torch

import robustkit as rk

pytest.importorskip("foolbox", reason="foolbox is optional")

from robustkit.interop.foolbox import as_foolbox, foolbox_attack

# foolbox warns when it is imported; robustkit.interop.foolbox has done so silently.
import foolbox  # isort: skip


def test_a_lent_attack_finds_what_run_finds(digits, guest_model):
    module, x, y = digits
    attack = rk.FMN(steps=30)
    lent = as_foolbox(attack, "l2")
    assert isinstance(lent, foolbox.attacks.base.MinimizationAttack)
    assert lent.distance == foolbox.distances.l2
    raw, clipped, is_adv = lent(guest_model(module), x, y, epsilons=None)
    result = rk.run(attack, module, x, y, norm="l2")
    assert torch.equal(raw, result.x_adversarial)
    assert torch.equal(clipped, raw)
    assert torch.equal(is_adv, result.found)
    one = float(result.distance.median()) * 1.001
    _, _, within = lent(guest_model(module), x, y, epsilons=one)
    assert torch.equal(within, result.distance <= one)
    raws, clips, table = lent(guest_model(module), x, y, epsilons=[1e-3, one, 100.0])
    assert len(raws) == len(clips) == 3
    assert table.shape == (3, len(x))
    assert table.sum(1).tolist() == [0, int(within.sum()), len(x)]
    assert (clips[0] - x).flatten(1).norm(dim=1).max() <= 1e-3 * 1.001


def test_lent_attacks_take_foolbox_criteria(digits, guest_model):
    module, x, y = digits
    native = guest_model(module)
    lent = as_foolbox(rk.FMN(steps=60), "linf")
    by_label = lent(native, x, y, epsilons=None)[0]
    criterion = foolbox.Misclassification(y)
    assert torch.equal(lent(native, x, criterion, epsilons=None)[0], by_label)
    targets = (y + 1) % 10
    targeted = foolbox.TargetedMisclassification(targets)
    _, points, is_adv = lent(native, x, criterion & targeted, epsilons=None)
    assert is_adv.all()
    assert (module(points).argmax(1) == targets).all()

    class Odd(foolbox.Criterion):
        def __repr__(self):
            return "Odd()"

        def __call__(self, perturbed, outputs):
            return outputs.argmax(axis=-1) == 1

    with pytest.raises(rk.BadInput, match=r"Odd\(\) has no margin"):
        lent(native, x, Odd(), epsilons=None)


def test_a_lent_attack_returns_misclassified_inputs_as_they_are(digits, guest_model):
    module, x, y = digits
    wrong = (y + 1) % 10
    lent = as_foolbox(rk.FMN(steps=3), "l2")
    raw, _, is_adv = lent(guest_model(module), x, wrong, epsilons=None)
    assert torch.equal(raw, x)
    assert is_adv.all()


def test_repeat_keeps_the_nearest_of_several_seeds(digits, guest_model):
    module, x, y = digits
    x, y = x[:3], y[:3]
    attack = foolbox_attack("SaltAndPepperNoise", steps=30)
    native = guest_model(module)

    def distances(lent):
        points, _, is_adv = lent(native, x, y, epsilons=None)
        found = torch.full((len(x),), torch.inf)
        size = (points - x).flatten(1).norm(dim=1)
        return torch.where(is_adv, size, found)

    thrice = distances(as_foolbox(attack, "l2").repeat(3))
    each = [distances(as_foolbox(attack, "l2", seed=seed)) for seed in range(3)]
    assert torch.equal(thrice, torch.stack(each).amin(0))
    assert torch.equal(distances(as_foolbox(attack, "l2").repeat(3).repeat(1)), thrice)
    for times in (0, 1.5, True):
        with pytest.raises(rk.BadInput, match="how often an attack is repeated"):
            as_foolbox(attack, "l2").repeat(times)


@pytest.mark.parametrize("settings", [{"seed": "x"}, {"seed": -1}, {"budget": 2.5}])
def test_settings_that_are_none_are_refused_at_once(settings):
    with pytest.raises(rk.BadInput, match="must be"):
        as_foolbox(rk.FMN(), "l2", **settings)


def test_starting_points_and_budget_reach_a_lent_attack(digits, guest_model):
    module, x, y = digits
    native = guest_model(module)
    starts = rk.run(rk.FMN(steps=20), module, x, y, norm="l2").x_adversarial
    boundary = as_foolbox(foolbox_attack("Boundary", steps=5), "l2")
    points, _, is_adv = boundary(native, x, y, epsilons=None, starting_points=starts)
    assert is_adv.all()
    assert ((points - x).flatten(1).norm(dim=1) < 3.0).all()
    short = as_foolbox(rk.FMN(steps=60), "l2", budget=1)
    assert not short(native, x, y, epsilons=None)[2].any()
    with pytest.raises(TypeError, match="unexpected"):
        boundary(native, x, y, epsilons=None, nonsense=1)


def test_lent_attacks_keep_to_the_inputs_framework():
    weights = np.eye(4, 3, dtype=np.float32)
    native = foolbox.NumPyModel(lambda x: x @ weights, bounds=(0, 1))
    x = np.random.default_rng(0).random((5, 4), dtype=np.float32)
    y = (x @ weights).argmax(1)
    lent = as_foolbox(foolbox_attack("SaltAndPepperNoise", steps=30), "l2")
    raw, _, is_adv = lent(native, x, y, epsilons=None)
    assert isinstance(raw, np.ndarray)
    assert is_adv.any()
    assert (((raw @ weights).argmax(1) != y) == is_adv).all()


def test_foolbox_lacks_some_distances():
    with pytest.raises(rk.BadInput, match="l0-pixels"):
        as_foolbox(rk.FMN(), "l0-pixels")
    assert as_foolbox(rk.FMN(), "l0").distance == foolbox.distances.l0
