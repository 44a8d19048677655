"""A worker of Ray: a process that has the model, and is given parts of the work."""

import socket
from dataclasses import dataclass, replace
from functools import cached_property
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
            such. Ray keeps it for workers that start anew as long as the reference.
        threads: That torch may use.
        host: Where the process runs that called.
    """

    recipe: Any
    threads: int
    host: str


class Worker:
    """Loads the model once, and does one part of the work after the other."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._last: tuple[int, Looked] | None = None

    @cached_property
    def _evaluator(self) -> BatchEvaluator:
        # Not when made: what is raised there cannot be told from a lost worker.
        torch.set_num_threads(self._orders.threads)
        try:
            packed = the_ray().get(self._orders.recipe)
            recipe: Recipe = the_ray().cloudpickle.loads(packed)
            evaluator = recipe.make()
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise BadInput(
                f"a worker on '{socket.gethostname()}' cannot load the model "
                f"({reason}); what a model is made of must be found on every node "
                "under the same name"
            ) from error
        self._check_same_model(recipe, evaluator.model.fingerprint())
        return evaluator

    def _check_same_model(self, recipe: Recipe, found: str | None) -> None:
        if recipe.fingerprint is None or found == recipe.fingerprint:
            return
        raise BadInput(
            f"the model '{recipe.model}' that a worker loaded on "
            f"'{socket.gethostname()}' is not the one that was loaded on "
            f"'{self._orders.host}', where the run was started: its fingerprint is "
            f"{str(found)[:16]}, and {recipe.fingerprint[:16]} there; put the same "
            "files on every node, or on a file system that all share"
        )

    def ready(self) -> None:
        """Load the model.

        Raises:
            BadInput: It cannot be loaded here, or is another one.
        """
        _ = self._evaluator

    def do(
        self, work: Work, key: ShardKey | None, kept: tuple[Array, ...]
    ) -> Shard | None:
        """One part of the work on a batch; without a key, see if the model is the same.

        Args:
            work: The batch.
            key: The part.
            kept: Predictions (n,) of the batch by parts that were finished earlier.

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
