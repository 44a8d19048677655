import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import robustkit as rk
from robustkit import demo
from robustkit.checks.check import FINDINGS
from robustkit.cli import main
from robustkit.errors import BadInput
from robustkit.evaluation.results import WARRANTS


def network(features, classes=3):
    net = torch.nn.Linear(features, classes)
    weights = np.random.default_rng(0).normal(size=(classes, features))
    net.weight.data = torch.from_numpy(weights.astype(np.float32))
    return net.eval()


def labelled(net, shape):
    x = np.random.default_rng(0).random((12, *shape), dtype=np.float32)
    return x, net(torch.from_numpy(x)).argmax(dim=1).numpy()


@pytest.fixture
def small():
    net = network(6)
    return net, labelled(net, (6,))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": -1}, "the seed must be between 0"),
        ({"samples": 0}, "number of samples must be at least 1"),
        ({"samples": 2.5}, "whole number"),
        ({"trials": -1}, "number of trials must be at least 0"),
        ({"bounds": (0, 1, 2)}, "two numbers"),
        ({"attack": "pgd"}, r"such as PGD\(0.1\); got 'pgd'"),
        ({"attack": rk.FMN()}, "searches within a distance"),
        ({"attack": rk.PGD}, "searches within a distance"),
        ({"attack": rk.SparseRS(2)}, "SparseRS is for l0"),
        ({"undefended": network(8)}, r"raised on inputs of shape \(1, 6\)"),
        ({"undefended": network(6, 4)}, "has 4 classes, the model itself 3"),
    ],
)
def test_bad_input(small, settings, message):
    net, data = small
    with pytest.raises(BadInput, match=message):
        rk.check(net, data, **settings)


def test_a_run_on_other_inputs(small):
    other = network(8)
    run = rk.evaluate(other, labelled(other, (8,)), attacks=["fmn"], budget=10)
    with pytest.raises(BadInput, match=r"run's inputs have shape \(8,\), .* \(6,\)"):
        rk.check(*small, run=run, trials=0)


@pytest.mark.parametrize("target", [None, 3])
def test_a_run_on_other_classes(small, target):
    net, data = small
    other = network(6, 4)
    every = (data[0], np.arange(len(data[0])) % 4)
    run = rk.evaluate(other, every, attacks=["fmn"], budget=10, target=target)
    with pytest.raises(BadInput, match="is about the class 3, and the model has 3"):
        rk.check(net, data, run=run)


def test_a_run_that_has_no_sample_yet_and_one_without_sizes(small):
    net, data = small
    attacks = ["fmn", "deepfool"]
    run = rk.evaluate(net, data, attacks=attacks, budget=10, epsilons=[])
    assert "C10" not in {f.id for f in rk.check(net, data, run=run, trials=0).findings}
    table = run.path / "samples.csv"
    table.write_text(table.read_text().partition("\n")[0] + "\n")
    found = rk.check(net, data, run=rk.Results(run.path), trials=0)
    assert not {"C2", "C9", "S4", "C11"} & {f.id for f in found.findings}


def test_a_resumed_run_is_not_checked_on_another_model(tmp_path, monkeypatch):
    file = tmp_path / "model.py"
    file.write_text(
        "import os\n\nfrom robustkit import demo\n\n\n"
        "def build():\n    return demo.load_model(os.environ['WHICH'])\n"
    )
    run = tmp_path / "run"
    command = ["eval", f"{file}:build", "--samples", "8", "--budget", "10"]
    monkeypatch.setenv("WHICH", "digits")
    done = CliRunner().invoke(main, [*command, "--data", "digits", "--out", str(run)])
    assert done.exit_code == 0, done.output
    before = (run / FINDINGS).read_bytes()
    monkeypatch.setenv("WHICH", "digits-robust")
    for more in ([], ["--warrant"]):
        done = CliRunner().invoke(main, ["eval", "--resume", str(run), *more])
        assert done.exit_code == 2
        assert "is not what the run in" in done.output
        assert (run / FINDINGS).read_bytes() == before
        assert not (run / WARRANTS).exists()


def test_a_run_of_some_samples_is_checked_on_no_others(tmp_path):
    x, y = demo.load_data("digits")
    folder = tmp_path / "images"
    for label in range(3):
        (folder / str(label)).mkdir(parents=True)
        picture = Image.fromarray(np.uint8(255 * x[y == label][0, 0]))
        picture.save(folder / str(label) / "a.png")
        picture.convert("RGB").save(folder / str(label) / "b.png")
    x[3] = np.nan
    np.savez(tmp_path / "damaged.npz", x=x, y=y)
    for data in ("images", "damaged.npz"):
        run = tmp_path / f"run on {data}"
        few = ["--samples", "3", "--attacks", "fmn", "--budget", "10"]
        done = CliRunner().invoke(
            main,
            ["eval", "digits", "--data", str(tmp_path / data), *few, "--out", str(run)],
        )
        assert done.exit_code == 0, done.output
        assert json.loads((run / FINDINGS).read_text())["samples"] == 3
