"""Shards on many workers, by Ray: on one machine, or on a cluster."""

import logging
import os
import signal
import socket
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from robustkit.errors import BadInput, MissingPackage
from robustkit.evaluation.batch import BatchEvaluator, Looked, Progress, Work
from robustkit.evaluation.recipe import Recipe
from robustkit.evaluation.shards import Shard, ShardKey
from robustkit.evaluation.store import RunFolder
from robustkit.models.base import Model
from robustkit.numerics.tensors import Array


@contextmanager
def _keeping_sigterm() -> Iterator[None]:
    """Ray takes the signal for itself; who called us may have plans for it."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGTERM, before)


__all__ = ["RayEngine"]

_PATIENCE = 60.0
"""Seconds until it is said that no worker has started."""


def _ray() -> Any:
    """The package, which is large, and which few need.

    Raises:
        MissingPackage: It is not installed.
    """
    try:
        with _keeping_sigterm():
            import ray
    except ImportError as error:
        raise MissingPackage("ray", "ray", "the engine 'ray'") from error
    return ray


@dataclass(frozen=True)
class RayEngine:
    """Hands the shards of a run out to workers, each of which loads the model once.

    The data are read, and what is found is written, by the process that calls; workers
    need neither. A shard goes to whichever worker is idle, and comes back to the same
    run folder, so the tables are those of the local engine, byte for byte, but for the
    times: with as many threads per worker as that has. A worker that is lost is started
    anew by Ray, on another node if need be, and its shard done again.

    A model that is named must be found under that name by the workers, so on a cluster
    on a shared file system or on each node. One that is given as an object is sent to
    them.

    Args:
        workers: How many; None: as many as the cluster has processors, or GPUs for
            workers that need some.
        num_gpus: Of each worker; may be a fraction, so that several share one.
        num_cpus: Of each worker, and threads that torch may use there.
        address: Of a cluster, as `ray.init` takes it ("auto": the one of this machine);
            None: that of the environment variable RAY_ADDRESS, else workers on this
            machine that end with the run. A Ray that this process has started already
            is used as it is.
        retries: How often a shard is done again whose worker was lost.

    Raises:
        BadInput: A number is not positive, or Ray is not installed.
    """

    workers: int | None = None
    num_gpus: float = 0.0
    num_cpus: int = 1
    address: str | None = None
    retries: int = 3

    def __post_init__(self) -> None:
        _ray()
        if self.workers is not None and self.workers < 1:
            raise BadInput(
                f"the number of workers must be at least 1; got {self.workers}"
            )
        if self.num_cpus < 1 or self.num_gpus < 0 or self.retries < 0:
            raise BadInput(
                "a worker needs at least 1 processor, and its GPUs and retries cannot "
                f"be negative; got {self}"
            )

    def describe(self) -> dict[str, Any]:
        return {
            "name": "ray",
            "workers": self.workers,
            "num_gpus": self.num_gpus,
            "num_cpus": self.num_cpus,
        }

    def run(
        self,
        recipe: Recipe,
        works: Iterable[Work],
        folder: RunFolder,
        model: Model,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        evaluator = recipe.make(model)
        packed = _packed(recipe.portable())
        # Of each batch, by its first sample; they do not end in their order.
        finished: Counter[int] = Counter()
        with self._cluster():
            crew = [self._hire(packed) for _ in range(self._count())]
            try:
                for task, shard in self._done(crew, _tasks(works, evaluator, folder)):
                    if shard is not None:
                        folder.keep(shard)
                        finished[task.first] += 1
                        _tell(progress, task, finished[task.first])
            finally:
                for worker in crew:
                    _ray().kill(worker)

    @contextmanager
    def _cluster(self) -> Iterator[None]:
        """Connected to Ray, for as long as it takes."""
        if _ray().is_initialized():
            self._check_room()
            yield
            return
        address = self.address or os.environ.get("RAY_ADDRESS")
        settings: dict[str, Any] = {"address": address}
        if address is None:
            # Nobody was asked whether statistics may be sent.
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            cpus = self.num_cpus * (self.workers or 1)
            settings = {
                "address": "local",
                "num_cpus": max(cpus, os.cpu_count() or 1),
                "include_dashboard": False,
            }
        try:
            if address is not None:
                _check_reachable(address)
            with _keeping_sigterm():
                _ray().init(
                    **settings, log_to_driver=False, logging_level=logging.ERROR
                )
        except (OSError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise BadInput(
                f"cannot use Ray at '{address or 'this machine'}': {reason}"
            ) from error
        try:
            if address is None:
                self._check_room()
            yield
        finally:
            _ray().shutdown()

    def _check_room(self) -> None:
        """Refuse to wait for what will not come."""
        there = _ray().cluster_resources()
        for name, needed in (("CPU", self.num_cpus), ("GPU", self.num_gpus)):
            if needed > there.get(name, 0):
                raise BadInput(
                    f"a worker needs {needed:g} {name}, and Ray has "
                    f"{there.get(name, 0):g} in all"
                )

    def _count(self) -> int:
        """How many workers."""
        if self.workers is not None:
            return self.workers
        there = _ray().cluster_resources()
        if self.num_gpus:
            return max(int(there.get("GPU", 0) / self.num_gpus), 1)
        return max(int(there.get("CPU", 0) / self.num_cpus), 1)

    def _hire(self, packed: bytes) -> Any:
        """A worker, which may still have to start."""
        kind = (
            _ray()
            .remote(_Worker)
            .options(
                num_cpus=self.num_cpus,
                num_gpus=self.num_gpus,
                max_restarts=-1,
                max_task_retries=self.retries,
            )
        )
        return kind.remote(packed, self.num_cpus)

    def _done(
        self, crew: list[Any], tasks: Iterator["_Task"]
    ) -> Iterator[tuple["_Task", Shard | None]]:
        """Tasks with what came of them, as they end; a task to a worker at a time."""
        starting = {worker.ready.remote(): worker for worker in crew}
        working: dict[Any, tuple[Any, _Task]] = {}
        left, told = True, False
        while working or left:
            waiting = [*working, *starting]
            (ended, _) = _ray().wait(waiting, num_returns=1, timeout=_PATIENCE)
            if not ended and len(starting) == len(crew) and not told:
                told = True
                warnings.warn(
                    f"no worker has started after {_PATIENCE:g} seconds; each needs "
                    f"{self.num_cpus} CPU and {self.num_gpus:g} GPU, and the cluster "
                    f"has {_ray().cluster_resources()}",
                    stacklevel=2,
                )
            for reference in ended:
                if reference in starting:
                    worker = starting.pop(reference)
                    self._answer(reference, None)
                else:
                    worker, task = working.pop(reference)
                    yield task, self._answer(reference, task)
                following = next(tasks, None) if left else None
                left = following is not None
                if following is not None:
                    asked = worker.do.remote(
                        following.work, following.key, following.kept
                    )
                    working[asked] = worker, following

    def _answer(self, reference: Any, task: "_Task | None") -> Shard | None:
        """What a worker returned, or its error as if it had been raised here."""
        try:
            shard: Shard | None = _ray().get(reference)
        except _ray().exceptions.RayTaskError as error:
            raise error.cause from error
        except _ray().exceptions.RayActorError as error:
            what = "starting" if task is None else f"at work on {task.name()}"
            reason = str(error).splitlines()[0]
            raise RuntimeError(
                f"a worker was lost {self.retries + 1} times {what} ({reason}); did it "
                "run out of memory? Fewer workers, or a smaller batch size, take less"
            ) from error
        return shard


@dataclass(frozen=True)
class _Task:
    """Something for a worker to do.

    Attributes:
        work: Reference to the batch.
        first: Position of its first sample in the data.
        samples: How many it has.
        key: The part of the work; None: only see whether the model is the same.
        parts: How many the batch has.
        before: How many of them were finished earlier.
        kept: Predictions (n,) of the parts that were finished earlier.
    """

    work: Any
    first: int
    samples: int
    key: ShardKey | None
    parts: int
    before: int
    kept: tuple[Array, ...] = ()

    def name(self) -> str:
        """For people."""
        samples = f"samples {self.first} to {self.first + self.samples - 1}"
        key = self.key
        return samples if key is None else f"{samples}: {key.norm} {key.attack}"


def _tell(
    progress: Callable[[Progress], None] | None, task: _Task, finished: int
) -> None:
    """Report that a part of the work is done, and so many of its batch by now."""
    if progress is None or task.key is None:
        return
    share = (task.before + finished) / task.parts
    progress(Progress(task.first, task.samples, task.key.norm, task.key.attack, share))


def _tasks(
    works: Iterable[Work], evaluator: BatchEvaluator, folder: RunFolder
) -> Iterator[_Task]:
    """What is left to do, made as it is asked for."""
    for work in works:
        folder.add_examples(work.index, work.x)
        keys = evaluator.keys(work)
        kept = {key: folder.kept(key) for key in keys}
        first, count = int(work.index[0]), len(work.x)
        reference = _ray().put(work)
        done = tuple(shard.prediction for shard in kept.values() if shard is not None)
        if done:
            yield _Task(reference, first, count, None, len(keys), len(done), done)
        for key in keys:
            if kept[key] is None:
                yield _Task(reference, first, count, key, len(keys), len(done))


class _Worker:
    """A process that has the model, and does one part of the work after the other.

    Args:
        packed: The recipe.
        threads: That torch may use.
    """

    def __init__(self, packed: bytes, threads: int) -> None:
        self._packed, self._threads = packed, threads
        self._last: tuple[int, Looked] | None = None

    @cached_property
    def _evaluator(self) -> BatchEvaluator:
        # Not when made: what is raised there cannot be told from a lost worker.
        torch.set_num_threads(self._threads)
        try:
            recipe: Recipe = _ray().cloudpickle.loads(self._packed)
            return recipe.make()
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise BadInput(
                f"a worker cannot load the model ({reason}); what a model is made of "
                "must be found on every node under the same name"
            ) from error

    def ready(self) -> None:
        """Load the model."""
        _ = self._evaluator

    def do(
        self, work: Work, key: ShardKey | None, kept: tuple[Array, ...]
    ) -> Shard | None:
        """One part of the work on a batch; without a key, see if the model is the same.

        Raises:
            BadInput: It is not.
        """
        batch = self._look(work)
        if key is not None:
            return self._evaluator.attack(key, batch)
        for prediction in kept:
            self._evaluator.check_unchanged(prediction, batch)
        return None

    def _look(self, work: Work) -> Looked:
        if self._last is None or self._last[0] != work.number:
            # Copies, since what Ray hands out cannot be written to.
            own = replace(
                work,
                x=np.array(work.x),
                label=np.array(work.label),
                index=np.array(work.index),
            )
            self._last = work.number, self._evaluator.look(own)
        return self._last[1]


def _check_reachable(address: str) -> None:
    """Whether anybody listens there; Ray itself would try for minutes.

    Raises:
        OSError: Nobody does.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _packed(recipe: Recipe) -> bytes:
    try:
        packed: bytes = _ray().cloudpickle.dumps(recipe)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise BadInput(
            f"the model or an attack cannot be sent to workers ({reason}); name it "
            "instead, such as model.py:build, so that each worker loads it"
        ) from error
    return packed
