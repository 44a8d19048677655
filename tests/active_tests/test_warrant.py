import json

import pytest
import torch

import robustkit as rk
from robustkit.active_tests.warrant import warrant
from robustkit.errors import BadInput
from robustkit.evaluation.results import NOT_WARRANTED


@pytest.fixture(scope="module")
def warranted(network, inputs, tmp_path_factory):
    y = network(torch.tensor(inputs)).argmax(1).numpy()
    data, attacks = (inputs, y), {"fmn": rk.FMN(), "noise": rk.UniformNoise(steps=3)}
    out = tmp_path_factory.mktemp("run") / "out"
    results = rk.evaluate(
        network, data, attacks=attacks, epsilons=(0.01, 0.1, 0.4), out=out
    )
    before = results.summary()
    return before, warrant(results, network, data, attacks), attacks


def test_verdicts_are_kept_in_the_run_folder(warranted):
    before, results, _ = warranted
    found = before["norms"]["linf"]["attacks"]["fmn"]["warrant"]
    assert found["verdict"] == NOT_WARRANTED
    for again in (results, rk.Results(results.path)):
        test = again.warrant("linf", "fmn")
        assert (test["verdict"], test["epsilon"]) == ("PASS", 0.1)
        assert again.warrant("linf", "noise")["verdict"] == "FAIL"
    summary = json.loads((results.path / "summary.json").read_text())
    attacks = summary["norms"]["linf"]["attacks"]
    assert attacks["fmn"]["warrant"]["verdict"] == "PASS"
    assert attacks["noise"]["warrant"]["success_rate"]["estimate"] < 0.9
    assert summary == json.loads(json.dumps(results.summary()))


def test_the_report_shows_verdicts_and_their_absence(warranted):
    _, results, _ = warranted
    page = results.report().read_text()
    assert "noise FAIL at 0.1" in page
    assert "Warrant, by active tests: fmn PASS at 0.1" in page
    (results.path / "warrants.json").rename(results.path / "kept.json")
    try:
        bare = rk.Results(results.path)
        assert "Not warranted: no active test was run" in bare.report().read_text()
    finally:
        (results.path / "kept.json").rename(results.path / "warrants.json")


def test_a_run_without_sizes_has_none_to_test_at(network, inputs):
    y = network(torch.tensor(inputs)).argmax(1).numpy()
    results = rk.evaluate(network, (inputs, y), attacks=["fmn"], epsilons=[])
    with pytest.raises(BadInput, match="at no size in the norm linf"):
        warrant(results, network, (inputs, y), ["fmn"])


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: rk.Estimated(model, 10),
        lambda model: rk.MajorityVote(model, 5),
        lambda model: rk.EOT(model, 4),
    ],
)
def test_what_is_tested_is_what_was_run(network, inputs, wrap):
    model = wrap(rk.TorchModel(network))
    data = (inputs, network(torch.tensor(inputs)).argmax(1).numpy())
    given = {"attacks": ["auto"], "budget": 110}
    results = rk.evaluate(model, data, norm="l2", samples=4, **given)
    planned = results.run["config"]["attacks"]["l2"]["auto"]
    warranted = warrant(results, model, data, ["auto"], samples=4)
    assert warranted.warrant("l2", "auto")["settings"]["attack"] == planned
    tested = rk.active_test(
        model, inputs[:4], "auto", epsilon=0.3, norm="l2", budget=110
    )
    assert tested.settings["attack"] == planned


def test_a_test_that_cannot_be_run_is_an_error_in_the_warrant(inputs):
    class Broken(rk.UniformNoise):
        def init(self, p):
            raise RuntimeError("no such layer")

    def model(x):
        return x[:, :4]

    y = inputs[:, :4].argmax(axis=1)
    attacks = {"noise": Broken(steps=2)}
    results = rk.evaluate(model, (inputs, y), attacks=attacks, samples=20)
    results = warrant(results, model, (inputs, y), attacks, samples=20)
    found = results.warrant("linf", "noise")
    assert found["verdict"] == "ERROR"
    assert "no such layer" in found["rule"]


def test_another_model_than_the_evaluated_one_is_refused(network, inputs, masked):
    y = network(torch.tensor(inputs)).argmax(1).numpy()
    defended = masked(network, before=lambda x: (4 * x).round() / 4)
    attacks = {"fmn": rk.FMN()}
    results = rk.evaluate(defended, (inputs, y), attacks=attacks, budget=10)
    with pytest.raises(BadInput, match="is not what the run in"):
        warrant(results, network, (inputs, y), attacks)
    assert not (results.path / "warrants.json").exists()


def test_a_model_without_a_fingerprint_is_taken_at_its_word(inputs):
    def model(x):
        return x[:, :4]

    y = inputs[:, :4].argmax(axis=1)
    attacks = {"noise": rk.UniformNoise(steps=2)}
    results = rk.evaluate(model, (inputs, y), attacks=attacks, samples=20)
    results = warrant(results, lambda x: x[:, :4], (inputs, y), attacks, samples=20)
    assert (results.path / "warrants.json").exists()
