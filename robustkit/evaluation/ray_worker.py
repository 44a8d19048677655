"""A worker of Ray: a process that has the model, and is given parts of the work."""

import socket
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from robustkit.errors import BadInput
from robustkit.evaluation.batch import BatchEvaluator, Looked, Work
from robustkit.evaluation.ray_cluster import the_ray
from robustkit.evaluation.recipe import Recipe
from robustkit.evaluation.shards import Shard, ShardKey
from robustkit.numerics.tensors import Array

__all__ = ["Orders", "Worker"]


@dataclass(frozen=True)
class Orders:
    """What a worker has to know before it is given any work.

    Attributes:
        recipe: Reference to it, pickled, so that what cannot be unpickled is told as
            such.
        threads: That torch may use.
        host: Where the process runs that called.
    """

    recipe: Any
    threads: int
    host: str


class Worker:
    """Loads the model once, and does one part of the work after the other.

    It is told its orders with each part, and not when it is made: one that Ray makes
    anew could not ask for them again, and what is raised then cannot be told from a
    lost worker.
    """

    def __init__(self) -> None:
        self._evaluator: BatchEvaluator | None = None
        self._last: tuple[int, Looked] | None = None

    def ready(self, orders: Orders) -> None:
        """Load the model.

        Raises:
            BadInput: It cannot be loaded here, or is another one.
        """
        self._follow(orders)

    def do(
        self, orders: Orders, work: Work, key: ShardKey | None, kept: tuple[Array, ...]
    ) -> Shard | None:
        """One part of the work on a batch; without a key, see if the model is the same.

        Args:
            orders: Those of all parts.
            work: The batch.
            key: The part.
            kept: Predictions (n,) of the batch by parts that were finished earlier.

        Raises:
            BadInput: It is not; or it cannot be loaded here.
        """
        evaluator = self._follow(orders)
        batch = self._look(evaluator, work)
        if key is not None:
            return evaluator.attack(key, batch)
        for prediction in kept:
            evaluator.check_unchanged(prediction, batch)
        return None

    def _follow(self, orders: Orders) -> BatchEvaluator:
        if self._evaluator is None:
            self._evaluator = _loaded(orders)
        return self._evaluator

    def _look(self, evaluator: BatchEvaluator, work: Work) -> Looked:
        if self._last is None or self._last[0] != work.number:
            # Copies, since what Ray hands out cannot be written to.
            own = replace(
                work,
                x=np.array(work.x),
                label=np.array(work.label),
                index=np.array(work.index),
            )
            self._last = work.number, evaluator.look(own)
        return self._last[1]


def _loaded(orders: Orders) -> BatchEvaluator:
    torch.set_num_threads(orders.threads)
    here = socket.gethostname()
    try:
        packed = the_ray().get(orders.recipe)
        recipe: Recipe = the_ray().cloudpickle.loads(packed)
        evaluator = recipe.make()
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise BadInput(
            f"a worker on '{here}' cannot load the model ({reason}); what a model is "
            "made of must be found on every node under the same name"
        ) from error
    found = evaluator.model.fingerprint()
    if recipe.fingerprint is not None and found != recipe.fingerprint:
        raise BadInput(
            f"the model '{recipe.model}' that a worker loaded on '{here}' is not the "
            f"one that was loaded on '{orders.host}', where the run was started: its "
            f"fingerprint is {str(found)[:16]}, and {recipe.fingerprint[:16]} there; "
            "put the same files on every node, or on a file system that all share"
        )
    return evaluator
