import functools
import math
from pathlib import Path

import numpy as np
import pytest

import robustkit as rk
from robustkit.errors import BadInput
from robustkit.evaluation.batch import Progress
from robustkit.evaluation.curve import Curve
from robustkit.evaluation.monitor import Monitor, _Nearest, in_part
from robustkit.evaluation.shards import Shard, ShardKey
from robustkit.evaluation.tables import COLUMNS


class SummaryWriter:
    """With the signatures of torch.utils.tensorboard.SummaryWriter."""

    def __init__(self):
        self.scalars, self.texts, self.flushed = [], [], 0

    def add_scalar(
        self,
        tag,
        scalar_value,
        global_step=None,
        walltime=None,
        new_style=False,
        double_precision=False,
    ):
        self.scalars.append((tag, scalar_value, global_step))

    def add_text(self, tag, text_string, global_step=None, walltime=None):
        self.texts.append((tag, text_string))

    def flush(self):
        self.flushed += 1


class MLflow:
    """With the signatures of the module mlflow."""

    def __init__(self):
        self.params, self.metrics, self.folders = {}, [], []

    def log_params(self, params, synchronous=None, run_id=None):
        assert all(len(value) <= 500 for value in params.values())
        self.params |= params

    def log_metrics(
        self, metrics, step=None, synchronous=None, run_id=None, timestamp=None
    ):
        self.metrics += [(name, value, step) for name, value in metrics.items()]

    def log_artifacts(self, local_dir, artifact_path=None, run_id=None):
        self.folders.append(
            (local_dir, {path.name for path in Path(local_dir).iterdir()})
        )


class WandBRun:
    """With the signatures of a run of wandb."""

    class Config(dict):
        def update(self, d, allow_val_change=None):
            for name, value in d.items():
                assert allow_val_change or name not in self
                self[name] = value

    def __init__(self):
        self.config, self.history = self.Config(), []

    def log(self, data, step=None, commit=None):
        self.history.append(data)


@pytest.fixture(scope="module")
def planted(plant):
    return plant(seed=8, samples=25, features=6, bounds=(0.0, 1.0), dtype=np.float32)


def evaluated(planted, **options):
    settings = {"attacks": ["fmn", "gaussian-noise"], "norm": ["l2", "linf"]}
    return rk.evaluate(
        planted.model(),
        (planted.x, planted.y),
        budget=10,
        batch_size=10,
        **settings | options,
    )


def test_trackers_are_told_settings_steps_and_results(planted, tmp_path):
    board, flow, bees = SummaryWriter(), MLflow(), WandBRun()
    run = evaluated(planted, trackers=[board, flow, bees], out=tmp_path / "run")
    median = run.curve("l2").quantile(0.5)
    shards = 3 * 4
    for metrics in (board.scalars, flow.metrics):
        by_name = {}
        for name, value, step in metrics:
            assert math.isfinite(value)
            by_name.setdefault(name, []).append((step, value))
        steps = [step for step, _ in by_name["samples_times_attacks"]]
        assert steps == list(range(1, shards + 1))
        assert by_name["share"][-1] == (shards, 1.0)
        total = sum(
            run.forward_passes(a, n).sum() for n in run.norms for a in run.attacks(n)
        )
        assert by_name["passes"][-1] == (shards, total)
        assert by_name["l2/median_so_far"][-1][1] == median
        assert by_name["l2/median"] == [(shards + 1, median)]
        assert by_name["clean_accuracy"] == [(shards + 1, 1.0)]
    assert board.flushed == 1
    assert "l2/fmn: FMN(" in board.texts[0][1]
    assert flow.params["l2/fmn"].startswith("FMN(")
    kept = {path.name for path in (tmp_path / "run").iterdir()}
    assert flow.folders == [(str(tmp_path / "run"), kept)]
    assert bees.config["run_folder"] == str(tmp_path / "run")
    assert bees.history[-1]["l2/median"] == median
    assert [e["robustkit/step"] for e in bees.history[:-1]] == list(
        range(1, shards + 1)
    )


def test_a_tracker_that_raises_does_not_end_a_run(planted):
    class Broken(MLflow):
        def log_metrics(self, metrics, step=None):
            raise ConnectionError("no route")

    flow = MLflow()
    with pytest.warns(RuntimeWarning, match="a tracker raised ConnectionError") as all_:
        run = evaluated(planted, trackers=[Broken(), flow])
    assert len(all_) == 1
    assert run.run["status"] == "complete"
    assert len(flow.metrics) > 10


def test_progress_that_raises_is_not_the_models_fault(planted, monkeypatch):
    monkeypatch.setattr("robustkit.evaluation.batch.PROGRESS_INTERVAL", 0.0)

    def broken(event):
        raise ZeroDivisionError("of the caller's")

    with pytest.warns(RuntimeWarning, match="progress raised ZeroDivision") as all_:
        run = evaluated(planted, progress=broken)
    assert len(all_) == 1
    assert "ZeroDivisionError" not in (run.path / "samples.csv").read_text()
    plain = evaluated(planted)
    for norm in run.norms:
        np.testing.assert_array_equal(run.distances(norm), plain.distances(norm))


def test_a_tracker_may_come_alone(planted):
    board = SummaryWriter()
    evaluated(planted, trackers=board)
    assert board.scalars


def test_what_is_no_tracker_is_told(planted):
    with pytest.raises(BadInput, match="got a list"):
        evaluated(planted, trackers=[[]])
    with pytest.raises(BadInput, match="got a int"):
        evaluated(planted, trackers=5)


def test_progress_adds_up(planted, monkeypatch):
    monkeypatch.setattr("robustkit.evaluation.batch.PROGRESS_INTERVAL", 0.0)
    seen = []
    run = evaluated(planted, progress=seen.append)
    overall = [event.overall for event in seen]
    assert overall == sorted(overall)
    assert 0 < overall[0] < 0.1
    # The last attack had no need of all the steps it may take.
    assert 0.9 < overall[-1] <= 1
    # No guess before an attack on a batch is finished.
    first = seen[0].first, seen[0].norm, seen[0].attack
    for event in seen:
        at_first = (event.first, event.norm, event.attack) == first
        assert (event.seconds_left is None) == at_first
    assert all(event.seconds_left >= 0 for event in seen if event.seconds_left)
    assert seen[0].passes_per_second is None
    assert math.isnan(seen[0].median)
    assert seen[-1].passes_per_second > 0
    last = next(e for e in reversed(seen) if (e.norm, e.attack) == ("l2", "fmn"))
    # What was known before the last batch.
    assert last.median == Curve(run.distances("l2")[:20]).quantile(0.5)


def lines(batch, samples, seconds):
    """Of samples.csv, so that the samples together took so long."""
    row = dict.fromkeys(COLUMNS, "0")
    row |= {"distance": "0.5", "forward_passes": "4"}
    rows = [
        row | {"index": str(batch * samples + i), "seconds": str(seconds / samples)}
        for i in range(samples)
    ]
    return "".join(",".join(row[name] for name in COLUMNS) + "\n" for row in rows)


def finished(batch, place, attack, samples=10, seconds=1.0):
    none = np.zeros(0)
    key = ShardKey(batch, place, "l2", attack, "")
    return Shard(key, lines(batch, samples, seconds), none, none, none, none, none)


class Guesses:
    """Of a monitor whose clock stands still unless it is set."""

    def __init__(self, monkeypatch, samples, steps):
        self.now, self.seen = 0.0, []
        monkeypatch.setattr("time.monotonic", lambda: self.now)
        named = {("l2", name): count for name, count in steps.items()}
        self.monitor = Monitor(samples, named, self.seen.append, [])
        self.monitor.begin({})

    def after(self, shard, *, now, seconds, share, busy):
        """The guess when a shard has ended."""
        self.now = now
        self.monitor.shard(shard(seconds=seconds), True)
        at = shard(seconds=seconds).key
        event = Progress(10 * at.batch, 10, "l2", at.attack, share, busy=busy)
        self.monitor.listener(event)
        return self.seen[-1].seconds_left


def test_the_time_left_is_that_of_the_parts_and_not_of_the_start(monkeypatch):
    """Eight batches of 10 s each on two workers that took 30 s to start."""
    guesses = Guesses(monkeypatch, 80, {"one": 100})
    shard = functools.partial(finished, place=0, attack="one")
    left = []
    for batch in range(8):
        now = 30 + 10 * (batch // 2 + 1) + 0.1 * (batch % 2)
        left.append(
            guesses.after(
                functools.partial(shard, batch),
                now=now,
                seconds=10.0,
                share=1.0,
                busy=min(2, 7 - batch) or 1,
            )
        )
    # The first is told as if its neighbour were half done, and that is almost done.
    np.testing.assert_allclose(left[:6], [32.5, 27.5, 22.5, 17.5, 12.5, 7.5])
    assert left[-1] == 0.0


def test_an_attack_that_was_not_run_yet_counts_by_its_steps(monkeypatch):
    guesses = Guesses(monkeypatch, 10, {"short": 10, "long": 990})
    shard = functools.partial(finished, 0, 0, "short")
    assert guesses.after(shard, now=2.0, seconds=2.0, share=0.5, busy=1) == (
        pytest.approx(198.0)
    )


def test_what_is_done_between_attacks_counts_towards_the_time_left(monkeypatch):
    guesses = Guesses(monkeypatch, 30, {"one": 10})
    for batch, expected in ((0, 20.0), (1, 15.0)):
        shard = functools.partial(finished, batch, 0, "one")
        # The second one ends 20 s after the first, of which the attack took 10.
        guess = guesses.after(
            shard, now=15 + 20.0 * batch, seconds=10.0, share=1.0, busy=1
        )
        assert guess == pytest.approx(expected)


def test_the_median_of_very_many_samples_is_that_of_some(monkeypatch):
    """In constant memory, also where batches are dealt out to 16 processes."""
    monkeypatch.setattr("robustkit.evaluation.monitor._MOST", 200)
    nearest = _Nearest()
    rng = np.random.default_rng(0)
    for batch in range(2, 32000, 16):
        for further in (1.0, 0.0):
            nearest.add(batch, rng.uniform(size=5) + further)
    assert len(np.concatenate(list(nearest._of.values()))) <= 200
    assert nearest.median() == pytest.approx(0.5, abs=0.15)


def test_a_run_that_goes_on_counts_what_was_done(planted, tmp_path, monkeypatch):
    monkeypatch.setattr("robustkit.evaluation.batch.PROGRESS_INTERVAL", 0.0)

    def stop(event):
        if event.first >= 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluated(planted, out=tmp_path / "run", progress=stop)
    seen, flow = [], MLflow()
    evaluated(planted, out=tmp_path / "run", progress=seen.append, trackers=[flow])
    assert seen[0].overall > 0.4
    # Passes are those of this process only, so that they give a rate.
    assert seen[0].passes_per_second is None
    assert [step for name, _, step in flow.metrics if name == "share"] == list(
        range(1, 9)
    )


def test_batches_of_a_part():
    for count in (1, 9, 10, 31):
        sizes = [in_part(count, 4, part, 3) for part in (1, 2, 3)]
        assert sum(sizes) == count
    assert in_part(None, 4, 1, 1) is None


def test_data_of_unknown_length_have_no_share(planted, monkeypatch):
    monkeypatch.setattr("robustkit.evaluation.batch.PROGRESS_INTERVAL", 0.0)
    seen = []
    batches = iter([(planted.x[:10], planted.y[:10]), (planted.x[10:], planted.y[10:])])
    rk.evaluate(
        planted.model(), batches, attacks=["fmn"], budget=5, progress=seen.append
    )
    assert {event.overall for event in seen} == {None}
    assert {event.seconds_left for event in seen} == {None}
