import contextlib
import importlib.util
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import robustkit as rk
from robustkit.attacks.gradient.pgd import PGD
from robustkit.combine import Cascade
from robustkit.engine.ledger import Ledger
from robustkit.errors import BadInput
from robustkit.evaluation.deadline import OutOfTime
from robustkit.models.numpy import NumPyModel
from tests.evaluation.folders import contents

CONFTEST = Path(__file__).resolve().parents[1] / "conftest.py"


@pytest.fixture(scope="module")
def planted(plant):
    return plant(seed=5, samples=30, features=6, bounds=(0.0, 1.0), dtype=np.float32)


def evaluate(planted, out, model=None, **changes):
    settings = {
        "norm": ["l2", "linf"],
        "attacks": ["fmn", "gaussian-noise"],
        "budget": 30,
        "batch_size": 6,
        "out": out,
    }
    return rk.evaluate(
        model or planted.model(), (planted.x, planted.y), **{**settings, **changes}
    )


@pytest.fixture(scope="module")
def whole(planted, tmp_path_factory):
    """A run that nothing interrupted."""
    return evaluate(planted, tmp_path_factory.mktemp("whole") / "run").path


def same_name(planted, scores):
    """A model that only its answers tell from the planted one."""
    return NumPyModel(scores, gradient=planted.gradient, name="logits")


def stop_after(shards):
    """A callback that interrupts once so many attacks on batches are done."""
    seen = []

    def progress(at):
        part = (at.first, at.norm, at.attack)
        if part not in seen:
            seen.append(part)
        if len(seen) > shards:
            raise KeyboardInterrupt

    return progress


@pytest.fixture
def interrupted(planted, tmp_path, monkeypatch):
    """A run that ended in its third batch, as users end them."""
    monkeypatch.setattr("robustkit.evaluation.batch.PROGRESS_INTERVAL", 0.0)
    with pytest.raises(KeyboardInterrupt):
        evaluate(planted, tmp_path / "run", progress=stop_after(9))
    return tmp_path / "run"


def test_the_same_call_goes_on(planted, interrupted, whole):
    kept = rk.Results(interrupted)
    assert kept.run["status"] == "interrupted"
    assert len(kept.index) == 18
    results = evaluate(planted, interrupted)
    assert contents(interrupted) == contents(whole)
    assert results.run["status"] == "complete"
    assert len(results.run["resumed"]) == 1
    assert {path.name for path in interrupted.iterdir()} == {
        "run.json",
        "samples.csv",
        "queries.csv",
        "best.npz",
        "traces.npz",
        "summary.json",
        "examples.npz",
    }


def test_nothing_finished_is_done_again(planted, interrupted):
    asked = []

    def scores(x):
        asked.append(len(x))
        return planted.logits(x)

    def answers(model):
        asked.clear()
        evaluate(planted, interrupted, model)
        return sum(asked)

    model = same_name(planted, scores)
    again = answers(model)
    interrupted = interrupted.with_name("anew")
    anew = answers(model)
    # 9 of 20 attacks on batches were finished.
    assert again < 0.6 * anew


def test_samples_of_a_run_that_goes_on_do_not_get_lost(planted, interrupted):
    """An end before the first new shard leaves the tables as they were."""
    before = contents(interrupted)
    broken = same_name(planted, lambda x: planted.logits(1 - x))
    with pytest.raises(BadInput, match="predicts other classes"):
        evaluate(planted, interrupted, broken)
    assert contents(interrupted) == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 1}, r"config\.seed was 0, is 1"),
        ({"budget": 31}, r"config\.budget was 30, is 31"),
        ({"batch_size": 5}, r"config\.batch_size was 6, is 5"),
        ({"attacks": ["fmn"]}, r"config\.attacks\.l2\.gaussian-noise was "),
    ],
)
def test_other_settings_are_refused_and_named(planted, interrupted, change, words):
    with pytest.raises(BadInput, match=words):
        evaluate(planted, interrupted, **change)


@pytest.mark.parametrize("again", ["blind", "other", "none"])
def test_another_pool_is_refused(planted, tmp_path, again):
    pools = {
        "first": (planted.x, planted.y),
        "blind": planted.x,
        "other": (planted.x[1:], planted.y[1:]),
        "none": None,
    }
    settings = {"attacks": ["fmn", "gaussian-noise"], "pool": pools["first"]}
    with pytest.raises(KeyboardInterrupt):
        evaluate(planted, tmp_path / "run", progress=stop_after(3), **settings)
    with pytest.raises(BadInput, match=r"config\.pool was|pool\.fingerprint was '"):
        evaluate(planted, tmp_path / "run", **settings | {"pool": pools[again]})
    assert evaluate(planted, tmp_path / "run", **settings).run["status"] == "complete"


def test_other_data_are_refused(planted, interrupted):
    changed = planted.x.copy()
    changed[7] = 1 - changed[7]
    with pytest.raises(BadInput, match="made on other data: batch 1"):
        rk.evaluate(
            planted.model(),
            (changed, planted.y),
            norm=["l2", "linf"],
            attacks=["fmn", "gaussian-noise"],
            budget=30,
            batch_size=6,
            out=interrupted,
        )


def test_a_damaged_shard_is_made_anew_and_said_so(planted, interrupted, whole):
    shard = sorted((interrupted / ".shards").glob("*.shard"))[4]
    content = bytearray(shard.read_bytes())
    content[-300] ^= 4
    shard.write_bytes(content)
    results = evaluate(planted, interrupted)
    assert contents(interrupted) == contents(whole)
    assert results.run["notes"] == [
        "damaged on the disk and made anew: 00000001-0000.shard"
    ]


def test_a_run_of_objects_cannot_be_resumed_by_its_folder(interrupted):
    with pytest.raises(BadInput, match=r"Python objects \(model, data\)"):
        rk.resume(interrupted)


def test_a_run_by_names_is_resumed_by_its_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("robustkit.evaluation.batch.PROGRESS_INTERVAL", 0.0)
    settings = {
        "attacks": ["fmn"],
        "epsilons": {"l2": (0.25, 0.5)},
        "norm": "l2",
        "samples": 24,
        "budget": 5,
        "batch_size": 8,
        "mean": [0.1],
        "std": [0.9],
    }
    expected = rk.evaluate("digits", "digits", out=tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        rk.evaluate(
            "digits",
            "digits",
            out=tmp_path / "run",
            progress=stop_after(1),
            **settings,
        )
    told = Board()
    results = rk.resume(tmp_path / "run", trackers=[told])
    assert contents(results.path) == contents(expected.path)
    assert results.run["config"] == expected.run["config"]
    assert told.last["l2/median"] == results.curve().quantile(0.5)
    # Complete, so there is nothing to do.
    assert rk.resume(tmp_path / "run").run == results.run


class Board:
    """The least that a tracker has."""

    def __init__(self):
        self.last = {}

    def add_scalar(self, tag, value, global_step):
        self.last[tag] = value


@pytest.mark.parametrize("epsilons", [None, [0.05, 0.1]])
def test_what_scores_were_searched_for_first_is_searched_for_again(
    tmp_path, monkeypatch, epsilons
):
    monkeypatch.setattr("robustkit.evaluation.batch.PROGRESS_INTERVAL", 0.0)
    settings = {"access": "score", "samples": 12, "budget": 20, "batch_size": 6}
    settings["epsilons"] = epsilons
    expected = rk.evaluate("digits", "digits", out=tmp_path / "whole", **settings)
    first = expected.run["config"]["attacks"]["linf"]["auto"]
    assert ("first=0.1" in first) == (epsilons is not None)
    out, stop = tmp_path / "run", stop_after(1)
    with pytest.raises(KeyboardInterrupt):
        rk.evaluate("digits", "digits", out=out, progress=stop, **settings)
    results = rk.resume(tmp_path / "run")
    assert contents(results.path) == contents(expected.path)


def test_a_full_disk_ends_the_run_and_loses_nothing(planted, tmp_path):
    """In place of a small disk, the system's own limit on the size of files."""
    resource = pytest.importorskip("resource", reason="POSIX has limits on files")
    attacks = ["fmn", "gaussian-noise", "uniform-noise"]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        # A shard is some 11,000 bytes; the table passes 12,000 at the fourth batch.
        resource.setrlimit(resource.RLIMIT_FSIZE, (12000, hard))
        with pytest.raises(OSError, match="File too large"):
            evaluate(planted, tmp_path / "run", attacks=attacks)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    kept = list((tmp_path / "run" / ".shards").glob("*.shard"))
    assert 0 < len(kept) < 5 * 2 * len(attacks)
    evaluate(planted, tmp_path / "run", attacks=attacks)
    evaluate(planted, tmp_path / "whole", attacks=attacks)
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def test_a_model_that_hangs_is_given_up(planted, tmp_path):
    def scores(x):
        # One sample is looked at for a whole minute, once it is moved.
        slow = np.abs(x - planted.x[3]).max(axis=1)
        if ((slow > 0) & (slow < 0.3)).any() and len(x) == 1:
            time.sleep(60)
        return planted.logits(x)

    began = time.monotonic()
    results = evaluate(
        planted,
        tmp_path / "run",
        same_name(planted, scores),
        norm="linf",
        attacks=["fmn"],
        batch_size=1,
        samples=6,
        time_limit=1.0,
    )
    assert time.monotonic() - began < 30
    table, _ = contents(results.path)
    reasons = {row[0]: row[-1] for row in table[1:]}
    assert reasons["3"] == "stopped after 1 seconds"
    assert [reasons[i] for i in "01245"] == [""] * 5


def test_a_model_without_an_answer_in_time_has_no_prediction(planted, tmp_path):
    def scores(x):
        if (x == planted.x[3]).all():
            time.sleep(3)
        return planted.logits(x)

    results = evaluate(
        planted,
        tmp_path / "run",
        same_name(planted, scores),
        norm="linf",
        attacks=["fmn"],
        budget=20,
        batch_size=1,
        samples=4,
        time_limit=1.0,
    )
    table, _ = contents(results.path)
    reasons = {row[0]: row[-1] for row in table[1:]}
    said = "TimeoutError: no answer for the original within 1 seconds"
    assert [reasons[i] for i in "0123"] == ["", "", "", said]
    assert results.prediction[3] == -1


def test_what_was_found_counts_though_time_is_over_at_the_very_end(
    planted, tmp_path, monkeypatch
):
    """While those who left early and the others are put together again."""
    attack = Cascade((PGD(epsilon=0.2, steps=20),), epsilon=0.2)
    settings = {"norm": "linf", "attacks": {"pgd": attack}}
    whole = evaluate(planted, tmp_path / "whole", **settings)
    close, cut = Ledger.close, []

    def cut_off(ledger):
        cut.append(len(ledger.forwards))
        if len(cut) == 1:
            raise OutOfTime
        close(ledger)

    monkeypatch.setattr(Ledger, "close", cut_off)
    late = evaluate(planted, tmp_path / "late", time_limit=600, **settings)
    assert cut[0] < 6
    found = np.isfinite(whole.distance)
    assert found[:6].any()
    assert np.array_equal(late.distance[found], whole.distance[found])


@pytest.mark.slow
def test_killed_at_thirty_moments_ends_as_if_nothing_had_been(tmp_path):
    """SIGKILL, again and again, over full runs."""
    # In a process of its own, because one with threads, as JAX has, must not fork.
    code = f"import runpy; runpy.run_path({__file__!r}, run_name='killing')"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 30


def complete(run):
    """Whether nothing is left to do; a kill may come even later than that."""
    return (run / "summary.json").exists() and not (run / ".shards").exists()


def killing(folder):
    """Start runs and kill them, until 30 kills met one; print how many did."""
    spec = importlib.util.spec_from_file_location("conftest", CONFTEST)
    conftest = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conftest)
    planted = conftest.Planted(
        seed=5, samples=30, features=6, bounds=(0.0, 1.0), dtype=np.float32
    )
    expected = contents(evaluate(planted, folder / "whole").path)
    chance, kills = random.Random(0), 0
    for attempt in itertools.count():
        run, patience = folder / f"run-{attempt}", time.monotonic() + 5
        while kills < 30 and time.monotonic() < patience and not complete(run):
            child = os.fork()
            if child == 0:
                with contextlib.suppress(BaseException):
                    evaluate(planted, run)
                    os._exit(0)
                os._exit(1)
            time.sleep(chance.uniform(0.02, 0.4))
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                assert status == 0
                break
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            kills += 1
        if not complete(run):
            evaluate(planted, run)
        assert contents(run) == expected
        json.loads((run / "summary.json").read_text())
        if kills >= 30:
            break
    print(kills)


if __name__ == "killing":
    killing(Path(sys.argv[1]))
