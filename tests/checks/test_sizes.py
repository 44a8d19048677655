import numpy as np
import pytest

import robustkit as rk
from robustkit.checks.sizes import only_size


@pytest.mark.parametrize("size", [0.05, np.float64(0.05), np.float32(0.05)])
def test_attacks_for_one_size_show_it(size):
    for attack in (rk.PGD(size), rk.Cascade((rk.PGD(size),), size)):
        found = only_size(repr(attack))
        assert found is not None
        assert found[0] == pytest.approx(0.05)
        assert found[1] == only_size(repr(attack).replace("0.05", "0.7"))[1]


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("version", ["standard", "rand"])
def test_autoattack_shows_its_size(norm, version):
    assert only_size(repr(rk.autoattack(0.05, norm, version)))[0] == 0.05


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0", "l0-pixels"])
@pytest.mark.parametrize("access", ["gradient", "score", "decision"])
def test_auto_and_a_search_over_the_radius_may_go_anywhere(norm, access):
    for budget in (None, 1, 2, 7, 49, 50, 300, 1000, 10**6):
        for epsilon in (None, 0.1):
            attack = rk.auto(norm, budget, access, epsilon)
            assert only_size(repr(attack)) is None, attack


def test_attacks_that_may_go_anywhere_show_none():
    attacks = [rk.FMN(), rk.get_attack("pgd"), rk.get_attack("thompson")]
    attacks += [rk.auto("linf"), rk.Cascade((rk.PGD(0.1), rk.PGD(0.2)))]
    for attack in attacks:
        assert only_size(repr(attack)) is None, attack
    assert only_size("Mine(epsilon=None)") is None
