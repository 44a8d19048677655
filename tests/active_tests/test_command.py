import json

import numpy as np
import pytest
from click.testing import CliRunner

import robustkit as rk
from robustkit.cli import main

NET = """
import numpy as np, torch

class Net(torch.nn.Module):
    def __init__(self, scale=1.0):
        super().__init__()
        self.first, self.last = torch.nn.Linear(16, 16), torch.nn.Linear(16, 4)
        rng = np.random.default_rng(0)
        for weights in self.parameters():
            weights.data = torch.tensor(rng.normal(size=weights.shape) / 4).float()
        self.scale = scale
        self.eval()

    def forward(self, x):
        return self.scale * self.last(torch.tanh(self.first(x)))

plain = Net()

def rounded():
    net = Net()
    return lambda x: net((8 * x).round() / 8)

def bright(x):
    return x.mean(1) - 0.5
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text(NET)
    x = np.random.default_rng(0).random((90, 16)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, y=np.zeros(90, np.int64))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ask(*arguments):
    return CliRunner().invoke(main, list(arguments))


def test_pass_and_a_paragraph(folder):
    done = ask(
        "test", "net.py:plain", "--data", "data.npz", "--attack", "pgd", "--epsilon",
        "26/255", "--features", "first", "--samples", "80",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert done.output.startswith("PASS")
    assert "layer 'first'" in done.output
    assert f"{26 / 255:.6g}" in done.output


def test_fail_is_3_and_json_is_all_there_is(folder):
    done = ask(
        "test", "net.py:rounded", "--data", "data.npz", "--attack", "pgd", "--epsilon",
        "0.2", "--budget", "60", "--json",
    )  # fmt: skip
    assert done.exit_code == 3, done.output
    content = json.loads(done.stdout)
    assert content["verdict"] == "FAIL"
    assert content["settings"]["budget"] == 60
    assert len(content["rows"]) == 90


def test_anything_else_is_4(folder):
    done = ask(
        "test", "net.py:plain", "--data", "data.npz", "--attack", "fgsm", "--epsilon",
        "0.1", "--samples", "10", "--detector", "net.py:bright", "--inverted",
    )  # fmt: skip
    assert done.exit_code == 4, done.output
    assert done.output.split()[0] in ("INCONCLUSIVE", "INVALID")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epsilon", "0.1", "--features", "frist"], "did you mean 'first'"),
        (["--epsilon", "0.1", "--attack", "pdg"], "did you mean"),
        (["--epsilon", "0.1,0.2"], "one number"),
        (["--epsilon", "0.1", "--inverted"], "detector"),
        (["--epsilon", "-1"], "more than 0"),
        (["--epsilon", "0.1", "--bounds", "0"], "two numbers"),
        ([], "--epsilon"),
    ],
)
def test_bad_input_is_2(folder, arguments, message):
    done = ask(
        "test", "net.py:plain", "--data", "data.npz", "--samples", "4", *arguments
    )
    assert done.exit_code == 2, done.output
    assert message in done.output


def test_eval_warrants_every_attack_beside_its_accuracy(folder):
    done = ask(
        "eval", "net.py:plain", "--data", "data.npz", "--attacks",
        "fgsm,gaussian-noise", "--epsilons", "0.05", "--warrant", "--out", "run",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    text = " ".join(done.output.split())
    assert "Warrant, by active tests: fgsm PASS at 0.05" in text
    results = rk.Results("run")
    assert results.warrant("linf", "gaussian-noise")["verdict"] == "FAIL"
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert summary["norms"]["linf"]["attacks"]["fgsm"]["warrant"]["verdict"] == "PASS"
    assert "fgsm PASS at 0.05" in (folder / "run" / "report.html").read_text()


def test_eval_without_a_warrant_says_so(folder):
    done = ask(
        "eval", "net.py:plain", "--data", "data.npz", "--attacks", "fgsm",
        "--samples", "10", "--out", "run",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "Not warranted: no active test was run" in " ".join(done.output.split())
