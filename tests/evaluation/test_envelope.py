import numpy as np
import pytest

import robustkit as rk
from robustkit.evaluation.envelope import envelope


@pytest.fixture(scope="module")
def run(plant, tmp_path_factory):
    planted = plant(seed=8, samples=30, features=6, bounds=(0.0, 1.0), dtype=np.float32)
    y = planted.y.copy()
    y[:3] = (y[:3] + 1) % 3
    return rk.evaluate(
        planted.model(),
        (planted.x, y),
        attacks=["fmn", "uniform-noise", "gaussian-noise"],
        norm="l2",
        budget=30,
        out=tmp_path_factory.mktemp("run") / "run",
    )


def test_the_nearest_is_the_least_of_all(run):
    found = envelope(run, "l2")
    expected = np.sort(run.distances("l2")[3:])
    np.testing.assert_array_equal(found.nearest, expected)
    stacked = np.array(list(found.distance.values()))
    np.testing.assert_array_equal(stacked.min(axis=0), found.nearest)
    assert found.median == expected[13]


def test_contributions_by_counting(run):
    found = envelope(run, "l2")
    rows = np.array([run.distances("l2", name)[3:] for name in run.attacks("l2")])
    for place, share in enumerate(found.contributions):
        others = np.delete(rows, place, axis=0).min(axis=0)
        assert share.attack == run.attacks("l2")[place]
        assert share.nearest == (rows[place] <= others).sum()
        assert share.alone == share.nearest
        assert share.without == np.sort(others)[13]
    assert sum(share.alone for share in found.contributions) == 27


def test_an_attack_given_twice_is_alone_nowhere(run, plant):
    planted = plant(seed=8, samples=30, features=6, bounds=(0.0, 1.0), dtype=np.float32)
    attack = rk.get_attack("fmn")
    twice = rk.evaluate(
        planted.model(),
        (planted.x, planted.y),
        attacks={"one": attack, "two": attack},
        norm="l2",
        budget=30,
    )
    shares = envelope(twice, "l2").contributions
    assert [(share.nearest, share.alone) for share in shares] == [(30, 0)] * 2
    assert shares[0].without == envelope(twice, "l2").median


def test_samples_that_not_all_attacks_are_done_with_are_left_out(plant, tmp_path):
    planted = plant(seed=8, samples=30, features=6, bounds=(0.0, 1.0), dtype=np.float32)

    def stop(progress):
        at = progress.first, progress.norm, progress.attack
        if at == (20, "linf", "uniform-noise"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rk.evaluate(
            planted.model(),
            (planted.x, planted.y),
            attacks=["fmn", "uniform-noise"],
            norm=["l2", "linf"],
            budget=30,
            batch_size=10,
            progress=stop,
            out=tmp_path / "run",
        )
    cut = rk.Results(tmp_path / "run")
    assert len(envelope(cut, "l2").nearest) == 30
    found = envelope(cut, "linf")
    np.testing.assert_array_equal(found.nearest, np.sort(cut.distances("linf")[:20]))
