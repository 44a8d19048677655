"""The same runs on several processes of this machine."""

import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import robustkit as rk
from robustkit.errors import BadInput
from tests.evaluation.folders import contents
from tests.models.server import Server

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
    if not driver and (here / "lack").exists():
        from robustkit.errors import MissingPackage
        raise MissingPackage("tuna", "fish", "the model")
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
        evaluate(named / "run", rk.PoolEngine(1), progress=stop)
    (named / "kill").touch()
    with pytest.raises(RuntimeError, match="a worker was lost"):
        rk.resume(named / "run", engine=rk.PoolEngine(1))
    (named / "kill").unlink()
    results = rk.resume(named / "run", engine=rk.PoolEngine(1))
    assert contents(results.path) == contents(local.path)


def test_what_workers_raise_is_raised_here(named):
    (named / "refuse").touch()
    with pytest.raises(BadInput, match="not today"):
        evaluate(named / "run", rk.PoolEngine(1))
    with pytest.raises(BadInput, match="at least 1; got 0"):
        rk.PoolEngine(0)


def test_what_workers_raise_and_pickle_cannot_bring_back_is_told(named):
    (named / "lack").touch()
    with pytest.raises(BadInput, match="the model needs the package 'tuna'"):
        evaluate(named / "run", rk.PoolEngine(1))


def test_a_model_that_is_another_one_in_each_process_is_refused(named):
    (named / "net.py").write_text(
        "import os, torch\n"
        "def build():\n"
        "    net = torch.nn.Linear(6, 3, bias=False)\n"
        "    drawn = torch.Generator().manual_seed(os.getpid())\n"
        "    net.weight.data = torch.randn(3, 6, generator=drawn)\n"
        "    return net.eval()\n"
    )
    with pytest.raises(BadInput, match="that a worker loaded is not the one") as caught:
        rk.evaluate(
            "net.py:build", "data.npz", attacks=["fmn"], engine=rk.PoolEngine(1)
        )
    assert len(set(re.findall(r"\b[0-9a-f]{16}\b", str(caught.value)))) == 2


def test_workers_send_the_headers_and_share_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "7")
    x = np.random.default_rng(0).random((4, 1, 4, 4)).astype(np.float32)
    with Server() as server:
        rk.evaluate(
            server.url,
            (x, server.scores(x).argmax(axis=1)),
            attacks=["gaussian-noise"],
            budget=5,
            headers={"Authorization": "Bearer ENV:SOME_KEY"},
            cache=tmp_path / "answers.db",
            engine=rk.PoolEngine(1),
        )
    assert {sent["Authorization"] for sent in server.headers} == {"Bearer 7"}
    sent = np.concatenate(server.inputs).reshape(-1, 16)
    # More than the originals, and none of them twice.
    assert len(np.unique(sent, axis=0)) == len(sent) > 4


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


SCRIPT = """
import os, sys, time
from pathlib import Path
if __name__ == "__mp_main__" and Path("slow-start").exists():
    Path(f"starting-{os.getpid()}").touch()
    time.sleep(4)
from robustkit.cli import main
if __name__ == "__main__":
    Path("driver").write_text(str(os.getpid()))
    main(["eval", "model.py:build", "--data", "data.npz", "--attacks", "boundary",
          "--norm", "l2", "--batch-size", "6", "--workers", "2", "--out", "run"])
"""


def called(folder):
    """A process of its own, and group, that evaluates with two workers."""
    (folder / "driver.py").write_text(SCRIPT)
    return subprocess.Popen(
        [sys.executable, "driver.py"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
def test_an_interrupt_while_workers_start_is_one_message(named):
    """On a terminal, Ctrl-C is for all of them."""
    (named / "slow-start").touch()
    process = called(named)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len(list(named.glob("starting-*"))) < 2:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "interrupted; what was finished is in run" in errors
    assert "Traceback" not in errors


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_the_process_that_called(named, number):
    (named / "slow").touch()
    process = called(named)
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
