import json
import os
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

import robustkit as rk
from robustkit.cli import main
from tests.models.server import Server

MAIN = "from robustkit.cli import main; main(prog_name='robustkit')"


@pytest.fixture
def ask(tmp_path, monkeypatch):
    """Runs a command in an empty folder; returns exit code, output and error."""
    monkeypatch.chdir(tmp_path)

    def asked(*arguments, env=None):
        done = CliRunner().invoke(main, list(map(str, arguments)), env=env)
        return done.exit_code, done.stdout, done.stderr

    return asked


@pytest.fixture
def small(tmp_path, ask):
    """`robustkit eval` on four samples, quickly, with what else is given."""
    base = ("--samples", "4", "--attacks", "fmn", "--budget", "5", "--out", "run")

    def run(*arguments, env=None, base=base):
        code, _, error = ask("eval", *base, *arguments, env=env)
        assert code == 0, error
        return json.loads((tmp_path / "run" / "run.json").read_text())["config"]

    return run


def test_a_file_sets_what_is_not_typed(tmp_path, small):
    (tmp_path / "settings.toml").write_text(
        'norm = ["l2", "linf"]\nseed = 3\nbatch-size = 2\nbounds = [0.0, 1.0]\n'
        "[epsilons]\nl2 = [0.5, 1.0]\nlinf = [0.1]\n"
    )
    config = small("--config", "settings.toml", "--seed", "4")
    assert config["norms"] == ["l2", "linf"]
    assert config["epsilons"] == {"l2": [0.5, 1.0], "linf": [0.1]}
    assert (config["seed"], config["batch_size"]) == (4, 2)


def test_a_file_has_a_table_for_each_command(tmp_path, small):
    (tmp_path / "settings.toml").write_text("[check]\nseed = 9\n[eval]\nseed = 5\n")
    assert small("--config", "settings.toml")["seed"] == 5


def test_tables_of_other_commands_are_left_alone_and_nothing_beside_them(
    tmp_path, ask, small
):
    (tmp_path / "settings.toml").write_text('[report]\nout = "x"\n')
    assert small("--config", "settings.toml")["seed"] == 0
    (tmp_path / "settings.toml").write_text("seed = 3\n[eval]\nsamples = 2\n")
    code, _, error = ask("eval", "--config", "settings.toml")
    assert code == 2
    assert "sets 'seed' outside of its tables by command (eval)" in error


def test_typed_goes_before_the_environment_before_the_file(tmp_path, small):
    (tmp_path / "settings.toml").write_text("seed = 1\nbatch_size = 3\nbudget = 7\n")
    config = small(
        *("--config", "settings.toml", "--samples", "3", "--attacks", "fmn"),
        *("--seed", "5", "--out", "run"),
        env={"ROBUSTKIT_EVAL_SEED": "4", "ROBUSTKIT_EVAL_BATCH_SIZE": "2"},
        base=(),
    )
    assert (config["seed"], config["batch_size"], config["budget"]) == (5, 2, 7)


def test_a_run_is_repeated_from_its_run_json(tmp_path, ask):
    typed = (
        *("eval", "digits-robust", "--norm", "l2,linf", "--samples", "6"),
        *("--attacks", "square,gaussian-noise", "--budget", "12", "--seed", "3"),
        *("--epsilons", "l2=1/3,0.7,linf=8/255", "--batch-size", "4"),
        *("--target", "random", "--time-limit", "100", "--mean", "0.1", "--std", "2"),
        *("--access", "score", "--shard", "1/2"),
    )
    assert ask(*typed, "--out", "one")[0] == 0
    code, _, error = ask("eval", "--config", "one/run.json", "--out", "two")
    assert code == 0, error
    one, two = (
        json.loads((tmp_path / name / "run.json").read_text())
        for name in ("one", "two")
    )
    assert one["config"] == two["config"]
    assert one["asked"] == two["asked"]
    best = [(tmp_path / name / "best.npz").read_bytes() for name in ("one", "two")]
    assert best[0] == best[1]
    code, _, error = ask(
        "eval", "--config", "one/run.json", "--seed", "8", "--out", "three"
    )
    assert code == 0, error
    three = json.loads((tmp_path / "three" / "run.json").read_text())
    assert three["config"] == {**one["config"], "seed": 8}


def test_headers_come_whole_from_files_and_the_environment(ask, tmp_path, monkeypatch):
    monkeypatch.setenv("API_KEY", "secret")
    given = {"Authorization": "Bearer ENV:API_KEY", "X-Key": "ENV:API_KEY, again"}
    each = [f"{name}={value}" for name, value in given.items()]
    (tmp_path / "list.toml").write_text(f"header = {json.dumps(each)}\n")
    table = [f"{name} = {json.dumps(value)}\n" for name, value in given.items()]
    (tmp_path / "table.toml").write_text("[header]\n" + "".join(table))
    with Server() as server:
        x = np.zeros((4, 1, 4, 4), dtype=np.float32)
        np.savez(tmp_path / "data.npz", x=x, y=server.scores(x).argmax(axis=1))
        typed = (
            *("eval", server.url, "--data", "data.npz", "--attacks", "gaussian-noise"),
            *("--budget", "3", "--cache", "answers.db", "--out"),
        )
        ways = {
            "list": (("--config", "list.toml"), None),
            "table": (("--config", "table.toml"), None),
            "variable": ((), {"ROBUSTKIT_EVAL_HEADER": "\n".join(each)}),
            "again": (("--config", "list/run.json"), None),
        }
        for out, (options, env) in ways.items():
            words = ("eval", "--out") if out == "again" else typed
            code, _, error = ask(*words, out, *options, env=env)
            assert code == 0, error
            text = (tmp_path / out / "run.json").read_text()
            assert json.loads(text)["config"]["headers"] == given
            assert json.loads(text)["config"]["cache"] == "answers.db"
            assert "secret" not in text


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.toml", "sed = 1", "sets 'sed', which `robustkit eval` does not take"),
        ("a.toml", "seed = ", "cannot read the settings in"),
        ("a.toml", 'seed = "x"', "'x' is not a valid integer"),
        ("a.toml", "budget = true", "'True' is not a valid integer"),
        ("a.toml", "norm = true", "unknown norm 'True'"),
        ("a.json", "[" * 100_000, "cannot read the settings in"),
        ("a.json", "{}", "must be the run.json of a run"),
        (
            "a.json",
            '{"asked": {"model": null, "data": "a", "attacks": "b"}, "config": {}}',
            "was made from Python objects (model)",
        ),
    ],
)
def test_files_that_say_nothing_of_use(tmp_path, ask, name, text, message):
    (tmp_path / name).write_text(text)
    code, _, error = ask("eval", "--config", name)
    assert code == 2
    assert message in error
    assert ask("eval", "--config", "missing.toml")[0] == 2


def test_an_environment_of_its_own_for_each_command(tmp_path, ask):
    run = rk.evaluate("digits", "digits", samples=3, attacks=["fmn"], budget=5)
    assert ask("compare", run.path, env={"ROBUSTKIT_COMPARE_JSON": "1"})[1][0] == "{"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(ask, shell):
    code, out, error = ask("completion", shell)
    if "bash" in error and shell == "bash":
        pytest.skip("needs a newer bash")
    assert code == 0
    assert "_ROBUSTKIT_COMPLETE" in out
    words = {
        "bash": {"COMP_WORDS": "robustkit eval --ac", "COMP_CWORD": "2"},
        "zsh": {"COMP_WORDS": "robustkit eval --ac", "COMP_CWORD": "2"},
        "fish": {"COMP_WORDS": "robustkit eval --ac", "COMP_CWORD": "--ac"},
    }[shell]
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from robustkit.cli import main; main(prog_name='robustkit')",
        ],
        env={**os.environ, "_ROBUSTKIT_COMPLETE": f"{shell}_complete", **words},
        capture_output=True,
        text=True,
    )
    assert "--access" in done.stdout


def test_every_command_shows_examples_and_help_is_quick():
    times = []
    for name in (None, *main.commands):
        command = [sys.executable, "-m", "robustkit", *filter(None, [name]), "--help"]
        before = os.times()
        done = subprocess.run(command, capture_output=True, text=True)
        after = os.times()
        assert done.returncode == 0, done.stderr
        assert "Example" in done.stdout, name
        examples = done.stdout.partition("Example")[2].splitlines()[1:]
        # On lines of their own.
        assert examples[0].split()[0] in ("robustkit", "eval"), (name, examples)
        assert "\\b" not in done.stdout
        times.append(
            after.children_user
            - before.children_user
            + after.children_system
            - before.children_system
        )
    # Of the processor; on a clock it depends on who else is at work.
    assert np.median(times) < 0.3, times
