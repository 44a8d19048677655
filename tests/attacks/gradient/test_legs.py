import pytest

from robustkit.attacks.gradient.legs import plan

TOURS = {
    "linf": [None],
    "l2": ["linf", None],
    "l1": ["linf", "l2", None],
    "l0": ["linf", "l2", None],
}


@pytest.mark.parametrize("norm", TOURS)
def test_a_tour_comes_by_way_of_denser_norms(norm):
    legs = plan(norm, 30)[: len(TOURS[norm])]
    assert [leg.norm for leg in legs] == TOURS[norm]
    assert [leg.start for leg in legs] == ["origin"] + ["here"] * (len(legs) - 1)


@pytest.mark.parametrize("norm", TOURS)
def test_more_steps_make_more_rounds_each_another_way(norm):
    for steps, rounds in ((1, 1), (30, 1), (96, 2), (300, 7), (10_000, 12)):
        legs = plan(norm, steps)
        ways = {leg.way for leg in legs}
        assert ways == {None, *range(1, rounds)}
        assert [leg.start for leg in legs[-2:]] == ["best", "best"]
        share = sum(leg.length for leg in legs[-2:]) / sum(leg.length for leg in legs)
        assert share == pytest.approx(0.22)
    starts = [leg.start for leg in plan(norm, 300) if leg.norm is None]
    assert {"middle", "origin", "noise", "best"} <= {*starts, "origin"}
