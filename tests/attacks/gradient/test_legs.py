import pytest

from robustkit.attacks.gradient.legs import plan

TOURS = {
    "linf": [None],
    "l2": ["linf", None],
    "l1": ["linf", "l2", None],
    "l0": ["linf", "l1", None],
}


@pytest.mark.parametrize("norm", TOURS)
def test_a_tour_comes_by_way_of_denser_norms(norm):
    legs = plan(norm, 96)[: len(TOURS[norm])]
    assert [leg.norm for leg in legs] == TOURS[norm]
    assert [leg.start for leg in legs] == ["origin"] + ["here"] * (len(legs) - 1)


@pytest.mark.parametrize("norm", TOURS)
def test_more_steps_make_more_rounds_each_another_way(norm):
    # The dense norms begin earlier with more.
    some = (2, 3) if norm in ("linf", "l2") else (1, 2)
    expected = (1, 1, *some, 7, 12)
    for steps, rounds in zip((1, 22, 60, 96, 300, 10_000), expected, strict=True):
        legs = plan(norm, steps)
        if norm == "l2" and steps > 1000:
            # Walks from noise take the place of the later tours.
            rounds = 4
        ways = {leg.way for leg in legs if not leg.tries}
        assert ways == {None, *range(1, rounds)}
    starts = [leg.start for leg in plan(norm, 300) if leg.norm is None]
    assert {"middle", "origin", "noise", "best"} <= {*starts, "origin"}


@pytest.mark.parametrize("norm", TOURS)
def test_many_steps_in_dense_norms_search_for_starts(norm):
    assert not any(leg.tries for leg in plan(norm, 500))
    for steps in (600, 959, 10_000):
        legs = plan(norm, steps)
        searches = [at for at, leg in enumerate(legs) if leg.tries]
        assert bool(searches) == (norm in ("linf", "l2"))
        total = sum(leg.length for leg in legs)
        for at in searches:
            # Several tries each, and a walk from the best of them.
            assert legs[at].length * steps / total > 2 * legs[at].tries + 1
            assert legs[at + 1].start == "kept"
        if len(searches) > 1:
            assert {legs[at].way for at in searches} == {0, 1}


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_best_point_is_walked_on_from_in_the_end(norm):
    for steps in (96, 300):
        legs = plan(norm, steps)
        assert [leg.start for leg in legs[-2:]] == ["best", "best"]
        share = sum(leg.length for leg in legs[-2:]) / sum(leg.length for leg in legs)
        assert share == pytest.approx(0.22)


@pytest.mark.parametrize("norm", ["l1", "l0"])
def test_few_steps_are_not_spent_on_long_ways(norm):
    for steps in (16, 22, 28, *([60] if norm == "l1" else [])):
        legs = plan(norm, steps)
        assert [leg.start for leg in legs[:2]] == ["origin", "here"]
        assert [leg.start for leg in legs].count("middle") == 1
        assert legs[0].norm == "linf"
        assert legs[0].length <= 5
        # As many as there are: none is stretched.
        assert sum(leg.length for leg in legs) == pytest.approx(steps)


@pytest.mark.parametrize("norm", TOURS)
def test_a_single_way_is_gone_once_before_there_are_many_steps(norm):
    few = [leg.start for leg in plan(norm, 90, True)]
    assert [few.count(start) for start in ("origin", "middle", "noise")] == [1, 1, 0]
    assert plan(norm, 20, True) == plan(norm, 20)
    assert plan(norm, 500, True) == plan(norm, 500)


def test_the_longer_a_walk_in_l1_the_smaller_its_first_steps():
    walks = [[leg.along for leg in plan("l1", steps)[1:]] for steps in (20, 29, 60)]
    assert walks[0] == [1.0, 1.0, 0.5]
    assert all(shorter > longer for shorter, longer in zip(*walks[:2], strict=True))
    assert min(walks[2]) > 0.3


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_few_steps_begin_once_in_the_end(norm):
    for steps in (20, 29, 39):
        legs = plan(norm, steps)
        assert [leg.start for leg in legs].count("best") == 1
        assert legs[-1].start == "best"
        assert legs[-1].length >= 0.3 * steps
        assert sum(leg.length for leg in legs) == pytest.approx(steps)


@pytest.mark.parametrize("norm", TOURS)
def test_fewer_steps_than_two_starts_need_go_straight(norm):
    for steps in (1, 2, 4):
        legs = plan(norm, steps)
        assert [leg.start for leg in legs] == ["origin", "best"]
        assert all(leg.norm is None for leg in legs)
        assert all(leg.exchange or leg.along for leg in legs)


def test_features_are_exchanged_for_l0_only():
    for norm in TOURS:
        for steps in (22, 300):
            legs = plan(norm, steps)
            assert any(leg.exchange for leg in legs) == (norm == "l0")
