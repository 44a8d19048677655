import ctypes
import os
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
from scipy import optimize

from robustkit.numerics.integer_programs import milp

# Prints as a library in C does, into a buffer of its own.
PRINT = b"said by the library\n"


@pytest.fixture
def talkative(monkeypatch):
    """Makes the solver print, and wait for something while it is at work."""
    solve = optimize.milp

    def install(wait=lambda: None):
        def loud(*arguments, **settings):
            ctypes.CDLL(None).printf(PRINT)
            wait()
            return solve(*arguments, **settings)

        monkeypatch.setattr(optimize, "milp", loud)

    return install


def solved():
    return milp(np.array([1.0, -1.0]), integrality=[1, 1], bounds=(0, 2)).x.tolist()


def test_what_the_library_prints_is_no_output(talkative, capfd):
    talkative()
    os.write(1, b"before\n")
    assert solved() == [0, 2]
    os.write(1, b"after\n")
    out, error = capfd.readouterr()
    assert out == "before\nafter\n"
    assert error == PRINT.decode()


def test_output_comes_back_when_the_last_thread_is_done(talkative, capfd):
    both = threading.Barrier(2)
    talkative(both.wait)
    threads = [threading.Thread(target=solved) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.write(1, b"after\n")
    out, error = capfd.readouterr()
    assert (out, error) == ("after\n", 2 * PRINT.decode())


def test_warnings_are_filtered_as_before_when_the_last_thread_is_done(talkative):
    """The first thread that came leaves first."""
    first_is_in, second_is_in, first_is_out = (threading.Event() for _ in range(3))

    def wait():
        if first_is_in.is_set():
            second_is_in.set()
            first_is_out.wait(10)
        else:
            first_is_in.set()
            second_is_in.wait(10)

    talkative(wait)
    before = list(warnings.filters)
    threads = [threading.Thread(target=solved) for _ in range(2)]
    threads[0].start()
    first_is_in.wait(10)
    threads[1].start()
    threads[0].join()
    first_is_out.set()
    threads[1].join()
    assert warnings.filters == before


def test_an_error_gives_output_back(capfd):
    with pytest.raises(ValueError, match="integrality"):
        milp([1.0], integrality=[1, 1])
    os.write(1, b"after\n")
    assert capfd.readouterr().out == "after\n"


@pytest.mark.parametrize("closed", ["1", "2", "1, 2"])
def test_what_is_closed_is_left_closed(closed):
    script = (
        "import os\n"
        "from robustkit.numerics.integer_programs import milp\n"
        f"for place in ({closed},): os.close(place)\n"
        "found = milp([1.0], bounds=(2, 3)).x\n"
        f"for place in ({closed},):\n"
        "    try: os.fstat(place)\n"
        "    except OSError: continue\n"
        "    os._exit(5)\n"
        "os._exit(int(found[0]))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 2
