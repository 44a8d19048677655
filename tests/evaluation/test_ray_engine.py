"""The same runs on workers of a real Ray on this machine."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest
import torch

import robustkit as rk
from robustkit.errors import BadInput
from robustkit.evaluation.ray_worker import Worker
from tests.evaluation.folders import contents

ray = pytest.importorskip("ray", reason="the extra [ray] is not installed")
# Ray starts its processes by a fork, which JAX warns of where other tests loaded it.
pytestmark = pytest.mark.filterwarnings(
    "ignore:os.fork:RuntimeWarning",
    "ignore:.*_at_fork:pytest.PytestUnraisableExceptionWarning",
)

# Scores are sums over the features of each row by itself, so that no rounding depends
# on which other rows are there. What is in the folder tells the model how to fail.
MODEL = """
import os, signal
from pathlib import Path
import numpy as np
import robustkit as rk

FOLDER = Path(__file__).parent
with np.load(FOLDER / "parts.npz") as file:
    PARTS = dict(file)
DRIVER = int((FOLDER / "driver").read_text())

def logits(x):
    away = np.abs(x[:, None] - PARTS["x"]).max(axis=2)
    if os.getpid() != DRIVER and ((away[:, 13] < 0.2) & (away[:, 13] > 0)).any():
        if (FOLDER / "always").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        if (FOLDER / "once").exists():
            (FOLDER / "once").rename(FOLDER / "killed")
            os.kill(os.getpid(), signal.SIGKILL)
    sign = -1 if (FOLDER / "changed").exists() else 1
    return sign * (x[:, :, None] * PARTS["w"]).sum(axis=1)

def gradient(x, slopes):
    return (slopes[:, None, :] * PARTS["w"]).sum(axis=2)

def build():
    return rk.NumPyModel(logits, gradient=gradient, name="planted")
"""


@pytest.fixture
def named(planted, tmp_path, monkeypatch):
    """The folder of a model and data that have names."""
    folder = tmp_path / "named"
    folder.mkdir()
    np.savez(folder / "parts.npz", x=planted.x, w=planted.w)
    np.savez(folder / "data.npz", x=planted.x, y=planted.y)
    (folder / "driver").write_text(str(os.getpid()))
    (folder / "model.py").write_text(MODEL)
    monkeypatch.chdir(folder)
    return folder


def evaluate(out, engine="local", **changes):
    settings = {
        "norm": ["l2", "linf"],
        "attacks": ["fmn", "gaussian-noise"],
        "budget": 30,
        "batch_size": 6,
        "engine": engine,
        "out": out,
    }
    return rk.evaluate("model.py:build", "data.npz", **{**settings, **changes})


def two(**changes):
    return rk.RayEngine(**{"workers": 2, **changes})


def test_what_comes_out_is_the_same_though_a_worker_was_killed(cluster, named):
    seen = []
    local = evaluate(named / "local")
    (named / "once").touch()
    spread = evaluate(named / "spread", two(), progress=seen.append)
    assert (named / "killed").exists()
    assert contents(spread.path) == contents(local.path)
    assert spread.run["status"] == "complete"
    assert spread.run["config"] == local.run["config"]
    assert spread.run["model"] == local.run["model"]
    assert local.run["engine"] == {"name": "local"}
    assert spread.run["engine"]["name"] == "ray"
    assert spread.run["engine"]["workers"] == 2
    assert {file.name for file in spread.path.iterdir()} == {
        file.name for file in local.path.iterdir()
    }
    # Four batches of two norms and two attacks.
    assert sorted((at.first, at.norm, at.attack) for at in seen) == sorted(
        (first, norm, attack)
        for first in (0, 6, 12, 18)
        for norm in ("l2", "linf")
        for attack in ("fmn", "gaussian-noise")
    )


def test_progress_adds_up_though_parts_end_in_another_order(cluster, named):
    seen = []
    evaluate(
        named / "run",
        two(),
        # The first takes long, so that the second is done before it.
        norm=["l2"],
        attacks={"slow": rk.FMN(steps=10000), "quick": rk.FMN(steps=1)},
        budget=None,
        batch_size=100,
        progress=seen.append,
    )
    assert [event.attack for event in seen] == ["quick", "slow"]
    assert [event.share for event in seen] == [0.5, 1.0]
    assert [event.overall for event in seen] == [0.5, 1.0]


def test_what_took_long_is_done_first_in_later_batches(cluster, named):
    seen = []
    evaluate(
        named / "run",
        two(workers=1),
        norm=["l2"],
        attacks={"quick": rk.FMN(steps=1), "slow": rk.FMN(steps=500)},
        budget=None,
        batch_size=8,
        progress=seen.append,
    )
    # The second batch is got ready while the first one is at work.
    assert [event.attack for event in seen] == 2 * ["quick", "slow"] + ["slow", "quick"]


def test_a_shard_that_kills_every_worker_ends_the_run_and_is_named(cluster, named):
    (named / "always").touch()
    with pytest.raises(RuntimeError, match=r"lost 1 times at work on samples \d+ to"):
        evaluate(named / "spread", two(workers=1, retries=0))
    description = json.loads((named / "spread" / "run.json").read_text())
    assert description["status"] == "failed"
    # What was finished before is there, and the run goes on from it, by any engine.
    assert list((named / "spread" / ".shards").glob("*.shard"))
    expected = contents(evaluate(named / "local").path)
    assert contents(evaluate(named / "spread").path) == expected


def test_workers_go_on_with_the_model_that_was_begun_with_only(
    cluster, named, monkeypatch
):
    monkeypatch.setattr("robustkit.evaluation.batch.PROGRESS_INTERVAL", 0.0)
    expected = contents(evaluate(named / "local").path)
    parts = set()

    def stop(at):
        parts.add((at.first, at.attack, at.norm))
        if len(parts) > 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(named / "run", progress=stop)
    (named / "changed").touch()
    with pytest.raises(BadInput, match="the model predicts other classes for"):
        rk.resume(named / "run", engine=two(workers=1))
    (named / "changed").unlink()
    seen = []
    results = rk.resume(named / "run", engine=two(workers=1), progress=seen.append)
    assert contents(results.path) == expected
    # Six of sixteen were finished, and those are not done again.
    assert len(seen) == 10
    assert len(results.run["resumed"]) == 2


def test_an_interrupted_run_keeps_what_workers_have_finished(cluster, named):
    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(named / "run", two(workers=1), progress=stop)
    assert len(list((named / "run" / ".shards").glob("*.shard"))) == 1
    assert json.loads((named / "run" / "run.json").read_text())["status"] == (
        "interrupted"
    )


def test_models_that_python_holds_are_sent_to_the_workers(cluster, planted, named):
    weight = torch.from_numpy(planted.w.T.copy())
    net = torch.nn.Sequential(torch.nn.Linear(6, 3, bias=False)).eval()
    net[0].weight = torch.nn.Parameter(weight)
    runs = [
        rk.evaluate(
            net,
            (planted.x, planted.y),
            attacks={"two": rk.FMN(steps=5)},
            # A closure, which plain pickle cannot send.
            criterion=lambda label: rk.Misclassification(label),
            batch_size=10,
            engine=engine,
            out=named / f"run-{place}",
        )
        for place, engine in enumerate(("local", two(workers=1)))
    ]
    assert contents(runs[0].path) == contents(runs[1].path)


def test_a_large_model_is_sent_again_to_a_worker_that_was_killed(
    cluster, planted, tmp_path
):
    """What is large goes through Ray's store, and must still be there by then."""
    driver, once, w = os.getpid(), tmp_path / "once", planted.w
    large = np.zeros(1_000_000)

    def logits(x):
        if os.getpid() != driver and once.exists():
            once.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return x @ w + large[0]

    once.touch()
    run = rk.evaluate(
        rk.NumPyModel(logits),
        (planted.x, planted.y),
        attacks=["gaussian-noise"],
        budget=10,
        batch_size=8,
        engine=two(workers=1),
    )
    assert not once.exists()
    assert run.run["status"] == "complete"


def test_what_cannot_be_sent_is_to_be_named(cluster, planted):
    lock = threading.Lock()

    def logits(x):
        with lock:
            return planted.logits(x)

    with pytest.raises(BadInput, match=r"cannot be sent to workers .* name it instead"):
        rk.evaluate(
            logits, (planted.x, planted.y), attacks=["gaussian-noise"], engine=two()
        )


def test_what_a_worker_cannot_load_is_said(cluster, named):
    code = (named / "model.py").read_text()
    guard = "if os.getpid() != DRIVER: raise OSError('no such weights')\n"
    (named / "model.py").write_text(code + guard)
    with pytest.raises(BadInput, match=r"cannot load the model .*no such weights"):
        evaluate(named / "run", two(workers=1))


def test_a_node_without_robustkit_is_said(cluster, named, monkeypatch):
    """Its worker is a class from a module that is nowhere but here."""
    module = types.ModuleType("only_here")
    module.Elsewhere = type("Elsewhere", (Worker,), {"__module__": "only_here"})
    monkeypatch.setitem(sys.modules, "only_here", module)
    monkeypatch.setattr("robustkit.evaluation.ray_engine.Worker", module.Elsewhere)
    message = r"a worker cannot import robustkit \(.*No module named 'only_here'\)"
    with pytest.raises(BadInput, match=message):
        evaluate(named / "run", two(workers=1))


def test_ray_that_has_too_little_is_refused(cluster, named):
    with pytest.raises(BadInput, match="a worker needs 1 GPU, and Ray has 0"):
        evaluate(named / "run", two(num_gpus=1))
    with pytest.raises(BadInput, match="a worker needs 64 CPU, and Ray has 2"):
        evaluate(named / "run", two(num_cpus=64))


@pytest.mark.parametrize(
    "settings", [{"workers": 0}, {"num_cpus": 0}, {"num_gpus": -1}, {"retries": -1}]
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(BadInput, match=r"at least 1|negative"):
        rk.RayEngine(**settings)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_a_cluster_that_is_not_there_is_said(named, address):
    if ray.is_initialized():
        ray.shutdown()
    with pytest.raises(BadInput, match=rf"cannot use Ray at '{address}'"):
        evaluate(named / "run", two(address=address))


def test_a_worker_that_loads_another_model_is_refused(cluster, named):
    """As on a node whose file was not brought up to date."""
    (named / "net.py").write_text(
        "import os, torch\n"
        "from pathlib import Path\n"
        "def build():\n"
        "    net = torch.nn.Linear(6, 3)\n"
        "    driver = int((Path(__file__).parent / 'driver').read_text())\n"
        "    torch.nn.init.constant_(net.weight, float(os.getpid() == driver))\n"
        "    torch.nn.init.zeros_(net.bias)\n"
        "    return net.eval()\n"
    )
    here = socket.gethostname()
    message = rf"net.py:build' that a worker loaded on '{here}' is not .* on '{here}'"
    with pytest.raises(BadInput, match=message) as caught:
        rk.evaluate("net.py:build", "data.npz", attacks=["fmn"], engine=two(workers=1))
    prints = re.findall(r"\b[0-9a-f]{16}\b", str(caught.value))
    assert len(set(prints)) == 2


def test_more_workers_than_parts_are_told(cluster, named):
    with pytest.warns(UserWarning, match="2 workers for 1 parts of work"):
        evaluate(named / "run", two(), norm="l2", attacks=["fmn"], batch_size=24)


def test_gpus_are_shared_as_asked(named, monkeypatch):
    """Ray takes our word for it that there is one; what each worker sees is told."""
    code = (named / "model.py").read_text()
    note = (
        "    seen = os.environ.get('CUDA_VISIBLE_DEVICES')\n"
        "    (FOLDER / f'gpu-{os.getpid()}').write_text(str(seen))\n"
    )
    (named / "model.py").write_text(
        code.replace("def build():\n", f"def build():\n{note}")
    )
    before = signal.getsignal(signal.SIGTERM)
    if ray.is_initialized():
        ray.shutdown()
    ray.init(
        "local",
        num_cpus=4,
        num_gpus=1,
        include_dashboard=False,
        log_to_driver=False,
    )
    signal.signal(signal.SIGTERM, before)
    try:
        engine = rk.RayEngine(num_gpus=0.5)
        # As many workers as share the one that there is.
        assert engine._count() == 2
        evaluate(named / "run", engine)
        with pytest.raises(BadInput, match="a worker needs 2 GPU, and Ray has 1"):
            evaluate(named / "other", rk.RayEngine(num_gpus=2))
    finally:
        ray.shutdown()
    seen = {int(p.name[4:]): p.read_text() for p in named.glob("gpu-*")}
    seen.pop(os.getpid())
    # One of them may have done all before the other one had the model.
    assert set(seen.values()) == {"0"}


@pytest.fixture
def running(tmp_path):
    """The address of a cluster that was started from a shell."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = (
        f"ray start --head --block --port {port} --num-cpus 1 --num-gpus 1 "
        "--node-ip-address 127.0.0.1 --include-dashboard false --disable-usage-stats"
    ).split()
    with open(tmp_path / "ray.log", "wb") as log:
        head = subprocess.Popen(
            [Path(sys.executable).with_name(command[0]), *command[1:]],
            stdout=log,
            stderr=log,
        )
    try:
        for _ in range(600):
            assert head.poll() is None, (tmp_path / "ray.log").read_text()
            if "Ray runtime started" in (tmp_path / "ray.log").read_text():
                break
            time.sleep(0.1)
        yield f"127.0.0.1:{port}"
        # It is not ours, so a run does not end it.
        assert head.poll() is None
    finally:
        head.terminate()
        head.wait(60)


@pytest.mark.slow
def test_a_cluster_that_runs_already_is_used(running, named):
    if ray.is_initialized():
        ray.shutdown()
    expected = contents(evaluate(named / "local").path)
    command = textwrap.dedent(
        f"""
        eval model.py:build --data data.npz --norm l2,linf --attacks fmn,gaussian-noise
        --budget 30 --batch-size 6 --engine ray --num-gpus 1 --ray-address {running}
        --out run --json
        """
    ).split()
    done = subprocess.run(
        [sys.executable, "-m", "robustkit", *command], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert contents(named / "run") == expected
    # What it has is what there is, and no more is waited for.
    with pytest.raises(BadInput, match="a worker needs 2 GPU, and Ray has 1"):
        evaluate(named / "other", two(num_gpus=2, address=running))


@pytest.mark.slow
def test_the_command_line_starts_its_own_workers(named):
    expected = contents(evaluate(named / "local").path)
    (named / "once").touch()
    command = textwrap.dedent(
        """
        eval model.py:build --data data.npz --norm l2,linf --attacks fmn,gaussian-noise
        --budget 30 --batch-size 6 --engine ray --workers 1 --out run --json
        """
    ).split()
    done = subprocess.run(
        [sys.executable, "-m", "robustkit", *command],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (named / "killed").exists()
    # What Ray says of the killed worker is not among the numbers.
    assert json.loads(done.stdout)["samples"] == 24
    assert contents(named / "run") == expected
