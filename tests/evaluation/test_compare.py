import json
from dataclasses import dataclass

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

import robustkit as rk
from robustkit.errors import BadInput
from robustkit.evaluation.tables import QUERIES
from robustkit.report.charts import Named, curve_chart
from robustkit.report.tables import comparison_tables
from robustkit.report.terminal import print_comparison


@pytest.fixture(scope="module")
def planted(plant):
    return plant(seed=8, samples=40, features=6, bounds=(0.0, 1.0), dtype=np.float32)


@pytest.fixture(scope="module")
def runs(planted, tmp_path_factory):
    """A weak and a strong attack on one model, and some of the samples only."""
    folder = tmp_path_factory.mktemp("runs")

    def run(name, attacks, samples=None, norm=("linf", "l2")):
        return rk.evaluate(
            planted.model(),
            (planted.x, planted.y),
            attacks=attacks,
            norm=norm,
            budget=40,
            epsilons=(0.05, 0.1, 0.2, 0.4),
            samples=samples,
            out=folder / name,
        )

    return {
        "weak": run("weak", ["uniform-noise"]),
        "strong": run("strong", ["fmn", "uniform-noise"]),
        "some": run("some", ["fmn"], samples=15),
        "l1": run("l1", ["fmn"], norm=("l1",)),
    }


def test_a_run_is_like_itself(runs):
    pair = rk.compare([runs["weak"], runs["weak"].path]).pairs[0]
    assert pair.ratio == (1.0, 1.0, 1.0)
    for difference in pair.differences:
        assert difference.difference == (0.0, 0.0, 0.0)
        assert (difference.only_first, difference.only_second) == (0, 0)
        assert difference.p_value == 1.0


def test_a_stronger_attack_is_nearer_everywhere(runs):
    for pair in rk.compare([runs["weak"], runs["strong"]]).pairs:
        one, two = (runs[name].distances(pair.norm) for name in ("weak", "strong"))
        assert (pair.first, pair.second, pair.samples) == ("weak", "strong", 40)
        both = np.isfinite(one) & np.isfinite(two)
        assert pair.ratio.estimate == pytest.approx(
            np.exp(np.log(two[both] / one[both]).mean())
        )
        assert pair.ratio.lower < pair.ratio.estimate < pair.ratio.upper < 1
        assert pair.nearer == (two < one)[both].mean()
        for difference, epsilon in zip(
            pair.differences, (0.05, 0.1, 0.2, 0.4), strict=True
        ):
            stands = [(d > epsilon * (1 + 1e-5)).sum() for d in (one, two)]
            assert difference.epsilon == epsilon
            assert difference.robust_accuracy == (stands[0] / 40, stands[1] / 40)
            assert difference.only_second == 0
            assert difference.only_first == stands[0] - stands[1]
            # All discordant samples on one side: two tails of a fair coin.
            expected = min(2 * 0.5 ** int(difference.only_first), 1.0)
            assert difference.p_value == pytest.approx(expected)


def test_the_bootstrap_is_that_of_scipy(runs):
    pair = rk.compare([runs["weak"], runs["strong"]]).pairs[0]
    one, two = (runs[name].distances("linf") for name in ("weak", "strong"))
    stands = [(d > 0.1 * (1 + 1e-5)).astype(float) for d in (one, two)]
    expected = stats.bootstrap(
        (stands[1] - stands[0],), np.mean, method="percentile", rng=0
    ).confidence_interval
    found = pair.differences[1].difference
    assert found.lower == pytest.approx(expected.low, abs=0.03)
    assert found.upper == pytest.approx(expected.high, abs=0.03)


def test_only_samples_in_both_count(runs):
    pair = rk.compare([runs["strong"], runs["some"]]).pairs[0]
    assert pair.samples == 15


def test_local_optimality_by_areas(runs):
    comparison = rk.compare([runs["weak"], runs["strong"]])
    found = {(a.run, a.norm, a.attack): a for a in comparison.attacks}
    assert len(found) == 2 * 3
    for norm in ("linf", "l2"):
        envelope = np.minimum(
            runs["weak"].distances(norm), runs["strong"].distances(norm)
        )
        largest = envelope.max()
        grid = (np.arange(200_000) + 0.5) / 200_000 * largest

        def area(distance, grid=grid, largest=largest):
            above = np.searchsorted(np.sort(distance), grid, side="right")
            return (1 - above / len(distance)).mean() * largest

        for (run, of, attack), value in found.items():
            if of == norm:
                reached = area(runs[run].distances(norm, attack))
                expected = (largest - reached) / (largest - area(envelope))
                assert value.local_optimality == pytest.approx(expected, abs=1e-4)
        noise, fmn = found["weak", norm, "uniform-noise"], found["strong", norm, "fmn"]
        assert noise.local_optimality < fmn.local_optimality <= 1
        # A forward and a backward pass per step.
        assert fmn.passes == pytest.approx(80, abs=2)


def test_at_equal_passes_only_what_was_known_by_then_counts(runs):
    comparison = rk.compare([runs["weak"], runs["strong"]])
    for norm in ("linf", "l2"):
        found = [a for a in comparison.attacks if a.norm == norm]
        assert {a.equal_passes for a in found} == {20}
        place = QUERIES.index(20)
        early = [
            runs[a.run].distances_after(a.attack, norm, backward=True)[:, place]
            for a in found
        ]
        # A question to gradients counts twice.
        half = runs["strong"].distances_after("fmn", norm)[:, QUERIES.index(10)]
        np.testing.assert_array_equal(
            early[[(a.run, a.attack) for a in found].index(("strong", "fmn"))], half
        )
        envelope = np.min(early, axis=0)
        largest = envelope[np.isfinite(envelope)].max()
        grid = (np.arange(100_000) + 0.5) / 100_000 * largest

        def area(distance, grid=grid, largest=largest):
            above = np.searchsorted(np.sort(distance), grid, side="right")
            return (1 - above / len(distance)).mean() * largest

        for distance, value in zip(early, found, strict=True):
            expected = (largest - area(distance)) / (largest - area(envelope))
            assert value.at_equal_passes == pytest.approx(expected, abs=1e-4)
        noise = next(a for a in found if a.attack == "uniform-noise")
        assert noise.at_equal_passes != noise.local_optimality


def test_without_a_record_of_passes_there_is_no_equal_number(runs, tmp_path):
    copy = runs["strong"].save(tmp_path / "copy")
    (copy / "queries.csv").unlink()
    for attack in rk.compare([copy]).attacks:
        assert attack.equal_passes is None
        assert attack.at_equal_passes is None


def test_equal_distances_are_no_division_by_zero(planted):
    one = rk.evaluate(
        planted.model(), (planted.x[:1], planted.y[:1]), attacks=["fmn"], budget=20
    )
    assert [a.local_optimality for a in rk.compare([one]).attacks] == [1.0]


@dataclass(frozen=True)
class Failing(rk.Attack):
    """Raises, before or after it was let find something."""

    access = rk.Access.DECISION
    norms = frozenset({"linf"})
    steps: int = 1

    def init(self, p):
        raise RuntimeError("out of order")

    def step(self, p, s, t):
        raise AssertionError


def test_an_attack_that_fails_is_credited_with_nothing(planted):
    run = rk.evaluate(
        planted.model(),
        (planted.x, planted.y),
        attacks={"failing": Failing(), "fmn": rk.FMN(steps=20)},
        norm="linf",
    )
    failing, fmn = rk.compare([run]).attacks
    assert failing.local_optimality == 0
    assert fmn.local_optimality == 1
    said = run.summary()["norms"]["linf"]["attacks"]["failing"]
    assert (said["found"], said["errors"]) == (0, 40)
    assert said["median"] == np.inf
    assert {entry["median"] for entry in said["queries"]} <= {np.inf}
    lines = {line.name: line for line in curve_chart([Named("a", run)], "linf").series}
    assert set(lines["failing"].y) == {1.0}


def test_one_run_compares_its_attacks(runs):
    comparison = rk.compare([runs["strong"]])
    assert comparison.pairs == ()
    assert {a.attack for a in comparison.attacks} == {"fmn", "uniform-noise"}
    json.dumps(comparison.to_json())


def test_runs_that_cannot_be_compared(runs, planted):
    with pytest.raises(BadInput, match=r"no norm in common: linf, l2; l1"):
        rk.compare([runs["strong"], runs["l1"]])
    with pytest.raises(BadInput, match="no run was named"):
        rk.compare([])
    other = rk.evaluate(
        planted.model(), (planted.x[::-1].copy(), planted.y[::-1].copy()), budget=5
    )
    with pytest.raises(BadInput, match="of other data"):
        rk.compare([runs["strong"], other])


def test_unfinished_work_is_no_difference(planted, tmp_path):
    """The second attack was not done with the last of four batches, the first was."""

    def run(name, norm="linf", **settings):
        return rk.evaluate(
            planted.model(),
            (planted.x, planted.y),
            attacks=["fmn", "uniform-noise"],
            norm=norm,
            budget=40,
            epsilons=(0.01, 0.2),
            batch_size=10,
            out=tmp_path / name,
            **settings,
        )

    def stop(progress):
        if progress.first >= 20 and progress.attack == "uniform-noise":
            raise KeyboardInterrupt

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("cut", progress=stop)
    cut = rk.Results(tmp_path / "cut")
    assert len(cut.index) == 30
    assert cut.finished().sum() == 20
    found = rk.compare([cut, whole])
    (pair,) = found.pairs
    assert pair.samples == 20
    assert {d.p_value for d in pair.differences} == {1.0}
    assert {(d.only_first, d.only_second) for d in pair.differences} == {(0, 0)}
    assert len({(a.attack, a.local_optimality) for a in found.attacks}) == 2
    assert [a.passes for a in found.attacks if a.run == "cut"] == [80.0, 40.0]
    assert found.to_json()["notes"] == (
        "The run 'cut' is not finished (interrupted): in linf 20 of 30 samples are, "
        "and only those that the others have finished too are compared.",
    )
    for table in comparison_tables(found):
        assert table.note.startswith(found.notes[0])
    print_comparison(found, console := Console(record=True, width=200))
    assert found.notes[0] in console.export_text()
    assert rk.compare([whole, whole]).notes == ()


def test_attacks_with_other_goals_are_not_held_against_each_other(
    planted, runs, tmp_path
):
    def run(name, **settings):
        return rk.evaluate(
            planted.model(),
            (planted.x, planted.y),
            attacks=["fmn"],
            norm=("linf", "l2"),
            budget=40,
            out=tmp_path / name,
            **settings,
        )

    aimed, again = run("aimed", target="random"), run("again", target="random")
    found = rk.compare([runs["strong"], aimed, again])
    alone = rk.compare([aimed, again])
    assert [a for a in found.attacks if a.run != "strong"] == list(alone.attacks)
    assert [a for a in found.attacks if a.run == "strong"] == list(
        rk.compare(runs["strong"]).attacks
    )
    assert found.notes == (
        "The runs have other goals, so their numbers are of different questions: "
        "'strong' any wrong class, 'aimed' and 'again' the target random of seed 0.",
    )
    assert alone.notes == ()
    other = run("other", target="random", seed=1)
    (note,) = rk.compare([aimed, other]).notes
    assert note.endswith(
        "'aimed' the target random of seed 0, 'other' the target random of seed 1."
    )


def test_of_a_run_that_was_killed_nothing_is_said_at_equal_passes(runs, tmp_path):
    """Its queries.csv holds no more than it did when the run was begun or went on."""
    killed = runs["strong"].save(tmp_path / "killed")
    description = json.loads((killed / "run.json").read_text())
    (killed / "run.json").write_text(json.dumps({**description, "status": "running"}))
    head = (killed / "queries.csv").read_text().splitlines(keepends=True)[0]
    (killed / "queries.csv").write_text(head)
    found = rk.compare(killed).attacks
    assert len({a.local_optimality for a in found}) > 1
    assert {(a.equal_passes, a.at_equal_passes) for a in found} == {(None, None)}


def test_a_run_without_finished_samples_cannot_be_compared(planted, runs, tmp_path):
    def stop(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rk.evaluate(
            planted.model(),
            (planted.x, planted.y),
            attacks=["fmn"],
            out=tmp_path / "run",
            progress=stop,
        )
    with pytest.raises(BadInput, match=r"no finished sample .*'interrupted'.*--resume"):
        rk.compare([runs["weak"], tmp_path / "run"])
    part = rk.evaluate(
        planted.model(), (planted.x, planted.y), attacks=["fmn"], shard=(2, 2)
    )
    assert len(part.index) == 0
    with pytest.raises(
        BadInput, match=r"no finished sample .*'complete'.*; leave it out"
    ):
        rk.compare([runs["weak"], part])


def test_the_seed_of_a_comparison_is_a_whole_number(runs):
    with pytest.raises(BadInput, match="the seed must be a whole number; got 'x'"):
        rk.compare([runs["weak"], runs["strong"]], seed="x")
