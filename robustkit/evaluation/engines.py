"""Who does the work: this process, or many workers."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from robustkit.errors import BadInput, suggestion
from robustkit.evaluation.batch import Progress, Work
from robustkit.evaluation.recipe import Recipe
from robustkit.evaluation.store import RunFolder
from robustkit.models.base import Model

__all__ = ["Engine", "LocalEngine", "choose_engine"]

_NAMES = ("local", "ray")


@runtime_checkable
class Engine(Protocol):
    """Does the work on batches, and keeps what was found in the run folder.

    What is kept depends on the recipe and the batches, and on no engine.
    """

    def describe(self) -> dict[str, Any]:
        """What run.json says of it: `name`, and its settings."""
        ...

    def run(
        self,
        recipe: Recipe,
        works: Iterable[Work],
        folder: RunFolder,
        model: Model,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        """Do all parts of the work that the folder does not have yet.

        Args:
            recipe: How to make the evaluator.
            works: The batches, in the order of the data; made as they are asked for.
            folder: To keep the parts in, and the first originals.
            model: What the recipe describes, as it is loaded in this process.
            progress: See `BatchEvaluator`.

        Raises:
            BadInput: The folder has something else of these batches, or the model has
                changed since; or it cannot be loaded by the workers.
        """
        ...


@dataclass(frozen=True)
class LocalEngine:
    """One part after the other, in this process."""

    def describe(self) -> dict[str, Any]:
        return {"name": "local"}

    def run(
        self,
        recipe: Recipe,
        works: Iterable[Work],
        folder: RunFolder,
        model: Model,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        evaluator = recipe.make(model, progress)
        for work in works:
            batch = evaluator.look(work)
            folder.add_examples(work.index, work.x)
            for key in evaluator.keys(work):
                kept = folder.kept(key)
                if kept is None:
                    folder.keep(evaluator.attack(key, batch))
                else:
                    evaluator.check_unchanged(kept.prediction, batch)


def choose_engine(engine: str | Engine) -> Engine:
    """An engine by its name, or as given.

    Raises:
        BadInput: There is none of that name, or a package it needs is not there.

    >>> choose_engine("local")
    LocalEngine()
    """
    if engine == "local":
        return LocalEngine()
    if engine == "ray":
        # Here, since it is a package that few need.
        from robustkit.evaluation.ray_engine import RayEngine

        return RayEngine()
    if isinstance(engine, str):
        raise BadInput(f"unknown engine '{engine}'; {suggestion(engine, _NAMES)}")
    if not isinstance(engine, Engine):
        raise BadInput(
            "expected an engine: 'local', 'ray', a PoolEngine or a RayEngine; got a "
            f"{type(engine).__name__}"
        )
    return engine
