"""One attack put to the test: tasks, runs, and what the returned points are worth."""

import functools
import random
import unittest
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import numpy as np
import torch

from robustkit.active_tests.planted import FAMILIES, Planted
from robustkit.engine.attack import edge
from robustkit.errors import BadInput
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import Array, as_tensor, to_numpy
from robustkit.testing.decoy import with_decoy
from robustkit.testing.subjects import Outcome, Settings, Subject

__all__ = ["Trial", "Verdict", "check_shapes", "seeded"]

SHAPE = (1, 4, 4)
"""Of one input: a small image, since some packages take nothing else."""


@dataclass(frozen=True, eq=False)
class Verdict:
    """What an attack returned, judged afresh.

    Attributes:
        task: That it was run on.
        outcome: As it was returned.
        epsilon: It searched within, in norm units; infinite: it did not.
        points: (n, ...) as returned.
        finite: (n,) which points are.
        inside: (n,) which points are within the bounds.
        adversarial: (n,) which points are valid, and adversarial by a forward pass.
        distance: (n,) float64, of each point in norm units; infinite where it is not
            adversarial.
    """

    task: Planted
    outcome: Outcome
    epsilon: float
    points: Array
    finite: Array
    inside: Array
    adversarial: Array
    distance: Array

    @property
    def success(self) -> Array:
        """(n,) who is adversarial within epsilon."""
        return np.asarray(self.distance <= edge(self.epsilon)) & (self.adversarial)

    @property
    def claims(self) -> Array:
        """(n,) for whom it says that it has one; where it does not say, `success`."""
        claimed = self.outcome.claims
        return self.success if claimed is None else claimed

    def require(self, good: Array, expected: str, got: object) -> None:
        """Raise for the first sample that is not as expected.

        Args:
            good: (n,) who is.
            expected: In words; `{}` stands for the number in `got` of that sample.
            got: (n,) values, or words.

        Raises:
            AssertionError: A sample is not.
        """
        if np.all(good):
            return
        row = int(np.flatnonzero(~np.asarray(good))[0])
        value = got[row] if isinstance(got, np.ndarray | list) else got
        shown = f"{value:.6g}" if isinstance(value, float) else str(value)
        raise AssertionError(
            f"{self.task.name}, sample {row}: expected {expected}; got {shown}"
        )


@dataclass(frozen=True, eq=False)
class Trial:
    """One attack in one norm, and what it promises.

    Attributes:
        subject: Under test.
        norm: In which distances are measured.
        factor: The most that its distances may exceed the known minimum by, as a
            ratio, where the problem is easy; infinite: it states none.
        complete: Whether it promises to find an adversarial wherever there is one.
        samples: How many inputs a task has.
        patience: The most forward passes per sample before it is given up.
    """

    subject: Subject
    norm: str
    factor: float
    complete: bool
    samples: int
    patience: int
    _known: dict[Any, Verdict] = field(default_factory=dict, init=False, repr=False)

    def affine(self, **settings: Any) -> Planted:
        """The usual task: a linear model on small images, with the box active."""
        return self._planted("affine", **({"classes": 3} | settings))

    def easy(self) -> list[Planted]:
        """Tasks of which every gradient leads to an adversarial."""
        return [
            self.affine(),
            self.affine(seed=2, classes=4),
            self._planted("min-of-affines"),
        ]

    def winding(self) -> Planted:
        """A task of which the gradient has to be followed round corners."""
        return self._planted("max-of-affines")

    def misleading(self) -> list[Planted]:
        """Tasks in which the class that scores second is not the nearest."""
        return [
            with_decoy(self.samples, SHAPE, self.subject.dtype, swapped=swapped)
            for swapped in (False, True)
        ]

    def _planted(self, family: str, **settings: Any) -> Planted:
        given: dict[str, Any] = {"seed": 1, "samples": self.samples, "features": SHAPE}
        return _made(family, **({"dtype": self.subject.dtype} | given | settings))

    def run(
        self,
        task: Planted,
        *,
        global_seed: int = 0,
        refusable: bool = False,
        **settings: Any,
    ) -> Verdict:
        """Run the attack, unless it was run just like that before, and judge it.

        Args:
            task: To run it on.
            global_seed: Of the global random generators, which are restored.
            refusable: Whether the attack may say that it does not serve such a task.
            settings: See `Settings`.

        Raises:
            AssertionError: It raised an error, or returned no batch.
            unittest.SkipTest: It may refuse the task, and does.
        """
        chosen = self.settings(task, **settings)
        # The verdict keeps the task, so that no other one gets its id.
        key = (id(task), global_seed, *map(_hashable, vars(chosen).values()))
        if key not in self._known:
            with seeded(global_seed):
                outcome = self.attack(task, chosen, refusable=refusable)
            self._known[key] = judge(task, outcome, chosen)
        return self._known[key]

    def attack(
        self, task: Planted, settings: Settings, *, refusable: bool = False
    ) -> Outcome:
        """Run the attack, whatever was run before, with random numbers as they come.

        Args:
            task: To run it on.
            settings: How.
            refusable: As for `run`.

        Raises:
            AssertionError: It raised an error.
            unittest.SkipTest: It may refuse the task, and does.
        """
        try:
            return self.subject.attack(task, settings)
        except BadInput as error:
            if refusable:
                self.skip(f"it refuses: {error}")
            raise AssertionError(f"{task.name}: it refuses: {error}") from error
        except Exception as error:
            raise AssertionError(
                f"{task.name}: expected an answer; it raised "
                f"{type(error).__name__}: {error}"
            ) from error

    def settings(self, task: Planted, **settings: Any) -> Settings:
        """How the attack is run on a task, with an epsilon if it wants one."""
        chosen = Settings(self.norm, patience=self.patience, **settings)
        if self.subject.bounded and chosen.epsilon is None:
            chosen = replace(chosen, epsilon=self.epsilon(task))
        return chosen

    def epsilon(self, task: Planted) -> float:
        """A radius that holds adversarials of about half the samples."""
        exact = task.exact(self.norm)
        exact = np.sort(exact[np.isfinite(exact)])
        if len(exact):
            middle = float(exact[(len(exact) - 1) // 2])
            return middle + 1 if self.norm == "l0" else middle * 1.3
        corner = as_tensor(np.ones((1, *SHAPE)))
        return float(to_numpy(get_norm(self.norm)(corner))[0]) / 4

    def within_reach(self, verdict: Verdict) -> Array:
        """(n,) whose adversarials an attack that is complete has to find."""
        exact = verdict.task.exact(self.norm)
        if not np.isfinite(verdict.epsilon):
            return np.isfinite(exact)
        share = 1.0 if self.norm == "l0" else min(self.factor, 1.5)
        return np.asarray(exact * share <= verdict.epsilon)

    def skip(self, reason: str) -> NoReturn:
        """The law says nothing about this attack."""
        raise unittest.SkipTest(reason)

    @functools.cached_property
    def unrepeatable(self) -> str:
        """Why two runs cannot be compared; empty where they can."""
        if "seed" in self.subject.takes:
            return ""
        task = self.affine()
        one, other = (self.run(task, global_seed=seed).points for seed in (0, 1))
        if np.array_equal(one, other, equal_nan=True):
            return ""
        return "it draws from global random generators and takes no seed"


def check_shapes(task: Planted, outcome: Outcome) -> None:
    """Whether an attack returned a batch like the inputs.

    Raises:
        AssertionError: It did not, or there is not one claim for each sample.
    """
    points, claims = outcome.points, outcome.claims
    if points.shape != task.x.shape or points.dtype.kind != "f":
        raise AssertionError(
            f"{task.name}: expected floats of the shape {task.x.shape}; got the shape "
            f"{points.shape} and dtype {points.dtype}"
        )
    if claims is not None and claims.shape != (len(task.x),):
        raise AssertionError(
            f"{task.name}: expected found of the shape ({len(task.x)},), one for each "
            f"sample; got the shape {claims.shape}"
        )


def judge(task: Planted, outcome: Outcome, settings: Settings) -> Verdict:
    """What the points that an attack returned are worth.

    Raises:
        AssertionError: They are not a batch like the inputs, or there is not one claim
            for each of them.
    """
    check_shapes(task, outcome)
    points = outcome.points
    flat = points.reshape(len(points), -1)
    finite = np.isfinite(flat).all(axis=1)
    lower, upper = task.bounds.lower, task.bounds.upper
    inside = finite & ((flat >= lower) & (flat <= upper)).all(axis=1)
    valid = np.where(inside.reshape(-1, *(1,) * (points.ndim - 1)), points, task.x)
    adversarial = inside.copy()
    if len(points):
        logits = task.model.logits(task.model.to_tensor(valid.astype(points.dtype)))
        adversarial &= to_numpy(task.criterion().margin(logits)) < 0
    delta = valid.astype(np.float64) - task.x.astype(np.float64)
    size = to_numpy(get_norm(settings.norm)(as_tensor(delta)))
    return Verdict(
        task,
        outcome,
        np.inf if settings.epsilon is None else settings.epsilon,
        points,
        finite,
        inside,
        adversarial,
        np.where(adversarial, size, np.inf),
    )


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global random generators, and put them back afterwards."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002, TID251
    torch.manual_seed(seed)  # noqa: TID251
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])


def _hashable(value: Any) -> Any:
    return value.tobytes() if isinstance(value, np.ndarray) else value


@functools.cache
def _made(family: str, **settings: Any) -> Planted:
    """Made once, for its exact distances take time."""
    return FAMILIES[family](**settings)
