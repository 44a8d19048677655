"""What robustkit asks of a model, whatever framework it is written in."""

import enum
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import (
    AbstractContextManager,
    ExitStack,
    contextmanager,
    nullcontext,
)
from typing import Any, TypeAlias

from robustkit.errors import BadInput, suggestion
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.tensors import Array, Batch, Tensor

__all__ = [
    "Access",
    "Model",
    "NoGradient",
    "PullBack",
    "Wrapper",
    "as_access",
    "native_name",
]

PullBack: TypeAlias = Callable[[Tensor], Batch]
"""From d loss / d logits (n, classes) to d loss / d x (n, ...): one backward pass."""


class Access(enum.IntEnum):
    """What a model shows, and what an attack needs: each level includes the lower."""

    DECISION = 1
    SCORE = 2
    GRADIENT = 3


def as_access(access: Access | str) -> Access:
    """An access, or the name of one.

    Raises:
        BadInput: It is something else.

    >>> as_access("score") is Access.SCORE
    True
    """
    if isinstance(access, Access):
        return access
    known = {level.name.lower(): level for level in Access}
    name = str(access).lower()
    if name not in known:
        raise BadInput(f"unknown access '{access}'; {suggestion(name, known)}")
    return known[name]


class NoGradient(BadInput):
    """The model's output does not depend on its input in a differentiable way."""


class Model(ABC):
    """A classifier on inputs within `bounds`.

    Attributes:
        bounds: The box of valid inputs, in input units.
        access: The most that this model shows.
        name: For people.
        notes: What the user should know about it, a sentence each.
        passes_per_question: How often what is attacked runs for one `logits`; so many
            forward passes are billed for it, and so many backward ones for a gradient.
        passes_per_gradient: Forward passes that are billed for a gradient instead, next
            to those of its question; 0: it takes backward passes.
        abstains: Whether its last class is no class but a refusal to answer.
        one_class: Whether its answers name one class and say nothing of the others.
    """

    bounds: Bounds
    access: Access
    name: str
    notes: tuple[str, ...] = ()
    passes_per_question: int = 1
    passes_per_gradient: int = 0
    abstains: bool = False
    one_class: bool = False

    @property
    def unlabelled(self) -> int:
        """How many of its outputs, the last ones, are classes of no input.

        Such as a refusal, or names that were not among those of the classes.
        """
        inner = 0 if self.wraps is None else self.wraps.unlabelled
        return max(inner, int(self.abstains))

    @abstractmethod
    def logits(self, x: Batch) -> Tensor:
        """(n, classes) scores; one forward pass."""

    def linearise(self, x: Batch) -> tuple[Tensor, PullBack]:
        """(n, classes) scores by one forward pass, and the way back to the input.

        Each call of the returned function is one backward pass through that same
        forward pass, for the input only.

        Raises:
            NoGradient: The model has no gradients to give.
        """
        raise NoGradient(
            f"the model '{self.name}' gives no gradients (access: "
            f"{self.access.name.lower()}); use a score- or decision-based attack, or "
            "an adapter with gradients"
        )

    @property
    def wraps(self) -> "Model | None":
        """The model that this one asks; None: it answers by itself.

        It is shown what that one is shown, in that one's session.
        """
        return None

    def at_layer(self, layer: str) -> "Model":
        """This model cut short: its outputs are those of a layer, flattened.

        Raises:
            BadInput: There is no such layer, or this model shows none.
        """
        raise BadInput(
            f"the model '{self.name}' ({type(self).__name__}) shows no inner layers by "
            f"name, so not '{layer}' either; only torch modules do. Give a function "
            "from inputs to features instead, or leave the features out"
        )

    def shown(self, x: Batch) -> Batch:
        """(n, ...) what the model is really shown of valid inputs; `x` if that is all.

        Where something lies between, such as an image file of 8 bits, it is the input
        that comes out of it. Points are recorded, and distances measured, as shown.
        """
        return x if self.wraps is None else self.wraps.shown(x)

    @abstractmethod
    def to_tensor(self, x: Array) -> Batch:
        """A NumPy batch as a tensor of this model's framework, on its device."""

    def precise(self) -> "Model":
        """This model without what makes it faster at the cost of precision.

        By its answers reported adversarials are verified. A model that computes as
        precisely as it can is its own.
        """
        return self

    def session(self) -> AbstractContextManager[None]:
        """Held open around many questions: what must be set up once and restored."""
        return nullcontext() if self.wraps is None else self.wraps.session()

    def fingerprint(self) -> str | None:
        """A hash of the parameters, or None where they cannot be seen."""
        return None


class Wrapper(Model):
    """A model that asks another one, and says of itself all that is said of that one.

    What a subclass changes it says after that; so what it does not know of, it cannot
    forget.

    Args:
        model: To be asked.
        others: Models that are asked as well.

    Attributes:
        asked: The model, and the others.

    Raises:
        BadInput: One of them is no `Model` yet, but a torch module or a function.
    """

    def __init__(self, model: Model, *others: Model) -> None:
        for asked in (model, *others):
            if not isinstance(asked, Model):
                raise BadInput(
                    f"{type(self).__name__} asks robustkit models, and got a "
                    f"{type(asked).__name__}; adapt it first, such as by "
                    "TorchModel(module), NumPyModel(function), or as_model(it, "
                    "example=x)"
                )
        self._model, self.asked = model, (model, *others)
        self.bounds, self.access = model.bounds, model.access
        self.name, self.notes = model.name, model.notes
        self.passes_per_question = model.passes_per_question
        self.passes_per_gradient = model.passes_per_gradient
        self.abstains = model.abstains

    @abstractmethod
    def _around(self, model: Model, *others: Model) -> Model:
        """The same wrapper of another model, and of as many others."""

    def _settings(self) -> str | None:
        """What its answers depend on besides the models; None: that cannot be seen."""
        return None

    @property
    def wraps(self) -> Model:
        return self._model

    def to_tensor(self, x: Array) -> Batch:
        return self._model.to_tensor(x)

    def precise(self) -> Model:
        precise = [model.precise() for model in self.asked]
        if all(new is old for new, old in zip(precise, self.asked, strict=True)):
            return self
        return self._around(*precise)

    def session(self) -> AbstractContextManager[None]:
        return _sessions(self.asked)

    def fingerprint(self) -> str | None:
        parts = [*(model.fingerprint() for model in self.asked), self._settings()]
        if None in parts:
            return None
        return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()


@contextmanager
def _sessions(models: Iterable[Model]) -> Iterator[None]:
    with ExitStack() as stack:
        for model in models:
            stack.enter_context(model.session())
        yield


def native_name(native: Any) -> str:
    """What a function, or else the class of an object, is called."""
    return str(getattr(native, "__name__", type(native).__name__))
