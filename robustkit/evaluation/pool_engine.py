"""Shards on several processes of this machine."""

import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from robustkit.errors import BadInput, in_one_line
from robustkit.evaluation.batch import BatchEvaluator, Progress, Work
from robustkit.evaluation.parts import Hand, Part, parts_left
from robustkit.evaluation.recipe import Recipe
from robustkit.evaluation.shards import Shard, ShardKey
from robustkit.evaluation.store import RunFolder
from robustkit.models.base import Model
from robustkit.numerics.tensors import Array

__all__ = ["PoolEngine"]

_AHEAD = 2
"""So many parts of the work are under way or wait, for each worker."""


@dataclass(frozen=True)
class PoolEngine:
    """Hands the shards of a run out to processes, each of which loads the model once.

    The data are read, and what is found is written, by the process that calls. The
    tables are those of the local engine, byte for byte, but for the times: with as many
    threads per worker as that has. torch's threads are divided among the workers.

    The processes start afresh, and run the main module again under another name: a
    script must call `evaluate` under `if __name__ == "__main__":`. A model that is
    given as an object must be of a class that they can import.

    Args:
        workers: How many.

    Raises:
        BadInput: The number is not positive.
    """

    workers: int

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise BadInput(
                f"the number of workers must be at least 1; got {self.workers}"
            )

    def describe(self) -> dict[str, Any]:
        return {"name": "local", "workers": self.workers}

    def run(
        self,
        recipe: Recipe,
        works: Iterable[Work],
        folder: RunFolder,
        model: Model,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        left = parts_left(works, recipe.make(model), folder)
        # Of each batch, by its first sample; they do not end in their order.
        finished: Counter[int] = Counter()
        with self._pool(_packed(recipe)) as pool:
            waiting: dict[Future[Shard | None], Part] = {}
            while True:
                while len(waiting) < _AHEAD * self.workers:
                    following = next(left, None)
                    if following is None:
                        break
                    work, part = following
                    with _deaf_children():
                        asked = pool.submit(_do, work, part.key, part.kept)
                    waiting[asked] = part
                if not waiting:
                    return
                for done in wait(waiting, return_when=FIRST_COMPLETED).done:
                    part, shard = waiting.pop(done), done.result()
                    if shard is not None:
                        folder.keep(shard)
                        finished[part.first] += 1
                        busy = min(len(waiting) + 1, self.workers)
                        part.tell(progress, finished[part.first], busy)

    @contextmanager
    def _pool(self, packed: bytes) -> Iterator[ProcessPoolExecutor]:
        """The workers, which do not outlive the context, however it ends."""
        others = set(multiprocessing.active_children())
        threads = max(torch.get_num_threads() // self.workers, 1)
        pool = ProcessPoolExecutor(
            self.workers,
            # Processes that were forked do not get on with torch's threads.
            multiprocessing.get_context("spawn"),
            initializer=_start,
            initargs=(packed, threads),
        )
        try:
            yield pool
        except BaseException as error:
            # Nobody wants to know any more what they are at.
            for child in set(multiprocessing.active_children()) - others:
                child.terminate()
            # Nobody reads what is still on its way to them, and whoever waited for it
            # to be read would wait for ever. (Nothing public says so to the pool.)
            pool._call_queue.cancel_join_thread()  # type: ignore[attr-defined]
            if isinstance(error, BrokenExecutor):
                raise RuntimeError(
                    "a worker was lost; did it run out of memory? Fewer workers, or a "
                    "smaller batch size, take less. (A script must call evaluate under "
                    "`if __name__ == '__main__':`.)"
                ) from error
            raise
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _deaf_children() -> Iterator[None]:
    """What is started meanwhile hears no interrupt, from its first instruction on."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _packed(recipe: Recipe) -> bytes:
    try:
        return pickle.dumps(recipe)
    except Exception as error:
        reason = in_one_line(error)[:300]
        raise BadInput(
            f"the model, an attack or the criterion cannot be sent to workers "
            f"({reason}); name the model by its file, file.py:name, or leave out the "
            "workers"
        ) from error


# Of a worker, who has nothing else to remember it by.
_hand: Hand | None = None


def _start(packed: bytes, threads: int) -> None:
    """The first thing that a worker does."""
    global _hand
    # The model is not loaded at the start: what is raised there cannot be told from a
    # lost worker.
    _hand = Hand(lambda: _loaded(packed))
    # An interrupt is for the process that called, which ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What models print is not among the results.
    sys.stdout = sys.stderr
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_caller, daemon=True).start()


def _end_with_caller() -> None:
    caller = multiprocessing.parent_process()
    if caller is not None:
        caller.join()
        os._exit(1)


def _loaded(packed: bytes) -> BatchEvaluator:
    try:
        recipe: Recipe = pickle.loads(packed)
        evaluator = recipe.make()
    except Exception as error:
        reason = in_one_line(error)[:300]
        raise BadInput(
            f"a worker cannot load the model ({reason}); name it by its file, "
            "file.py:name, or leave out the workers"
        ) from error
    difference = recipe.difference(evaluator.model)
    if difference is not None:
        raise BadInput(
            f"the model '{evaluator.model.name}' that a worker loaded is not the one "
            f"that was loaded first: {difference}. Let it be the same each time it is "
            "made (a seed, or weights from a file), or leave out the workers"
        )
    return evaluator


def _do(work: Work, key: ShardKey | None, kept: tuple[Array, ...]) -> Shard | None:
    """One part of the work on a batch; without a key, see if the model is the same."""
    assert _hand is not None
    try:
        return _hand.do(work, key, kept)
    except Exception as error:
        told = _sendable(error)
        if told is error:
            raise
        raise told from error


def _sendable(error: Exception) -> Exception:
    """The error, or one that says the same and arrives where it is sent to."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        if isinstance(error, BadInput):
            return BadInput(str(error))
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
