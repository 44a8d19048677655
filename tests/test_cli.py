import contextlib
import csv
import errno
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from click.testing import CliRunner

import robustkit as rk
from robustkit.cli import main

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}


def process(*arguments, cwd):
    """A command in a process of its own, as it is typed."""
    return subprocess.run(
        [sys.executable, "-m", "robustkit", *map(str, arguments)],
        cwd=cwd,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def robustkit(*arguments, cwd):
    """A command in this process, which need not import everything again."""
    with contextlib.chdir(cwd):
        return CliRunner(env={"COLUMNS": "120"}).invoke(main, list(map(str, arguments)))


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A model and data that robustkit has not seen, as a user would have them."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "net.py").write_text(
        "import numpy as np, torch\n"
        "def build():\n"
        "    net = torch.nn.Linear(5, 3).eval()\n"
        "    weights = torch.arange(15.0).reshape(3, 5)\n"
        "    net.weight.data = weights.sin() * 3\n"
        "    net.bias.data = torch.zeros(3)\n"
        "    return net\n"
        "def loud():\n"
        "    print('I am a model')\n"
        "    return build()\n"
        "def data():\n"
        "    print('I am data')\n"
        "    return tuple(np.load('data.npz').values())\n"
        "def flat():\n"
        "    net = build()\n"
        "    return lambda x: net((x * 4).round() / 4)\n"
        "def numpy_model(x):\n"
        "    return x @ np.sin(np.arange(15.0)).reshape(3, 5).T\n"
        "def probabilities(x):\n"
        "    e = np.exp(numpy_model(x))\n"
        "    return e / e.sum(1, keepdims=True)\n"
        "def slow(x):\n"
        "    import time; time.sleep(0.05)\n"
        "    return numpy_model(x)\n"
        "def crash(x):\n"
        "    raise RuntimeError('no such layer')\n"
    )
    x = np.random.default_rng(0).random((12, 5)).astype(np.float32)
    y = (x @ np.sin(np.arange(15.0)).reshape(3, 5).T).argmax(axis=1)
    np.savez(folder / "data.npz", x=x, y=y)
    np.savez(folder / "bytes.npz", x=(x * 255).astype(np.uint8), y=y)
    np.savez(folder / "wide.npz", x=x * 7, y=y)
    np.savez(folder / "nan.npz", x=np.where(x > 0.9, np.nan, x), y=y)
    np.savez(folder / "float_labels.npz", x=x, y=y + 0.5)
    np.savez(folder / "labels.npz", x=x, y=y + 5)
    np.savez(folder / "short.npz", x=x[:, :4], y=y)
    objects = np.array([{"a": 1}] * 12, dtype=object)
    np.savez(folder / "pickle.npz", x=objects, y=y)
    return folder


@pytest.mark.slow
def test_the_main_job_on_the_embedded_default(tmp_path):
    done = process("eval", "--samples", "60", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "clean accuracy 98" in done.stdout
    report = done.stdout.rstrip().rpartition("report: ")[2]
    folder = (tmp_path / report).parent
    assert {"run.json", "samples.csv", "best.npz", "summary.json"} <= {
        path.name for path in folder.iterdir()
    }
    assert {"report.html", "curve.png", "curve.svg"} <= {
        path.name for path in folder.iterdir()
    }
    assert folder.parent.name == "runs"
    results = rk.Results(folder)
    assert len(results.index) == 60
    assert np.isfinite(results.distance).all()


def test_own_model_and_data_to_a_run_folder(own, tmp_path):
    done = robustkit(
        "eval", "net.py:build", "--data", "data.npz", "--norm", "linf,l2", "--attacks",
        "fmn,gaussian-noise", "--epsilons", "linf=2/255,8/255", "--epsilons", "l2=0.5",
        "--out", tmp_path / "run", "--batch-size", "5", cwd=own,
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    sizes = [e["epsilon"] for e in summary["norms"]["linf"]["robust_accuracy"]]
    assert sizes == [2 / 255, 8 / 255]
    with open(tmp_path / "run" / "samples.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12 * 2 * 2
    assert str(tmp_path / "run" / "report.html") in done.stdout
    assert "samples 5-9: l2 fmn" in done.stderr


def test_json_is_all_that_stdout_holds(own, tmp_path):
    done = process(
        "eval", "net.py:build", "--data", "data.npz", "--attacks", "fmn", "--budget",
        "20", "--json", "--out", tmp_path / "run", cwd=own,
    )  # fmt: skip
    summary = json.loads(done.stdout)
    assert summary["samples"] == 12
    assert summary["norms"]["linf"]["attacks"]["fmn"]["forward_passes"] <= 20 * 12


def test_what_models_and_data_print_is_no_output(own, tmp_path):
    run = tmp_path / "run"
    named = ("net.py:loud", "--data", "net.py:data", "--json")
    few = ("--attacks", "fmn", "--budget", "20", "--norm", "linf")
    adapted = ("--adaptive", "--adaptive-budget", "40", "--warrant", "--lower", "crown")
    for command in (
        ("eval", *named, *few, *adapted, "--out", run),
        ("check", *named, "--trials", "0", "--run", run),
        ("test", *named, "--attack", "fgsm", "--epsilon", "0.1"),
        ("exact", *named, "--samples", "1"),
        ("verify", run, "--model", *named),
        ("merge", tmp_path / "whole", run, "--json"),
    ):
        done = robustkit(*command, cwd=own)
        assert done.exit_code in (0, 4), done.stderr
        assert json.loads(done.stdout)
        assert "I am a model" in done.stderr
        assert "I am data" in done.stderr
    page = ("report", run, "--data", "net.py:data")
    assert robustkit(*page, cwd=own).stdout == f"{run / 'report.html'}\n"
    assert robustkit(*page, "--latex", cwd=own).stdout.startswith("%")


def test_a_run_can_be_verified_by_others(own, tmp_path):
    run = tmp_path / "run"
    done = robustkit(
        "eval", "net.py:build", "--data", "data.npz", "--attacks", "fmn", "--budget",
        "20", "--out", run, cwd=own,
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    asked = ("verify", run, "--model", "net.py:build", "--data", "data.npz")
    done = robustkit(*asked, cwd=own)
    assert done.exit_code == 0, done.stdout + done.stderr
    assert "holds   every adversarial is in bounds and adversarial (12" in done.stdout
    text = (run / "summary.json").read_text().replace('"found": 12', '"found": 11')
    (run / "summary.json").write_text(text)
    done = robustkit(*asked, "--json", cwd=own)
    assert done.exit_code == 3
    broken = [c for c in json.loads(done.stdout)["claims"] if not c["holds"]]
    assert [c["name"] for c in broken] == ["the summary follows from the table"]
    done = robustkit("verify", own, *asked[2:], cwd=own)
    assert done.exit_code == 2
    assert "is not a run folder" in done.stderr


def test_uint8_is_scaled_and_said_so(own, tmp_path):
    done = robustkit(
        "eval", "net.py:build", "--data", "bytes.npz", "--attacks", "fmn", "--out",
        tmp_path / "run", cwd=own,
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert "uint8 inputs scaled" in done.stdout


def test_probabilities_are_warned_of(own, tmp_path):
    done = robustkit(
        "eval", "net.py:probabilities", "--data", "data.npz", "--attacks",
        "uniform-noise", "--out", tmp_path / "run", cwd=own,
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert "seems to return probabilities" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nothere.onnx", "--data", "data.npz"], "nothere.onnx"),
        (["net.py:buidl", "--data", "data.npz"], "did you mean 'build'"),
        (["digit"], "did you mean 'digits'"),
        (["net.py:build"], "--data"),
        (["net.py:build", "--data", "nothere.npz"], "no file"),
        (["net.py:build", "--data", "wide.npz"], "--bounds"),
        (["net.py:build", "--data", "nan.npz"], "NaN"),
        (["net.py:build", "--data", "float_labels.npz"], "integer labels"),
        (["net.py:build", "--data", "labels.npz"], "0 to 2"),
        (["net.py:build", "--data", "short.npz"], "shape"),
        (["net.py:build", "--data", "pickle.npz"], "pickle"),
        (["net.py:crash", "--data", "data.npz"], "no such layer"),
        (["net.py:numpy_model", "--data", "data.npz", "--attacks", "fmn"], "gradient"),
        (["--attacks", "fnm"], "did you mean 'fmn'"),
        (["--norm", "l7"], "unknown norm"),
        (["--attacks", "boundary", "--norm", "l0"], "cannot minimise"),
        (["--attacks", "blend"], "pool"),
        (["--epsilons", "0"], "positive"),
        (["--epsilons", "l3=0.5"], "not evaluated, 'l3'"),
        (["--device", "cuda:99"], "robustkit doctor"),
        (["--epsilons", "two"], "list of numbers"),
        (["--budget", "0"], "at least 1"),
        (["--bounds", "1,0"], "lower < upper"),
        (["--bounds", "1"], "LO,HI"),
        (["--target", "12"], "0 to 9"),
        (["--out", "."], "not empty"),
        (["--mean", "0.5,0.5", "--std", "1,1"], "channels"),
        (["--mean", "0.5"], "--mean was given without --std"),
        (["--std", "0.5"], "--std was given without --mean"),
        (["--epsilons", "2/255,l2=0.5"], "name the norm of each size"),
        (["--unknown"], "No such option"),
    ],
)
def test_bad_input_is_one_clear_message_and_exit_code_2(
    own, tmp_path, monkeypatch, arguments, expected
):
    if "--out" not in arguments:
        arguments = [*arguments, "--out", str(tmp_path / "run")]
    monkeypatch.chdir(own)
    done = CliRunner().invoke(main, ["eval", *arguments, "--samples", "4"])
    assert done.exit_code == 2, done.stderr
    assert expected in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    # There is nothing to go on with.
    assert "--resume" not in done.stderr


def test_bad_data_that_is_met_late_can_be_mended(own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "run"
    command = ["eval", f"{own / 'net.py'}:build", "--data", "bad.npz", "--attacks"]
    command += ["uniform-noise", "--batch-size", "4", "--out", str(out)]
    with np.load(own / "data.npz") as data:
        x, y = data["x"], data["y"]
    np.savez("bad.npz", x=x, y=np.where(np.arange(12) == 9, 7, y))
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 2
    assert "sample 9 has the label 7" in done.stderr
    assert (
        f"once that is mended, to go on: robustkit eval --resume {out}" in done.stderr
    )
    np.savez("bad.npz", x=x, y=y)
    done = CliRunner().invoke(main, ["eval", "--resume", str(out)])
    assert done.exit_code == 0, done.stderr


def test_what_cannot_be_bounded_from_below_is_told_before_any_attack(
    own, tmp_path, monkeypatch
):
    monkeypatch.chdir(own)
    out = tmp_path / "run"
    command = ["eval", "net.py:numpy_model", "--data", "data.npz", "--out", str(out)]
    for method in ("crown", "exact"):
        done = CliRunner().invoke(main, [*command, "--lower", method])
        assert done.exit_code == 2
        assert "cannot be looked into" in done.stderr
        assert not out.exists()
    command += ["--attacks", "uniform-noise"]
    assert CliRunner().invoke(main, command).exit_code == 0
    again = CliRunner().invoke(main, ["eval", "--resume", str(out), "--lower", "crown"])
    assert again.exit_code == 2
    assert "cannot be looked into" in again.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_keeps_what_is_finished(own, tmp_path, number):
    command = [
        sys.executable, "-m", "robustkit", "eval", "net.py:slow", "--data", "data.npz",
        "--attacks", "uniform-noise", "--budget", "10", "--batch-size", "2", "--out",
        tmp_path / "run",
    ]  # fmt: skip
    running = subprocess.Popen(
        command, cwd=own, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    )
    table = tmp_path / "run" / "samples.csv"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if table.exists() and table.read_text().count("\n") > 2:
            break
        time.sleep(0.05)
    running.send_signal(number)
    _, errors = running.communicate(timeout=240)
    assert running.returncode == 130, errors
    assert str(tmp_path / "run") in errors
    assert "Traceback" not in errors
    assert f"to go on: robustkit eval --resume {tmp_path / 'run'}" in errors
    kept = rk.Results(tmp_path / "run")
    assert kept.run["status"] == "interrupted"
    assert 2 <= len(kept.index) < 12
    assert (kept.path / "report.html").exists()
    best = kept.adversarials()
    assert set(best["index"]) <= set(kept.index.tolist())
    done = robustkit("eval", "--resume", tmp_path / "run", cwd=own)
    assert done.exit_code == 0, done.stderr
    assert len(rk.Results(tmp_path / "run").index) == 12
    assert "on 12 samples" in done.stdout


@pytest.mark.parametrize("again", [False, True])
def test_what_was_finished_is_reported_where_the_checks_are_interrupted(
    own, tmp_path, monkeypatch, again
):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.chdir(own)
    out = tmp_path / "run"
    command = ["eval", "net.py:build", "--data", "data.npz", "--out", str(out)]
    command += ["--attacks", "uniform-noise", "--samples", "4"]
    if again:
        assert CliRunner().invoke(main, command).exit_code == 0
        (out / "report.html").write_text("stale")
        command = ["eval", "--resume", str(out)]
    monkeypatch.setattr("robustkit.checks.check.check_results", interrupted)
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 130
    assert f"interrupted; what was finished is in {out}" in done.stderr
    assert "uniform-noise" in (out / "report.html").read_text()


def test_parts_are_evaluated_by_themselves_and_joined(own, tmp_path, monkeypatch):
    monkeypatch.chdir(own)
    for part in ("1/2", "2/2"):
        done = CliRunner().invoke(
            main,
            ["eval", "net.py:build", "--data", "data.npz", "--attacks", "fmn",
             "--budget", "10", "--batch-size", "4", "--shard", part, "--time-limit",
             "60", "--out", str(tmp_path / part[0])],
        )  # fmt: skip
        assert done.exit_code == 0, done.stderr
    assert (
        "on 8 samples"
        in CliRunner().invoke(main, ["eval", "--resume", str(tmp_path / "1")]).stdout
    )
    parts = [str(tmp_path / part) for part in "21"]
    done = CliRunner().invoke(main, ["merge", str(tmp_path / "whole"), *parts])
    assert done.exit_code == 0, done.stderr
    assert "on 12 samples" in done.stdout
    done = CliRunner().invoke(main, ["merge", str(tmp_path / "again"), parts[0]])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "missing: 1" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--resume", "run", "--budget", "3"], "leave out --budget"),
        (["--resume", "run"], "is not a run folder"),
        (["--shard", "3"], "not a part of the data such as 3/16"),
        (["--shard", "3/2"], "got 3 of 2"),
        (["--shard", "²/3"], "not a part of the data such as 3/16"),
        (["--time-limit", "0"], "more than 0"),
    ],
)
def test_parts_and_runs_that_do_not_exist(
    own, tmp_path, monkeypatch, arguments, expected
):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["eval", *arguments])
    assert done.exit_code == 2, done.stderr
    assert expected in " ".join(done.stderr.split())


def test_a_full_disk_is_one_clear_message(own, tmp_path, monkeypatch):
    def full(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.chdir(own)
    out = tmp_path / "run"
    out.mkdir()
    monkeypatch.setattr("os.fsync", full)
    done = CliRunner().invoke(
        main, ["eval", "--samples", "4", "--attacks", "fmn", "--out", str(out)]
    )
    assert done.exit_code == 1
    assert done.stderr.rpartition("error: ")[2].startswith("the disk is full")
    assert "Traceback" not in done.stderr


def test_attacks_doctor_and_version(own):
    listed = json.loads(robustkit("attacks", "--json", cwd=own).stdout)
    assert {"fmn", "pgd", "boundary", "blend"} <= {entry["name"] for entry in listed}
    assert all(all(entry.values()) for entry in listed)
    text = robustkit("attacks", cwd=own).stdout
    assert all(entry["source"] in text for entry in listed)
    doctor = robustkit("doctor", cwd=own).stdout
    assert rk.__version__ in doctor
    assert "torch sees" in doctor
    assert re.search(r"compiling +(works|does not work: .+) \(--compiled", doctor)
    assert rk.__version__ in robustkit("--version", cwd=own).stdout


def test_what_plug_ins_print_is_no_output(own, tmp_path, monkeypatch):
    (tmp_path / "loud_plugin.py").write_text(
        "from robustkit.attacks.gradient.fmn import FMN as Loud\n"
        "print('I am a plug-in')"
    )
    (tmp_path / "loud-0.dist-info").mkdir()
    (tmp_path / "loud-0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: loud\nVersion: 0"
    )
    (tmp_path / "loud-0.dist-info" / "entry_points.txt").write_text(
        "[robustkit.attacks]\nloud = loud_plugin:Loud"
    )
    monkeypatch.syspath_prepend(tmp_path)
    done = robustkit("attacks", "--json", cwd=own)
    assert "loud" in {entry["name"] for entry in json.loads(done.stdout)}
    assert done.stderr == "I am a plug-in\n"


def test_help_says_that_files_run_code_and_imports_nothing_heavy(own):
    assert "RUN CODE" in robustkit("eval", "--help", cwd=own).stdout
    code = (
        "import sys, robustkit.cli; "
        "heavy = {'torch', 'numpy', 'scipy', 'rich', 'matplotlib'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_folder_that_was_there_before_is_not_called_ours(own, tmp_path, monkeypatch):
    monkeypatch.chdir(own)
    done = CliRunner().invoke(main, ["eval", "--out", str(own)])
    assert done.exit_code == 2
    assert "what was finished" not in done.stderr


def test_checks_and_comparisons_of_runs(own, tmp_path, monkeypatch):
    monkeypatch.chdir(own)

    def answer(*arguments):
        return CliRunner().invoke(main, list(map(str, arguments)))

    for attack in ("fgsm", "fmn"):
        done = answer(
            "eval", "net.py:build", "--data", "data.npz", "--attacks", attack,
            "--budget", 30, "--strict", "--out", tmp_path / attack,
        )  # fmt: skip
        assert done.exit_code == 0, done.stderr
        said = "C9 suspicious" if attack == "fgsm" else "C9 note"
        assert said in done.stdout
        kept = json.loads((tmp_path / attack / "findings.json").read_text())
        assert "C9" in {f["id"] for f in kept["findings"]}
        assert "Findings" in (tmp_path / attack / "report.html").read_text()
    done = answer("compare", tmp_path / "fgsm", tmp_path / "fmn")
    assert done.exit_code == 0, done.stderr
    assert "fmn against fgsm" in done.stdout
    assert "local optimality" in done.stdout
    done = answer("compare", tmp_path / "fgsm", "--json")
    assert json.loads(done.stdout)["attacks"][0]["local_optimality"] == 1
    asked = ("check", "net.py:build", "--data", "data.npz")
    done = answer(*asked, "--run", tmp_path / "fgsm", "--strict")
    assert done.exit_code == 0, done.stderr
    assert "C9 suspicious" in done.stdout
    # Not the demo model, whose findings would be taken for the run's.
    done = answer("check", "--run", tmp_path / "fgsm")
    assert done.exit_code == 2
    assert "name the model that the run is held against" in done.stderr
    done = answer("check", "net.py:flat", "--data", "data.npz", "--strict", "--json")
    assert done.exit_code == 3, done.stderr
    assert json.loads(done.stdout)["worst"] == "invalidates"
    done = answer(*asked, "--epsilon", "1,2")
    assert done.exit_code == 2
    assert "one number" in done.stderr


def test_exact_distances_row_by_row_or_as_json(own, tmp_path):
    (tmp_path / "net.py").write_text(
        "import torch\n"
        "def build():\n"
        "    net = torch.nn.Sequential(torch.nn.Linear(5, 3)).eval()\n"
        "    weights = torch.arange(15.0).reshape(3, 5).sin()\n"
        "    net[0].weight.data, net[0].bias.data = weights, torch.zeros(3)\n"
        "    return net\n"
    )
    model, data = f"{tmp_path / 'net.py'}:build", str(own / "data.npz")
    runner = CliRunner()
    given = ["exact", model, "--data", data, "--norm", "l1", "--samples", "3"]
    done = runner.invoke(main, given)
    assert done.exit_code == 0, done.output
    header, *rows = done.output.splitlines()
    assert header.split() == ["sample", "label", "lower", "upper", "status", "seconds"]
    assert len(rows) == 3
    listed = json.loads(runner.invoke(main, [*given, "--json"]).output)
    x = np.load(own / "data.npz")["x"].astype(np.float64)
    weights = np.sin(np.arange(15.0, dtype=np.float32)).reshape(3, 5).astype(float)
    for row, entry in enumerate(listed):
        gaps = weights[entry["label"]] - np.delete(weights, entry["label"], axis=0)
        # Unboxed, hence no more than a lower bound.
        least = ((gaps @ x[row]) / np.abs(gaps).max(axis=1)).min()
        assert entry["upper"] >= least - 1e-6
        assert entry["status"] == "exact"
        assert str(entry["label"]) == rows[row].split()[1]
    aimed = ["exact", model, "--data", data, "--norm", "linf", "--target", "1"]
    labels = np.load(own / "data.npz")["y"]
    listed = json.loads(runner.invoke(main, [*aimed, "--json"]).output)
    assert [e["sample"] for e in listed] == np.flatnonzero(labels != 1).tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits", "--norm", "l2"], "not computed in the norm l2"),
        (["digits", "--timeout", "0"], "the timeout must be more than 0"),
        (["digits", "--target", "99"], "the target must be 0 to 9; got 99"),
        (["net.py:numpy_model", "--data", "data.npz"], "give a torch module"),
        (["digits", "--bounds", "0"], "--bounds takes two numbers"),
        (["digits", "--target", "5"], "all samples are of the target class 5"),
    ],
)
def test_exact_refuses_what_it_cannot_do(own, monkeypatch, arguments, message):
    monkeypatch.chdir(own)
    done = CliRunner().invoke(main, ["exact", *arguments, "--samples", "1"])
    assert done.exit_code == 2
    assert message in done.output
