"""Shards on many workers, by Ray: on one machine, or on a cluster."""

import socket
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from robustkit.errors import BadInput, in_one_line
from robustkit.evaluation.batch import Progress, Work
from robustkit.evaluation.parts import Part, parts_left
from robustkit.evaluation.ray_cluster import check_room, connected, the_ray
from robustkit.evaluation.ray_worker import Orders, Worker
from robustkit.evaluation.recipe import Recipe
from robustkit.evaluation.shards import Shard
from robustkit.evaluation.store import RunFolder
from robustkit.models.base import Model

__all__ = ["RayEngine"]

_PATIENCE = 60.0
"""Seconds until it is said that no worker has started."""


@dataclass(frozen=True)
class RayEngine:
    """Hands the shards of a run out to workers, each of which loads the model once.

    The data are read, and what is found is written, by the process that calls; workers
    need neither. A shard goes to whichever worker is idle, and comes back to the same
    run folder, so the tables are those of the local engine, byte for byte, but for the
    times: with as many threads per worker as that has. A worker that is lost is started
    anew by Ray, on another node if need be, and its shard done again.

    A model that is named must be found under that name by the workers, so on a cluster
    on a shared file system or on each node; one with other parameters than here is
    refused. One that is given as an object is sent to them.

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
        the_ray()
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
        # By the place of an attack, seconds for each sample the last time.
        took: dict[int, float] = {}
        tasks = _tasks(parts_left(works, recipe.make(model), folder, took))
        packed = _packed(recipe.portable())
        # Of each batch, by its first sample; they do not end in their order.
        finished: Counter[int] = Counter()
        with connected(self.address, self.num_cpus * (self.workers or 1)):
            check_room(self.num_cpus, self.num_gpus)
            sent = the_ray().put(packed)
            orders = Orders(sent, self.num_cpus, socket.gethostname())
            crew = [self._hire() for _ in range(self._count())]
            try:
                for done in self._done(crew, orders, tasks):
                    if done.shard is not None:
                        folder.keep(done.shard)
                        part = done.task.part
                        took[done.shard.key.place] = done.seconds / part.samples
                        finished[part.first] += 1
                        part.tell(progress, finished[part.first], max(done.busy, 1))
            finally:
                for worker in crew:
                    the_ray().kill(worker)

    def _count(self) -> int:
        """How many workers."""
        if self.workers is not None:
            return self.workers
        there = the_ray().cluster_resources()
        if self.num_gpus:
            return max(int(there.get("GPU", 0) / self.num_gpus), 1)
        return max(int(there.get("CPU", 0) / self.num_cpus), 1)

    def _hire(self) -> Any:
        """A worker, which may still have to start."""
        kind = (
            the_ray()
            .remote(Worker)
            .options(
                num_cpus=self.num_cpus,
                num_gpus=self.num_gpus,
                max_restarts=-1,
                max_task_retries=self.retries,
            )
        )
        return kind.remote()

    def _done(
        self, crew: list[Any], orders: Orders, tasks: Iterator["_Task"]
    ) -> Iterator["_Done"]:
        """Tasks with what came of them, as they end; a task to a worker at a time.

        Whoever is free gets the next task before anything else is done, and that task
        was made before anybody was free.
        """
        starting = {worker.ready.remote(orders): worker for worker in crew}
        working: dict[Any, tuple[Any, _Task, float]] = {}
        following, given = next(tasks, None), 0
        while working or following is not None:
            reference = self._wait([*working, *starting], len(starting) == len(crew))
            task, since, now = None, 0.0, time.monotonic()
            if reference in starting:
                worker = starting.pop(reference)
            else:
                worker, task, since = working.pop(reference)
            if following is not None:
                part = following.part
                asked = worker.do.remote(orders, following.work, part.key, part.kept)
                working[asked] = worker, following, now
                following, given = next(tasks, None), given + 1
                if following is None and given < len(crew):
                    _say_too_few(given, len(crew))
            shard = self._answer(reference, task)
            if task is not None:
                yield _Done(task, shard, now - since, len(working))

    def _wait(self, references: list[Any], nobody_yet: bool) -> Any:
        """The first of them that is there."""
        ended, _ = the_ray().wait(references, timeout=_PATIENCE if nobody_yet else None)
        if ended:
            return ended[0]
        warnings.warn(
            f"no worker has started after {_PATIENCE:g} seconds; each needs "
            f"{self.num_cpus} CPU and {self.num_gpus:g} GPU, and the cluster "
            f"has {the_ray().cluster_resources()}",
            stacklevel=2,
        )
        return the_ray().wait(references)[0][0]

    def _answer(self, reference: Any, task: "_Task | None") -> Shard | None:
        """What a worker returned, or its error as if it had been raised here."""
        try:
            shard: Shard | None = the_ray().get(reference)
        except the_ray().exceptions.RayTaskError as error:
            raise error.cause from error
        except the_ray().exceptions.RayActorError as error:
            raise self._lost(error, task) from error
        return shard

    def _lost(self, error: Exception, task: "_Task | None") -> Exception:
        """What to say of a worker that is gone for good."""
        said = str(error).strip()
        if "failed to import" in said:
            return BadInput(
                f"a worker cannot import robustkit ({said.splitlines()[-1]}); the same "
                "version of it and of Python must be installed on every node"
            )
        what = "starting" if task is None else f"at work on {task.part.name()}"
        return RuntimeError(
            f"a worker was lost {self.retries + 1} times {what} "
            f"({said.splitlines()[0]}); did it run out of memory? Fewer workers, or a "
            "smaller batch size, take less"
        )


@dataclass(frozen=True)
class _Task:
    """A part of the work, and where its batch lies.

    Attributes:
        work: Reference to the batch.
        part: What is to be done about it.
    """

    work: Any
    part: Part


@dataclass(frozen=True)
class _Done:
    """A task that has ended.

    Attributes:
        task: Which.
        shard: What was found; None: there was nothing to find.
        seconds: From when it was given to a worker.
        busy: How many others workers are at, by now.
    """

    task: _Task
    shard: Shard | None
    seconds: float
    busy: int


def _tasks(left: Iterable[tuple[Work, Part]]) -> Iterator[_Task]:
    """Parts whose batches lie in Ray's store, each batch once."""
    for _, parts in groupby(left, key=lambda one: one[0].number):
        reference = None
        for work, part in parts:
            if reference is None:
                reference = the_ray().put(work)
            yield _Task(reference, part)


def _say_too_few(parts: int, workers: int) -> None:
    warnings.warn(
        f"{workers} workers for {parts} parts of work, an attack on a batch each: some "
        "have nothing to do; a smaller batch size makes more parts",
        stacklevel=2,
    )


def _packed(recipe: Recipe) -> bytes:
    try:
        packed: bytes = the_ray().cloudpickle.dumps(recipe)
    except Exception as error:
        reason = in_one_line(error)
        raise BadInput(
            f"the model or an attack cannot be sent to workers ({reason}); name it "
            "instead, such as model.py:build, so that each worker loads it"
        ) from error
    return packed
