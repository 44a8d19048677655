import json
import os
import pty
import re
import subprocess
import sys

import pytest
from click.testing import CliRunner

from robustkit.cli import main

OPTIONS = [
    *("eval", "--samples", "30", "--batch-size", "10", "--budget", "20"),
    *("--attacks", "fmn,gaussian-noise"),
]


def ran(*options, folder):
    """What a command whose error output is no terminal says."""
    done = CliRunner().invoke(main, [*OPTIONS, *options, "--out", str(folder)])
    assert done.exit_code == 0, done.stderr
    return done


def test_lines_in_a_pipe_and_nothing_if_asked(tmp_path):
    done = ran(folder=tmp_path / "lines")
    lines = [line for line in done.stderr.splitlines() if line.startswith("samples")]
    assert len(lines) == 3 * 2
    assert lines[0].startswith("samples 0-9: linf fmn, ")
    assert re.search(r"\d+ % done, .*passes/s, .* left, median 0\.\d+", lines[-1])
    assert "\x1b" not in done.stderr + done.stdout
    assert ran("--progress", "none", folder=tmp_path / "none").stderr == ""


def test_bounds_are_told_of_unless_nothing_is_asked(tmp_path):
    few = ("--samples", "2", "--norm", "linf", "--lower", "interval")
    told = ran(*few, folder=tmp_path / "lines")
    assert "lower bound of sample 1: linf interval" in told.stderr
    assert ran(*few, "--progress", "none", folder=tmp_path / "none").stderr == ""


def test_json_is_for_tools(tmp_path):
    done = ran("--json", folder=tmp_path / "run")
    assert json.loads(done.stdout)["samples"] == 30
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert {event["event"] for event in events} == {"progress"}
    assert {(e["first_sample"], e["attack"]) for e in events} == {
        (first, attack) for first in (0, 10, 20) for attack in ("fmn", "gaussian-noise")
    }
    shares = [event["share"] for event in events]
    assert shares == sorted(shares)
    assert events[0]["median"] is None
    assert events[-1]["median"] > 0
    assert events[-1]["passes_per_second"] > 0
    assert events[-1]["seconds_left"] >= 0


@pytest.mark.slow
def test_a_bar_on_a_terminal(tmp_path):
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        # So long that every batch is seen, though the bar is drawn ten times a second.
        [sys.executable, "-m", "robustkit", *OPTIONS, "--budget", "1000"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        # Threads that wait for each other take minutes where cores are busy.
        env={**os.environ, "TERM": "xterm", "COLUMNS": "160", "OMP_NUM_THREADS": "1"},
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            more = os.read(ours, 65536)
        except OSError:
            break
        if not more:
            break
        shown += more
    os.close(ours)
    assert process.wait() == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert "samples 0-9: linf" in text
    assert "all samples" in text
    assert "passes/s" in text
    assert "median 0." in text
