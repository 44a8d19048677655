"""A setting of a run is known wherever runs are described, gone on with or repeated."""

import ast
import inspect
import json
import shlex
from pathlib import Path

import pytest

import robustkit as rk
import robustkit.evaluation.resume
from robustkit.cli.config import options_of_run
from robustkit.cli.evaluating import evaluate_command
from robustkit.errors import BadInput
from robustkit.evaluation.description import check_description
from robustkit.evaluation.settings import as_epsilons, nameless
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.norms import get_norm
from robustkit.report.reproduce import command, python_call

ARGUMENTS = inspect.signature(rk.evaluate).parameters.keys()
SETTINGS = ARGUMENTS - {"engine", "out", "progress", "trackers"}

# None of them is the default.
OTHERS = {
    "target": 3,
    "samples": 5,
    "budget": 7,
    "access": "score",
    "batch_size": 2,
    "seed": 4,
    "bounds": [0.0, 2.0],
    "mean": [0.1],
    "std": [0.9],
    "device": "cpu",
    "pool": "given",
    "cache": "answers.db",
    "headers": {"Authorization": "ENV:API_KEY"},
    "shard": [1, 2],
    "time_limit": 3.0,
    "compiled": True,
}


@pytest.fixture(scope="module")
def described():
    results = rk.evaluate("digits", "digits", samples=2, attacks=["fgsm"], epsilons=0.1)
    return json.dumps(results.run)


@pytest.fixture
def run(described):
    """What run.json would say if no setting were what it is by itself."""
    run = json.loads(described)
    run["config"] |= OTHERS
    run["asked"]["pool"] = "digits"
    return run


def test_run_json_has_all_of_them(described):
    assert {"norm", *json.loads(described)["config"]} - {"norms"} == SETTINGS


def test_the_reader_of_run_json_looks_at_all_of_them(run):
    check_description(run, Path("run.json"))
    for name in run["config"]:
        config = {**run["config"], name: {"": [[]]}}
        with pytest.raises(BadInput, match=f"config.{name} is"):
            check_description({**run, "config": config}, Path("run.json"))


def test_a_run_goes_on_with_all_of_them(run, tmp_path, monkeypatch):
    (tmp_path / "run.json").write_text(json.dumps({**run, "status": "interrupted"}))
    monkeypatch.setattr(
        robustkit.evaluation.resume,
        "evaluate",
        inspect.signature(rk.evaluate).bind,
    )
    again = rk.resume(tmp_path).arguments
    assert again.keys() == ARGUMENTS - {"criterion"}
    for name, value in OTHERS.items():
        wanted = "digits" if name == "pool" else value
        assert again[name] == (tuple(wanted) if name in ("bounds", "shard") else wanted)


def test_the_call_that_repeats_a_run_says_all_of_them(run):
    run["config"]["criterion"] = "mine"
    call = ast.parse(python_call(run)).body[-1].value
    assert {"model", "data", *(word.arg for word in call.keywords)} == SETTINGS


def test_the_command_that_repeats_a_run_says_all_of_them(run):
    said = {word for word in shlex.split(command(run)) if word.startswith("--")}
    options = {
        option for parameter in evaluate_command.params for option in parameter.opts
    }
    assert said <= options
    named = {word.lstrip("-").replace("-", "_") for word in said}
    assert {"model", "criterion", "headers", *named} - {"header"} == SETTINGS


def test_a_file_of_settings_may_be_a_run_json_with_all_of_them(run):
    named = options_of_run(run).keys()
    assert {"criterion", "headers", *named} - {"header"} == SETTINGS


def test_what_need_not_be_said_is_not(described):
    run = json.loads(described)
    call = ast.parse(python_call(run)).body[-1].value
    said = {word.arg for word in call.keywords}
    assert said == {"norm", "attacks", "epsilons", "samples", "seed"}


@pytest.mark.parametrize("name", ["model", "data", "attacks", "pool", "criterion"])
def test_what_was_an_object_has_no_name(run, name):
    assert nameless(run) == []
    part = "config" if name == "criterion" else "asked"
    run[part][name] = "mine" if name == "criterion" else None
    assert nameless(run) == [name]
    assert command(run) is None
    with pytest.raises(BadInput, match=rf"from Python objects \({name}\)"):
        options_of_run(run)


def test_a_size_that_is_named_twice_is_stated_once():
    norm = get_norm("l2")
    assert as_epsilons([0.2, 0.1, 0.2], [norm], Bounds()) == {norm: (0.1, 0.2)}
