"""The one loop: every attack is run by this function and by nothing else."""

import time
from collections.abc import Iterable
from typing import Protocol, TypeVar

import numpy as np

from robustkit.engine.attack import Attack
from robustkit.engine.ledger import Ledger
from robustkit.engine.problem import Listener, Problem
from robustkit.errors import BadInput
from robustkit.numerics.fused import compiling
from robustkit.numerics.tensors import Array, any_true, take, to_numpy

__all__ = ["Observer", "run"]

S = TypeVar("S")


class Observer(Protocol):
    """Looks on after each step; changes nothing."""

    def after_step(self, p: Problem, step: int) -> None:
        """Called with the samples that took the step, before any is dropped."""


def run(
    attack: Attack[S],
    problem: Problem,
    *,
    budget: int | None = None,
    observers: Iterable[Observer] = (),
    compiled: bool = False,
) -> Ledger:
    """Run an attack on a problem and return what it found and what that cost.

    A sample is worked on until the attack calls it finished, its budget is spent, an
    adversarial at distance zero is known, or the attack's steps are over. Then it is
    frozen and leaves the batch; that changes no other sample's result.

    Args:
        attack: What to run.
        problem: What to run it on; it is used up.
        budget: The most questions (forward passes, each with or without its backward
            pass) per sample. A step may overdraw it: that is billed, not rewarded.
        observers: Called after each step; those that are listeners too
            (`engine.problem.Listener`) hear every question.
        compiled: Compile the attack's arithmetic (`numerics.fused`).

    Returns:
        The problem's ledger, speaking of all samples in their order.

    Raises:
        BadInput: The attack cannot work on the problem, or the budget is not positive.
    """
    if budget is not None and budget < 1:
        raise BadInput(f"the budget must be at least 1 question; got {budget}")
    attack.check(problem)
    problem.limit(attack.access, budget)
    observers = tuple(observers)
    listeners = tuple(o for o in observers if isinstance(o, Listener))
    problem.tell(listeners)
    ledger = problem.ledger
    try:
        with problem.model.session(), compiling(compiled):
            known = to_numpy(ledger.distance <= 0)
            if known.any():
                problem.drop(known)
            if problem.size:
                with _Clock(ledger):
                    state = attack.init(problem)
                for step in range(attack.steps):
                    state = _drop_finished(attack, problem, state)
                    if not problem.size:
                        break
                    for listener in listeners:
                        listener.before_step(problem, step)
                    with _Clock(ledger):
                        state = attack.step(problem, state, step)
                    ledger.steps += 1
                    for observer in observers:
                        observer.after_step(problem, step)
                state = _drop_finished(attack, problem, state)
                if problem.size:
                    with _Clock(ledger):
                        attack.finalise(problem, state)
    finally:
        ledger.close()
    return ledger


def _drop_finished(attack: Attack[S], problem: Problem, state: S) -> S:
    finished: Array = problem.ledger.settled()
    converged = attack.finished(problem, state)
    if converged is not None:
        finished = finished | to_numpy(converged)
    if not any_true(finished):
        return state
    problem.drop(finished)
    return take(state, np.flatnonzero(~finished))


class _Clock:
    """Bills the time of a block to the samples it was spent on, in equal shares."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        seconds = self._ledger.seconds
        seconds += (time.perf_counter() - self._start) / max(len(seconds), 1)
