"""How to make the evaluator of batches, in this process or in another one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from robustkit.engine.attack import Attack
from robustkit.engine.criteria import Criterion
from robustkit.evaluation.batch import BatchEvaluator, Progress
from robustkit.evaluation.goals import make_criterion
from robustkit.evaluation.opening import open_model
from robustkit.models.base import Model
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.norms import Norm
from robustkit.numerics.tensors import Array, Tensor

__all__ = ["Recipe"]


@dataclass(frozen=True)
class Recipe:
    """What a `BatchEvaluator` is made of; nothing in it belongs to one process.

    Attributes:
        model: Its name, or what Python holds of it.
        bounds: As asked for.
        device: As asked for.
        mean: As asked for.
        std: As asked for.
        example: (1 or 2, ...) inputs, on which plain functions are tried.
        classes: How many the model tells apart.
        attacks: By norm and name, in the order to run.
        target: See `make_criterion`.
        criterion: See `make_criterion`.
        budget: Model passes per sample and attack; None: the attacks' own.
        seed: Of all randomness.
        pool: (m, ...) other inputs that attacks may use, or None.
        pool_classes: (m,) theirs; None: not known.
        random: Whether the model gives different answers to the same input.
        time_limit: Seconds for each attack on a batch; None: no limit.
        fingerprint: Of the model, where it has one: what is loaded elsewhere under the
            same name must be the same.
        compiled: Whether the attacks' arithmetic is compiled.
        cache: Of the answers of a model at an address, as asked for.
        headers: Sent to that address, as asked for.
    """

    model: Any
    bounds: Bounds | None
    device: str | None
    mean: Sequence[float] | None
    std: Sequence[float] | None
    example: Array
    classes: int
    attacks: Mapping[Norm, Mapping[str, Attack[Any]]]
    target: int | str | None
    criterion: Callable[[Tensor], Criterion] | None
    budget: int | None
    seed: int
    pool: Array | None
    pool_classes: Array | None
    random: bool
    time_limit: float | None
    fingerprint: str | None
    compiled: bool = False
    cache: str | Path | None = None
    headers: Mapping[str, str] | None = None

    def make(
        self,
        model: Model | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> BatchEvaluator:
        """The evaluator.

        Args:
            model: The one that is described, if this process has loaded it already.
            progress: See `BatchEvaluator`.

        Raises:
            BadInput: The model cannot be loaded here.
        """
        if model is None:
            model = open_model(
                self.model,
                self.bounds,
                example=self.example,
                device=self.device,
                mean=self.mean,
                std=self.std,
                cache=self.cache,
                headers=self.headers,
            )
        return BatchEvaluator(
            model=model,
            classes=self.classes,
            attacks=self.attacks,
            criterion=make_criterion(
                model, self.target, self.criterion, self.classes, self.seed
            ),
            budget=self.budget,
            seed=self.seed,
            pool=None if self.pool is None else model.to_tensor(self.pool),
            pool_classes=self.pool_classes,
            random=self.random,
            time_limit=self.time_limit,
            compiled=self.compiled,
            progress=progress,
        )

    def difference(self, model: Model) -> str | None:
        """How a model that was loaded in another process differs from this one.

        Args:
            model: It, as loaded there.

        Returns:
            What its fingerprint is and what it should be; None: it is the same, as far
            as can be seen.
        """
        found = model.fingerprint()
        if self.fingerprint in (None, found):
            return None
        return (
            f"its fingerprint is {str(found)[:16]}, and {str(self.fingerprint)[:16]} "
            "there"
        )

    def portable(self) -> "Recipe":
        """The same for a process that works in another folder."""
        if not isinstance(self.model, str | Path):
            return self
        if self.cache is not None:
            return replace(self, cache=Path(self.cache).resolve())
        spec = str(self.model)
        place, colon, name = spec.rpartition(":")
        # A bare word may be the name of a demo.
        if Path(spec).suffix and Path(spec).is_file():
            return replace(self, model=str(Path(spec).resolve()))
        if place.endswith(".py") and Path(place).is_file():
            return replace(self, model=f"{Path(place).resolve()}{colon}{name}")
        return self
