import contextlib
import importlib
import math
import signal
import sys
import threading
import time

import pytest
from eagerpy.astensor import astensor

from robustkit.errors import BadInput
from robustkit.evaluation.deadline import OutOfTime, check_time_limit, deadline
from robustkit.numerics.fused import compiling, fused


def test_ends_the_block_after_its_time():
    began = time.monotonic()
    with pytest.raises(OutOfTime), deadline(0.1):
        time.sleep(30)
    assert time.monotonic() - began < 10


def test_models_that_catch_what_they_can_do_not_swallow_it():
    def stubborn():
        with contextlib.suppress(Exception):
            time.sleep(30)

    with pytest.raises(OutOfTime), deadline(0.1):
        stubborn()


def test_leaves_no_timer_and_no_handler_behind():
    before = signal.getsignal(signal.SIGALRM)
    with deadline(0.2):
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    assert signal.getsignal(signal.SIGALRM) is before
    with deadline(None):
        assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_no_module_is_cut_in_half(tmp_path, monkeypatch):
    (tmp_path / "slow_to_import.py").write_text(
        "import time\nfor _ in range(40):\n    time.sleep(0.01)\nWHOLE = True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def late():
        importlib.import_module("slow_to_import")
        time.sleep(30)

    with pytest.raises(OutOfTime), deadline(0.1):
        late()
    assert sys.modules.pop("slow_to_import").WHOLE


def test_no_program_is_cut_in_half():
    """JAX compiles what it is called with, not what it is given beforehand."""
    jnp = pytest.importorskip("jax.numpy")
    x, whole = astensor(jnp.ones((2, 3))), []

    @fused
    def slow_to_compile(x):
        for _ in range(40):
            time.sleep(0.01)
        whole.append(True)
        return x * 2

    def late():
        slow_to_compile(x)
        time.sleep(30)

    with pytest.raises(OutOfTime), compiling(), deadline(0.1):
        late()
    assert whole


@pytest.mark.parametrize("seconds", [0, -1.0, math.nan, math.inf, "a", "1", True])
def test_limits_are_positive_numbers(seconds):
    with pytest.raises(BadInput, match="the time limit must be"):
        check_time_limit(seconds)


def test_other_threads_are_told_that_they_have_none():
    said = []

    def check():
        check_time_limit(None)
        with pytest.raises(BadInput, match="main thread"):
            check_time_limit(1.0)
        said.append(True)

    thread = threading.Thread(target=check)
    thread.start()
    thread.join()
    assert said
