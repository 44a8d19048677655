import io

import numpy as np
import pytest
from rich.console import Console

import robustkit as rk
from robustkit.report.terminal import print_results


def nearest(results):
    """What the table of attacks says of them all together, and of the first."""
    console = Console(width=120, file=io.StringIO())
    print_results(results, console)
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in console.file.getvalue().splitlines()
    ]
    of_all = next(row for row in rows if row and row[0].startswith("nearest of all"))
    return of_all, next(row for row in rows if row and row[0] == "fmn")


@pytest.mark.parametrize("broken", [False, True])
def test_errors_are_told_where_they_count_otherwise_than_beside_it(broken):
    def answers(x):
        out = x[:, :2].copy()
        out[broken & (x[:, 2] > 0.5)] = np.nan
        return out

    model = rk.NumPyModel(answers, gradient=lambda x, s: np.pad(s, ((0, 0), (0, 1))))
    x = np.array([[0.9, 0.5, 0.0], [0.9, 0.5, 1.0]], np.float32)
    results = rk.evaluate(model, (x, np.zeros(2, int)), attacks=["fmn"])
    of_all, fmn = nearest(results)
    assert of_all[0] == "nearest of all" + (", errors as 0" if broken else "")
    assert (of_all[2] == fmn[2]) is not broken


def test_where_nothing_is_attacked_nothing_is_called_not_found():
    model = rk.NumPyModel(lambda x: x, gradient=lambda x, s: s)
    x = np.array([[0.9, 0.5], [0.9, 0.4]], np.float32)
    results = rk.evaluate(model, (x, np.ones(2, int)), attacks=["fmn"])
    for row in nearest(results):
        assert row[2] == "-"
