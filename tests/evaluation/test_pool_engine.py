"""The same runs on several processes of this machine."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

import robustkit as rk
from robustkit.errors import BadInput

# Scores are sums over the features of each row by itself, so that no rounding depends
# on which other rows are there. What is in the folder tells the model how to fail.
MODEL = """
import os, signal, time
from pathlib import Path
import numpy as np
import robustkit.models.numpy as numpy_models

here = Path(__file__).parent
with np.load(here / "parts.npz") as arrays:
    weights = arrays["w"]
with open(here / "loaded", "a") as file:
    file.write(f"{os.getpid()}\\n")

def scores(x):
    driver = os.getpid() == int((here / "driver").read_text())
    if not driver and (here / "kill").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    if not driver and (here / "refuse").exists():
        from robustkit.errors import BadInput
        raise BadInput("not today")
    if (here / "slow").exists():
        time.sleep(0.05)
    return (x[:, :, None] * weights).sum(axis=1)

def build():
    print("this is no result")
    return numpy_models.NumPyModel(scores)
"""


@pytest.fixture
def named(plant, tmp_path, monkeypatch):
    """The folder of a model and data that have names."""
    planted = plant(seed=5, samples=20, features=6, bounds=(0.0, 1.0), dtype=np.float32)
    np.savez(tmp_path / "parts.npz", x=planted.x, w=planted.w)
    np.savez(tmp_path / "data.npz", x=planted.x, y=planted.y)
    (tmp_path / "driver").write_text(str(os.getpid()))
    (tmp_path / "model.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def evaluate(out, engine="local", **changes):
    settings = {
        "norm": ["l2", "linf"],
        "attacks": ["boundary", "gaussian-noise"],
        "budget": 30,
        "batch_size": 6,
        "engine": engine,
        "out": out,
    }
    return rk.evaluate("model.py:build", "data.npz", **{**settings, **changes})


def contents(run):
    """The tables' bytes, without the column of seconds."""
    lines = (run / "samples.csv").read_text().splitlines()
    place = lines[0].split(",").index("seconds")
    rows = [line.split(",") for line in lines]
    table = [row[:place] + row[place + 1 :] for row in rows]
    files = ("best.npz", "queries.csv", "examples.npz", "traces.npz")
    return table, [(run / name).read_bytes() for name in files]


def test_what_comes_out_is_the_same_and_the_model_is_loaded_once(named):
    seen = []
    local = evaluate(named / "local")
    (named / "loaded").unlink()
    spread = evaluate(named / "spread", rk.PoolEngine(2), progress=seen.append)
    assert contents(spread.path) == contents(local.path)
    assert spread.run["config"] == local.run["config"]
    assert spread.run["engine"] == {"name": "local", "workers": 2}
    loaded = (named / "loaded").read_text().split()
    assert len(loaded) == len(set(loaded)) <= 3
    assert len(loaded) > 1
    # Four batches of two norms and two attacks.
    assert len({(at.first, at.norm, at.attack) for at in seen}) == len(seen) == 16


def test_a_lost_worker_ends_the_run_and_loses_nothing(named):
    local = evaluate(named / "local")

    def stop(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(named / "run", rk.PoolEngine(2), progress=stop)
    (named / "kill").touch()
    with pytest.raises(RuntimeError, match="a worker was lost"):
        rk.resume(named / "run", engine=rk.PoolEngine(2))
    (named / "kill").unlink()
    results = rk.resume(named / "run", engine=rk.PoolEngine(2))
    assert contents(results.path) == contents(local.path)


def test_what_workers_raise_is_raised_here(named):
    (named / "refuse").touch()
    with pytest.raises(BadInput, match="not today"):
        evaluate(named / "run", rk.PoolEngine(2))
    with pytest.raises(BadInput, match="at least 1; got 0"):
        rk.PoolEngine(0)


def test_what_cannot_be_sent_is_told(named):
    with np.load("data.npz") as data:
        given = data["x"], data["y"]
    with pytest.raises(BadInput, match="cannot be sent to workers"):
        rk.evaluate(
            lambda x: x[:, :3],
            given,
            attacks=["gaussian-noise"],
            engine=rk.PoolEngine(2),
        )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_the_process_that_called(named, number):
    (named / "slow").touch()
    script = textwrap.dedent(
        f"""
        import os, sys
        from pathlib import Path
        from robustkit.cli import main
        if __name__ == "__main__":
            Path("driver").write_text(str(os.getpid()))
            main(["eval", "model.py:build", "--data", "data.npz", "--attacks",
                  "boundary", "--norm", "l2", "--batch-size", "6", "--workers", "2",
                  "--out", {str(named / "run")!r}])
        """
    )
    (named / "driver.py").write_text(script)
    process = subprocess.Popen(
        [sys.executable, "driver.py"], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    loaded = named / "loaded"
    while time.monotonic() < deadline:
        if loaded.exists() and len(loaded.read_text().split()) == 3:
            break
        time.sleep(0.05)
    workers = [int(pid) for pid in loaded.read_text().split()]
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    if number == signal.SIGINT:
        assert process.returncode == 130, errors
        assert "to go on: robustkit eval --resume" in errors
        assert "Traceback" not in errors
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, workers))


def alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{process}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"
