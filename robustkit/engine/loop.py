"""The one loop: every attack is run by this function and by nothing else."""

import time
from collections.abc import Iterable
from typing import Any, Protocol, TypeVar

import numpy as np

from robustkit.arguments import as_whole
from robustkit.engine.attack import Attack
from robustkit.engine.ledger import Ledger
from robustkit.engine.problem import Listener, Problem
from robustkit.models.base import Access
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
    frozen and leaves the batch; that changes no other sample's result. Samples that the
    attack gives up leave as well; once nobody is left, its successor goes on with them.

    Args:
        attack: What to run.
        problem: What to run it on; it is used up.
        budget: The most questions (forward passes, each with or without its backward
            pass) per sample, no more than the attack's own. A step may overdraw it:
            that is billed, not rewarded.
        observers: Called after each step; those that are listeners too
            (`engine.problem.Listener`) hear every question. Steps of a successor are
            counted on from the last one's.
        compiled: Compile the attack's arithmetic (`numerics.fused`).

    Returns:
        The problem's ledger, speaking of all samples in their order.

    Raises:
        BadInput: The attack cannot work on the problem, or the budget is not positive.
    """
    if budget is not None:
        budget = as_whole(budget, "the budget", least=1)
    attack.check(problem)
    limits = [] if budget is None else [budget]
    if attack.successor is not None and attack.budget is not None:
        each = problem.ledger.passes + problem.model.passes_per_gradient
        limits.append(attack.budget * each)
    problem.limit(attack.access, min(limits, default=None))
    observers = tuple(observers)
    problem.tell(_listeners(observers))
    ledger = problem.ledger
    try:
        with problem.model.session(), compiling(compiled):
            known = to_numpy(ledger.distance <= 0)
            if known.any():
                problem.drop(known)
            step, turn = 0, attack
            while problem.size:
                blind = turn.access < Access.GRADIENT <= attack.access
                step, waiting = _work(turn, problem, step, observers, blind)
                if turn.successor is None or not len(waiting):
                    break
                turn = turn.successor
                problem.reopen(waiting)
    finally:
        ledger.close()
    return ledger


def _work(
    attack: Attack[Any],
    problem: Problem,
    first: int,
    observers: tuple[Observer, ...],
    blind: bool,
) -> tuple[int, Array]:
    """One attack's steps.

    Args:
        attack: It.
        problem: With at least one sample.
        first: Number of the first step for the observers.
        observers: They.
        blind: Whether it goes on without the gradients that another one gave up.

    Returns:
        The number of the next step, and who was given up (as `Ledger.rows`).
    """
    ledger, listeners = problem.ledger, _listeners(observers)
    waiting: list[Array] = []
    with _Clock(ledger):
        state = attack.init(problem)
    step = first
    for turn in range(attack.steps):
        state = _drop_finished(attack, problem, state, waiting)
        if not problem.size:
            break
        for listener in listeners:
            listener.before_step(problem, step)
        with _Clock(ledger):
            state = attack.step(problem, state, turn)
        ledger.steps += 1
        ledger.blind += blind
        for observer in observers:
            observer.after_step(problem, step)
        step += 1
    state = _drop_finished(attack, problem, state, waiting)
    if problem.size:
        with _Clock(ledger):
            attack.finalise(problem, state)
    return step, np.sort(np.concatenate([ledger.rows[:0], *waiting]))


def _drop_finished(
    attack: Attack[S], problem: Problem, state: S, waiting: list[Array]
) -> S:
    """The state of those that are worked on; others leave, or wait as well."""
    leaving: Array = problem.ledger.settled()
    converged = attack.finished(problem, state)
    if converged is not None:
        leaving = leaving | to_numpy(converged)
    given_up = attack.given_up(problem, state) if attack.successor else None
    if given_up is not None and bool(given_up.any()):
        lost = to_numpy(given_up) & ~leaving
        waiting.append(problem.ledger.rows[lost])
        leaving = leaving | lost
    if not any_true(leaving):
        return state
    problem.drop(leaving)
    return take(state, np.flatnonzero(~leaving))


def _listeners(observers: tuple[Observer, ...]) -> tuple[Listener, ...]:
    return tuple(o for o in observers if isinstance(o, Listener))


class _Clock:
    """Bills the time of a block to the samples it was spent on, in equal shares."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        seconds = self._ledger.seconds
        seconds += (time.perf_counter() - self._start) / max(len(seconds), 1)
