import functools
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustkit.engine.ledger import Ledger
from robustkit.numerics.tensors import as_tensor

SAMPLES = 4


def batch(values, dtype=np.float64):
    return as_tensor(np.asarray(values, dtype=dtype))


def asked(ledger, distances, adversarial, rows=None, **shown):
    """One question about points that carry their distance."""
    points = batch([[d, 0.0] for d in distances])
    ledger.record(points, np.array(distances), np.array(adversarial), rows, **shown)


questions = st.lists(
    st.tuples(
        st.sets(st.integers(0, SAMPLES - 1), min_size=1),
        st.lists(st.integers(1, 5), min_size=SAMPLES, max_size=SAMPLES),
        st.lists(st.booleans(), min_size=SAMPLES, max_size=SAMPLES),
        st.sampled_from(["score", "backward", "decision"]),
        st.sets(st.integers(0, SAMPLES - 1), max_size=1),
    ),
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(questions=questions, budget=st.one_of(st.none(), st.integers(1, 4)))
def test_agrees_with_a_replay_by_hand(questions, budget):
    """Any mixture of questions to some samples, retired ones, and a budget."""
    ledger = Ledger(batch(np.zeros((SAMPLES, 2))), budget)
    log = {sample: [] for sample in range(SAMPLES)}
    alive = np.arange(SAMPLES)
    for chosen, distances, adversarial, kind, gone in questions:
        rows = np.array([at for at, s in enumerate(alive) if s in chosen], dtype=int)
        if len(rows):
            samples = alive[rows]
            everyone = len(rows) == len(alive)
            asked(
                ledger,
                [distances[s] for s in samples],
                [adversarial[s] for s in samples],
                None if everyone else rows,
                backward=kind == "backward",
                decision=kind == "decision",
            )
            for s in samples:
                log[s].append((distances[s] if adversarial[s] else np.inf, kind))
        kept = np.array([at for at, s in enumerate(alive) if s not in gone], dtype=int)
        if len(kept) < len(alive):
            ledger.retire(np.setdiff1d(np.arange(len(alive)), kept), kept)
            alive = alive[kept]
    ledger.close()

    counted = {s: [d for d, _ in log[s]][:budget] for s in log}
    best = np.array([min(counted[s], default=np.inf) for s in log])
    assert np.array_equal(ledger.distance.numpy(), best)
    points = ledger.best.numpy()
    assert np.array_equal(points[:, 0], np.where(np.isfinite(best), best, 0))
    assert ledger.forwards.tolist() == [len(log[s]) for s in log]
    for name, counts in (
        ("backward", ledger.backwards),
        ("decision", ledger.decisions),
    ):
        assert counts.tolist() == [sum(k == name for _, k in log[s]) for s in log]
    for queries in range(14):
        expected = [min(counted[s][:queries], default=np.inf) for s in log]
        assert ledger.distance_after(queries).tolist() == expected
        costs = {s: np.cumsum([1 + (k == "backward") for _, k in log[s]]) for s in log}
        early = [
            # Of the last one, only the forward pass.
            min(
                (
                    d
                    for d, cost, (_, k) in zip(
                        counted[s], costs[s], log[s], strict=False
                    )
                    if cost - (k == "backward") <= queries
                ),
                default=np.inf,
            )
            for s in log
        ]
        assert ledger.distance_after(queries, backward=True).tolist() == early


def test_samples_that_have_left_can_be_spoken_of_again():
    ledger = Ledger(batch(np.zeros((SAMPLES, 2))))
    asked(ledger, [4.0, 3.0, 2.0, 1.0], [True] * SAMPLES)
    ledger.retire(np.array([1, 3]), np.array([0, 2]))
    asked(ledger, [0.5, 0.7], [True, True])
    ledger.reopen(np.array([1, 2]))
    assert ledger.rows.tolist() == [1, 2]
    assert ledger.distance.numpy().tolist() == [3.0, 0.7]
    asked(ledger, [0.1], [True], np.array([0]))
    ledger.reopen(np.arange(SAMPLES))
    assert ledger.best.numpy()[:, 0].tolist() == [0.5, 0.1, 0.7, 1.0]
    assert ledger.forwards.tolist() == [2, 2, 2, 1]
    ledger.close()
    assert ledger.distance.numpy().tolist() == [0.5, 0.1, 0.7, 1.0]


class Interrupted(BaseException):
    """As a time limit is: raised between any two instructions."""


def interrupted(call, place):
    """Whether the call was cut off at the place, counted in what it calls itself."""
    left = place

    def watch(*_):
        nonlocal left
        left -= 1
        if left == 0:
            raise Interrupted

    sys.setprofile(watch)
    try:
        call()
        sys.setprofile(None)
    except Interrupted:
        return True
    return False


@pytest.mark.parametrize("what", ["retire", "close"])
def test_who_is_cut_off_while_samples_leave_or_return_can_go_on(what):
    everyone = np.arange(SAMPLES)
    places = 0
    while True:
        ledger = Ledger(batch(np.zeros((SAMPLES, 2))))
        asked(ledger, [4.0, 3.0, 2.0, 1.0], [True] * SAMPLES)
        asked(ledger, [0.5], [True], np.array([2]))
        ledger.retire(everyone[:1], everyone[1:])
        leave = ledger.close
        if what == "retire":
            leave = functools.partial(ledger.retire, np.array([0, 2]), np.array([1]))
        places += 1
        cut = interrupted(leave, places)
        ledger.close()
        assert ledger.distance.numpy().tolist() == [4.0, 3.0, 0.5, 1.0]
        assert ledger.best.numpy()[:, 0].tolist() == [4.0, 3.0, 0.5, 1.0]
        assert ledger.forwards.tolist() == [1, 1, 2, 1]
        assert ledger.rows.tolist() == everyone.tolist()
        if not cut:
            break
    assert places > 20


def test_overdraft_is_billed_and_not_rewarded():
    ledger = Ledger(batch(np.zeros((1, 2))), budget=2)
    for distance in (5.0, 4.0, 3.0):
        assert not ledger.spent()[0] or distance == 3.0
        asked(ledger, [distance], [True])
    assert ledger.spent()[0]
    assert ledger.forwards[0] == 3
    assert ledger.distance.item() == 4
    assert ledger.best.numpy()[0, 0] == 4


def test_a_distance_that_is_no_number_is_no_best():
    ledger = Ledger(batch(np.zeros((2, 2))))
    asked(ledger, [np.nan, 2.0], [True, True])
    assert ledger.found.numpy().tolist() == [False, True]


def test_knows_what_was_adversarial_from_the_start_without_billing_it():
    ledger = Ledger(batch(np.zeros((2, 2))))
    ledger.know(np.array([True, False]))
    assert ledger.distance.numpy().tolist() == [0, np.inf]
    assert ledger.forwards.tolist() == [0, 0]


def test_originals_known_not_to_be_adversarial_are_none_by_chance():
    ledger = Ledger(batch(np.zeros((2, 2))))
    ledger.know(np.array([False, False]))
    asked(ledger, [0.0, 2.0], [True, True])
    points = batch(np.zeros((2, 2, 2)))
    twice = np.ones((2, 2), bool)
    ledger.record_probes(points, np.array([[0.0, 3.0], [0.0, 0.0]]), twice, twice)
    assert ledger.distance.numpy().tolist() == [3, 2]
    assert ledger.forwards.tolist() == [3, 3]


@pytest.mark.parametrize("framework", ["torch", "numpy"])
def test_writes_into_no_tensor_it_was_given(framework):
    x = torch.zeros(3, 2) if framework == "torch" else np.zeros((3, 2))
    inputs, first = as_tensor(x), as_tensor(x + 2)
    ledger = Ledger(inputs)
    distance = np.array([4.0, 4.0, 4.0])
    ledger.record(first, distance, distance > 0)
    near = first[1:2] - 1
    ledger.record(near, distance[1:2] - 2, distance[1:2] > 0, np.array([1]))
    assert ledger.best.numpy().tolist() == [[2, 2], [1, 1], [2, 2]]
    assert ledger.distance.numpy().tolist() == [4, 2, 4]
    assert (inputs.numpy() == 0).all()
    assert (first.numpy() == 2).all()
    assert (distance == 4).all()
