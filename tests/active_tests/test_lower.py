"""Curves with two sides: bounds in the run folder, from our own or other verifiers."""

import csv
import io
import json
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

import robustkit as rk
from robustkit.cli import main
from robustkit.errors import BadInput
from robustkit.evaluation.results import NOT_WARRANTED
from robustkit.models.torch import TorchModel
from robustkit.report.content import gather
from robustkit.report.terminal import print_results


@pytest.fixture(scope="module")
def small(shared):
    """A small network and samples with their exact distances, soon computed."""
    data = shared.exact("mlp14_std", "linf")
    data = {name: data[name][[0, 3, 5, 7, 4]] for name in ("x", "y", "distance")}
    return shared.exact_model("mlp14_std"), data["x"], data["y"], data


@pytest.fixture(scope="module")
def finished(small, tmp_path_factory):
    """A run that is only read."""
    net, x, y, _ = small
    out = tmp_path_factory.mktemp("finished") / "run"
    return rk.evaluate(net, (x, y), epsilons=[0.01, 0.05], budget=100, out=out)


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it, to be written to."""
    return rk.Results(shutil.copytree(finished.path, tmp_path / "run"))


def rewritten(run, row, **changes):
    """Change some cells of lower.csv."""
    path = run.path / "lower.csv"
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    rows[row] |= changes
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.parametrize("method", ["interval", "crown"])
def test_certified_bounds_stand_beside_the_distances(run, small, method):
    net, x, y, data = small
    results = rk.bound_below(run, net, (x, y), method)
    lower = results.lower()
    assert (lower > 0).all()
    assert (lower <= data["distance"]).all()
    again = rk.Results(run.path)
    assert (again.lower() == lower).all()
    summary = json.loads((run.path / "summary.json").read_text())["norms"]["linf"]
    for entry in summary["certified_accuracy"]:
        assert entry["estimate"] == (lower >= entry["epsilon"]).mean()
    for upper, certified in zip(
        summary["robust_accuracy"], summary["certified_accuracy"], strict=True
    ):
        assert certified["estimate"] <= upper["estimate"]
    assert summary["lower"]["methods"] == [method]
    assert summary["lower"]["median_gap"] == pytest.approx(
        np.sort(results.distance - lower)[2]
    )
    audit = rk.verify(run.path, net, (x, y))
    assert audit.holds, audit.to_json()
    names = [claim.name for claim in audit.claims if "certified" in claim.name]
    assert names == ["what was certified is certified again"]
    page = results.report()
    assert "certified" in page.read_text()
    assert "certified" in (run.path / "curve.svg").read_text()


def test_exact_bounds_meet_the_distances(run, small):
    net, x, y, data = small
    results = rk.bound_below(run, net, (x, y), "exact", timeout=20)
    assert results.lower()[4] == pytest.approx(data["distance"][4], rel=1e-4)
    assert (results.lower() <= results.distance * (1 + 1e-5)).all()
    audit = rk.verify(run.path, net, (x, y))
    assert audit.holds
    notes = [note for claim in audit.claims for note in claim.notes]
    assert "bounds by exact are not computed anew" in notes


def test_tampering_with_a_bound_is_found_and_named(run, small):
    net, x, y, _ = small
    rk.bound_below(run, net, (x, y), "crown")
    lower, upper = run.lower()[0], run.distance[0]
    larger = repr(float(lower + upper) / 2)
    rewritten(run, 0, lower=larger)
    audit = rk.verify(run.path, net, (x, y))
    broken = {c.name: c.broken for c in audit.claims if not c.holds}
    assert (
        "nothing is certified up to"
        in (broken["what was certified is certified again"][0])
    )
    assert "sample 0, linf" in broken["what was certified is certified again"][0]
    rewritten(run, 0, lower="0.9")
    audit = rk.verify(run.path, net, (x, y))
    (claim,) = (c for c in audit.claims if c.name.startswith("no lower bound"))
    assert claim.broken[0].startswith("sample 0, linf: the lower bound is 0.9")


def test_a_lower_bound_above_an_upper_one_is_an_error_that_names_the_sample(
    run, small, tmp_path
):
    net, x, y, _ = small
    file = tmp_path / "bounds.csv"
    file.write_text("index,epsilon,verdict\n0,0.0001,unsat\n3,0.5,unsat\n")
    with pytest.raises(
        BadInput, match=r"^sample 3, linf: the lower bound is 0\.5, and"
    ):
        rk.bound_below(run, net, (x, y), str(file))
    assert not (run.path / "lower.csv").exists()


def test_another_model_or_other_data_are_refused(finished, small):
    net, x, y, _ = small
    steeper = torch.nn.Sequential(net, torch.nn.Linear(10, 10, bias=False))
    steeper[1].weight.data = 3 * torch.eye(10)
    for method in ("crown", "exact"):
        with pytest.raises(BadInput, match="the model 'Sequential' is not what the"):
            rk.bound_below(finished, steeper.eval(), (x, y), method)
        for data in ((x[::-1], y[::-1]), (x[:3], y[:3])):
            with pytest.raises(BadInput, match=r"the data 'data' .* the whole data"):
                rk.bound_below(finished, net, data, method)
    assert not (finished.path / "lower.csv").exists()


def threshold(at):
    """Of one feature, the first class above a size and the second below."""
    net = torch.nn.Linear(1, 2)
    net.weight.data = torch.tensor([[1.0], [-1.0]])
    net.bias.data = torch.tensor([-at, at])
    return net.eval()


def test_an_adversarial_inside_of_a_certified_ball_is_a_contradiction(tmp_path):
    """Where the models have no fingerprints, by which they could be told apart."""
    x, y = np.array([[0.7], [0.9]], np.float32), np.zeros(2, int)
    run = rk.evaluate(threshold(0.5), (x, y), attacks=["fmn"], out=tmp_path / "run")
    run.run["model"]["fingerprint"] = None
    with pytest.raises(BadInput, match=r"^sample 0, linf: .* \(and 1 more like that\)"):
        rk.bound_below(run, threshold(0.4), (x, y), "interval")
    assert (
        rk.bound_below(run, threshold(0.5), (x, y), "interval").lower() > 0.19
    ).all()
    exact = rk.bound_below(run, threshold(0.5), (x, y), "exact")
    assert exact.lower() == pytest.approx([0.2, 0.4], rel=1e-5)


def test_bounds_of_another_verifier(run, small, tmp_path):
    net, x, y, _ = small
    file = tmp_path / "bounds.csv"
    file.write_text(
        "index, epsilon, verdict\n"
        "0,0.001,unsat\n0,0.002,UNSAT\n0,0.3,sat\n1,0.001,timeout\n2,0.0015,holds\n"
    )
    results = rk.bound_below(run, net, (x, y), str(file))
    np.testing.assert_array_equal(
        results.lower(), [0.002, np.nan, 0.0015, np.nan, np.nan]
    )
    summary = results.summary()["norms"]["linf"]
    assert summary["lower"]["methods"] == ["file bounds.csv"]
    assert summary["lower"]["samples"] == 2
    assert rk.verify(run.path, net, (x, y)).holds
    file.write_text("norm,index,lower\nlinf,1,0.01\n")
    results = rk.bound_below(run, net, (x, y), str(file))
    assert results.lower()[1] == 0.01
    # The edge of a certified ball belongs to it.
    certified = results.summary()["norms"]["linf"]["certified_accuracy"]
    assert [entry["estimate"] for entry in certified] == [0.2, 0.0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sample,eps\n1,2\n", "need the columns index, epsilon and verdict"),
        ("index,lower\n0,x\n", r"line 2 of .*index '0' and lower 'x'"),
        ("index,lower\n0,0.1\n9,0.1\n", r"line 3 of .*the run has no sample 9"),
        ("index,lower\n0,-1\n", r"line 2 .*cannot be negative"),
        ("index,epsilon,verdict\n0,0.1,perhaps\n", "unknown verdict 'perhaps'"),
        ("index,lower,norm\n0,0.1,l2\n", r"a norm of the run \(linf\); got 'l2'"),
    ],
)
def test_bad_files_of_bounds_are_refused(finished, small, tmp_path, text, words):
    net, x, y, _ = small
    (tmp_path / "bounds.csv").write_text(text)
    with pytest.raises(BadInput, match=words):
        rk.bound_below(finished, net, (x, y), str(tmp_path / "bounds.csv"))
    assert finished.lower_methods == ()


def test_what_cannot_be_bounded_is_said(finished, small, tmp_path):
    net, x, y, _ = small
    for method in (5, None, ["crown"]):
        with pytest.raises(BadInput, match="there are no bounds"):
            rk.bound_below(finished, net, (x, y), method)
    with pytest.raises(BadInput, match=r"no bounds 'crwn'.*did you mean 'crown'"):
        rk.bound_below(finished, net, (x, y), "crwn")
    other = rk.evaluate(net, (x, y), norm="l0", attacks=["sparse-rs"], budget=5)
    with pytest.raises(BadInput, match="by 'crown' are not computed in the norm l0"):
        rk.bound_below(other, net, (x, y), "crown")
    own = rk.evaluate(
        net, (x, y), attacks=["fgsm"], criterion=lambda y: rk.Misclassification(y)
    )
    with pytest.raises(BadInput, match="a criterion of its own"):
        rk.bound_below(own, net, (x, y), "crown")


def test_a_network_whose_values_leave_torch_has_no_lower_bounds(small, tmp_path):
    net, x, y, _ = small
    one = x[:1], y[:1]

    def rounded(x):
        return net(x + (torch.from_numpy(x.detach().numpy().round(1)) - x).detach())

    run = rk.evaluate(rounded, one, attacks=["fgsm"], out=tmp_path / "run")
    with pytest.raises(BadInput, match="must be computed by torch"):
        rk.bound_below(run, rounded, one, "crown")
    assert not (tmp_path / "run" / "lower.csv").exists()


def test_targets_are_certified_too(small, tmp_path):
    net, x, y, _ = small
    model = TorchModel(net)
    run = rk.evaluate(
        model, (x, y), target="least-likely", budget=60, out=tmp_path / "run"
    )
    bounded = rk.bound_below(run, model, (x, y), "crown")
    lower, upper = bounded.lower(), bounded.distance
    assert (lower <= upper).all()
    assert (lower > 0.3 * upper).all()
    assert rk.verify(run.path, model, (x, y)).holds


def test_the_command_line(tmp_path):
    command = ["eval", "digits", "--samples", "5", "--budget", "10", "--json"]
    command += ["--lower", "interval"]
    out = tmp_path / "run"
    done = CliRunner().invoke(main, [*command, "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert (out / "lower.csv").exists()
    assert "certified_accuracy" in done.stdout
    command = ["verify", str(out), "--model", "digits", "--data", "digits"]
    assert CliRunner().invoke(main, command).exit_code == 0


def test_what_is_proven_is_shown_beside_what_was_found():
    results = rk.evaluate(
        "digits", "digits", samples=6, budget=10, epsilons=[0.01, 0.05]
    )
    rk.bound_below(results, "digits", "digits", "crown")
    shares = [
        entry["estimate"]
        for entry in results.summary()["norms"]["linf"]["certified_accuracy"]
    ]
    table = gather([results]).norms[0].accuracy
    assert table.columns[-1] == "Certified"
    shown = [
        float(row[-1].text.split("\N{NARROW NO-BREAK SPACE}")[0]) for row in table.rows
    ]
    assert shown == pytest.approx([100 * share for share in shares], abs=0.5)
    both = gather([results, results]).norms[0].accuracy
    assert both.columns[-1].endswith(", certified")
    console = Console(width=100, file=io.StringIO())
    print_results(results, console)
    rows = [line for line in console.file.getvalue().splitlines() if "0.01 " in line]
    assert f"{100 * shares[0]:.1f} %" in rows[0].rpartition(" to ")[2]


def test_bounds_that_there_are_not_are_told_before_the_evaluation(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    words = ["eval", "--samples", "2", "--attacks", "fmn", "--budget", "3"]
    for more, told in (
        (["--lower", "crwon"], "there are no bounds 'crwon'"),
        (["--lower", "crown", "--norm", "l0"], "not computed in the norm l0"),
    ):
        done = CliRunner().invoke(main, [*words, *more, "--out", "run"])
        assert done.exit_code == 2
        assert told in done.stderr
        assert not (tmp_path / "run").exists()


def test_a_run_that_is_complete_gets_its_bounds_and_warrant_later(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    words = ["eval", "--samples", "2", "--attacks", "fmn", "--budget", "20"]
    assert CliRunner().invoke(main, [*words, "--out", "run"]).exit_code == 0
    later = ["eval", "--resume", "run", "--lower", "interval", "--warrant"]
    done = CliRunner().invoke(main, later)
    assert done.exit_code == 0, done.stderr
    results = rk.Results("run")
    assert results.lower_methods == ("interval",)
    assert results.warrant("linf", "fmn")["verdict"] != NOT_WARRANTED
    assert "certified" in done.stdout
