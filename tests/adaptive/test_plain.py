import numpy as np
import pytest
import torch

import robustkit as rk
from robustkit.adaptive.plain import attacks_that_run


def scores(x):
    with torch.no_grad():
        return rk.load_model("digits").module(torch.from_numpy(np.float32(x))).numpy()


def decisions():
    return rk.LabelModel(lambda x: scores(x).argmax(axis=1), classes=10)


@pytest.mark.parametrize(
    ("model", "attacks", "expected"),
    [
        (rk.NumPyModel(scores), ["auto"], ["thompson"]),
        (rk.NumPyModel(scores), ["fmn", "boundary"], ["thompson", "boundary"]),
        (rk.NumPyModel(scores), ["thompson", "pgd"], ["thompson"]),
        (rk.NumPyModel(scores), ["square"], ["square"]),
        (decisions(), ["auto"], ["auto"]),
        (decisions(), ["fmn"], ["auto"]),
        (decisions(), ["boundary", "pgd"], ["auto", "boundary"]),
    ],
)
def test_what_needs_no_gradients_stays(digits, model, attacks, expected):
    found = attacks_that_run(model, digits, attacks, ["linf"])
    assert found == expected


def test_a_model_of_decisions_is_evaluated_and_its_findings_answered(digits):
    x, y = digits
    model, data = decisions(), (x[:4], y[:4])
    attacks = attacks_that_run(model, data, ["auto"], ["linf"])
    results = rk.evaluate(model, data, attacks=attacks, budget=60)
    steps = rk.adapt(results, model, data, budget=60).of()
    assert steps[0].remedy == "plain"
    assert not any(step.failures for step in steps)
