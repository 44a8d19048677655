import numpy as np
import pytest

from robustkit.attacks.decision import subsets
from robustkit.attacks.decision.sieve import Sieve
from robustkit.engine.criteria import Misclassification
from robustkit.engine.problem import Problem
from robustkit.models.numpy import NumPyModel
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor

FEATURES = 40


def problem(slopes, threshold, log=None, most=FEATURES, budget=10_000):
    """Adversarial where slopes @ x passes the threshold, by few enough features."""

    def function(x):
        if log is not None:
            log.append(x.copy())
        score = threshold - (x * slopes).sum(axis=1)
        score = np.where((x > 0).sum(axis=1) > most, 1.0, score)
        return np.stack([score, np.zeros_like(score)], axis=1)

    x = np.zeros((3, FEATURES))
    criterion = Misclassification(as_tensor(np.zeros(3, dtype=np.int64)))
    keys = np.arange(3, dtype=np.uint64)
    p = Problem(
        NumPyModel(function), as_tensor(x), criterion, get_norm("l0"), keys=keys
    )
    p.limit(Sieve.access, budget)
    return p


def few(p, weight, rows=(0, 1, 2), first=1, most=FEATURES):
    rows = np.array(rows)
    first, most = np.full(len(rows), first), np.full(len(rows), most)
    return subsets.fewest(p, p.high, weight, rows, first, most)


@pytest.mark.parametrize("needed", [1, 2, 3, 11, 32, 40])
def test_the_fewest_of_the_largest_weights(needed):
    slopes = np.ones(FEATURES)
    p = problem(slopes, needed - 0.5)
    weight = np.random.default_rng(0).uniform(1, 2, (3, FEATURES))
    delta, found = few(p, weight)
    assert found.raw.all()
    largest = np.argsort(-weight, axis=1)[:, :needed]
    for row in range(3):
        assert (np.flatnonzero(delta.raw[row]) == np.sort(largest[row])).all()
    assert (p.ledger.forwards <= 2 * np.log2(FEATURES) + 3).all()


def test_where_units_are_counted_none_goes_part_of_its_way():
    for needed in (4, 5, 8, 11):
        p = problem(np.ones(FEATURES), needed - 0.5)
        delta, _ = few(p, np.ones((3, FEATURES)), first=3)
        assert (delta.raw.sum(axis=1) == needed).all()
        assert set(np.unique(delta.raw)) == {0.0, 1.0}


def test_few_are_found_where_many_are_not_adversarial():
    p = problem(np.ones(FEATURES), 2.5, most=5)
    delta, found = few(p, np.ones((3, FEATURES)))
    assert found.raw.all()
    assert (delta.raw.sum(axis=1) == 3).all()


def test_no_more_are_asked_than_may_be_and_nobody_else():
    p = problem(np.ones(FEATURES), 20.5)
    delta, found = few(p, np.ones((3, FEATURES)), rows=(0, 2), most=16)
    assert not found.raw.any()
    assert not delta.raw.any()
    assert p.ledger.forwards.tolist() == [5, 0, 5]


def test_a_spent_budget_ends_the_search():
    p = problem(np.ones(FEATURES), 20.5, budget=3)
    _, found = few(p, np.ones((3, FEATURES)))
    assert not found.raw.any()
    assert (p.ledger.forwards == 3).all()


def learned(p, weight, number, rows=(0, 1, 2), t=0):
    rows = np.array(rows)
    count = np.full(len(rows), number)
    return subsets.learned(p, p.high, weight, rows, count, t)


def test_what_units_bring_is_learned_from_random_subsets():
    slopes = np.zeros(FEATURES)
    slopes[[3, 8, 21, 30]] = 1.0
    log: list[np.ndarray] = []
    p = problem(slopes, 1.5, log)
    p.decide(as_tensor(np.ones((3, FEATURES))))
    weight = learned(p, np.ones((3, FEATURES)), 40)
    weight = learned(p, weight, 40, t=1)
    assert (p.ledger.forwards == 81).all()
    for row in range(3):
        assert set(np.argsort(-weight[row])[:4]) == {3, 8, 21, 30}
    # About half of the subsets are adversarial, which tells most.
    shown = np.concatenate(log[1:])
    assert 0.35 < (shown @ slopes > 1.5).mean() < 0.65


def test_only_candidates_are_shown_and_learned_about():
    log: list[np.ndarray] = []
    p = problem(np.ones(FEATURES), 4.5, log)
    known = np.zeros((3, FEATURES))
    known[:, :5] = 1.0
    p.decide(as_tensor(known))
    before = np.tile(np.linspace(0, 1, FEATURES), (3, 1))
    after = learned(p, before, 12, rows=(1,))
    candidates = [*range(5), *range(33, 40)]
    others = np.setdiff1d(np.arange(FEATURES), candidates)
    assert not np.concatenate(log[1:])[:, others].any()
    assert (after[1, others] == before[1, others]).all()
    assert (after[[0, 2]] == before[[0, 2]]).all()
    assert (after[1, candidates] != before[1, candidates]).any()
    assert (after >= 0).all()
    assert p.ledger.forwards.tolist() == [1, 13, 1]


def test_answers_that_are_all_alike_change_nothing():
    before = np.random.default_rng(1).uniform(size=(3, FEATURES))
    for threshold in (-0.5, 100.0):
        p = problem(np.ones(FEATURES), threshold)
        assert (learned(p, before, 20) == before).all()


def test_what_is_learned_does_not_depend_on_memory_or_company(monkeypatch):
    slopes = np.random.default_rng(2).uniform(size=FEATURES)
    before = np.ones((3, FEATURES))
    together = learned(problem(slopes, 6.0), before, 40)
    alone = learned(problem(slopes, 6.0), before, 40, rows=(2,))
    assert (alone[2] == together[2]).all()
    # One sample at a time; the subsets asked about at once stay as many.
    monkeypatch.setattr(subsets, "_AT_ONCE", 128 * FEATURES)
    assert (learned(problem(slopes, 6.0), before, 40) == together).all()


def test_no_more_is_asked_than_the_budget_has():
    p = problem(np.ones(FEATURES), 6.0, budget=21)
    learned(p, np.ones((3, FEATURES)), 40)
    assert (p.ledger.forwards == 21).all()
