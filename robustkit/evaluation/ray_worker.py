"""A worker of Ray: a process that has the model, and is given parts of the work."""

import socket
from dataclasses import dataclass
from typing import Any

import torch

from robustkit.errors import BadInput, in_one_line
from robustkit.evaluation.batch import BatchEvaluator, Work
from robustkit.evaluation.parts import Hand
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
        self._hand: Hand | None = None

    def ready(self, orders: Orders) -> None:
        """Load the model.

        Raises:
            BadInput: It cannot be loaded here, or is another one.
        """
        self._follow(orders).ready()

    def do(
        self, orders: Orders, work: Work, key: ShardKey | None, kept: tuple[Array, ...]
    ) -> Shard | None:
        """One part of the work on a batch; see `Hand.do`."""
        return self._follow(orders).do(work, key, kept)

    def _follow(self, orders: Orders) -> Hand:
        if self._hand is None:
            self._hand = Hand(lambda: _loaded(orders))
        return self._hand


def _loaded(orders: Orders) -> BatchEvaluator:
    torch.set_num_threads(orders.threads)
    here = socket.gethostname()
    try:
        packed = the_ray().get(orders.recipe)
        recipe: Recipe = the_ray().cloudpickle.loads(packed)
        evaluator = recipe.make()
    except Exception as error:
        reason = in_one_line(error)
        raise BadInput(
            f"a worker on '{here}' cannot load the model ({reason}); what a model is "
            "made of must be found on every node under the same name"
        ) from error
    difference = recipe.difference(evaluator.model)
    if difference is not None:
        raise BadInput(
            f"the model '{recipe.model}' that a worker loaded on '{here}' is not the "
            f"one that was loaded on '{orders.host}', where the run was started: "
            f"{difference}; put the same files on every node, or on a file system that "
            "all share"
        )
    return evaluator
