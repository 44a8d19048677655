from types import SimpleNamespace

import numpy as np
import pytest

from robustkit.adaptive import symptoms
from robustkit.adaptive.attempt import Best
from robustkit.adaptive.remedy import Case
from robustkit.checks.finding import Finding, Severity
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.norms import get_norm


def case(norm):
    told = {
        id: Finding(id, Severity.INVALIDATES, "", "", {}) for id in ("C2", "S4", "G2")
    }
    none = np.zeros((0, 2))
    return Case(
        model=SimpleNamespace(bounds=Bounds()),
        current=None, x=none, label=none, pool=none, honest=none,
        norm=get_norm(norm), epsilon=0.1, step=0.1, budget=10, classes=10,
        random=False, seed=0, criterion=None, findings=told,
    )  # fmt: skip


def best(distance):
    count = len(distance)
    zeros = np.zeros((count, 2))
    return Best(zeros, np.array(distance), np.ones(count, int), 1, np.full(count, ""))


@pytest.mark.parametrize(
    ("norm", "robust", "left"),
    [
        # Of one class are 30 of 40 samples, so that many stand a grey image.
        ("linf", 30, {"G2"}),
        ("linf", 40, {"C2", "G2"}),
        # Half the width of the box is no such size in another norm.
        ("l2", 0, {"C2", "G2"}),
    ],
)
def test_chance_is_that_of_the_labels_and_in_linf(norm, robust, left):
    label = np.where(np.arange(40) < 30, 3, 7)
    distance = np.where(np.arange(40) < robust, 0.9, 0.1)
    after = symptoms.without(case(norm), best(distance), label)
    assert after.findings.keys() == left
