"""What is tested: an attack of ours, or any function, behind one interface."""

import dataclasses
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from robustkit.active_tests.modules import ModelModule
from robustkit.active_tests.planted import Planted
from robustkit.engine import loop
from robustkit.engine.attack import Attack, FixedBudget
from robustkit.engine.criteria import Criterion, Misclassification, Targeted
from robustkit.engine.ledger import Ledger
from robustkit.engine.problem import Problem
from robustkit.errors import BadInput, suggestion
from robustkit.models.base import Access, Model
from robustkit.models.torch import TorchModel
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import Array, to_numpy
from robustkit.registry import get_attack
from robustkit.testing.models import NumPyFunction, Watched

__all__ = ["FRAMEWORKS", "Function", "Ours", "Outcome", "Settings", "Subject"]

FRAMEWORKS = ("torch", "numpy")
_POOL = 8
_OPTIONAL = ("norm", "bounds", "targets", "starts", "epsilon", "seed", "steps")
_SELDOM = ("targets", "starts", "steps", "budget")


@dataclass(frozen=True, eq=False)
class Settings:
    """How an attack is run.

    Attributes:
        norm: To be minimised.
        seed: Of all randomness, for attacks that take one.
        access: The most that the model shows.
        budget: The most passes per sample; None: the attack's own.
        planned: Whether the attack is told of the budget beforehand.
        epsilon: In norm units, for attacks that search within a distance.
        starts: (n, ...) adversarial points to start from.
        steps: For functions that take a number of steps.
        patience: The most forward passes per sample before an attack is given up.
        torch: Whether an attack of ours gets torch tensors, not NumPy's.
    """

    norm: str
    seed: int = 0
    access: Access = Access.GRADIENT
    budget: int | None = None
    planned: bool = False
    epsilon: float | None = None
    starts: Array | None = None
    steps: int | None = None
    patience: int = 30_000
    torch: bool = False


@dataclass(frozen=True, eq=False)
class Outcome:
    """What an attack returned.

    Attributes:
        points: (n, ...) what it calls adversarial, or what is left of the inputs.
        model: That was asked.
        inputs: The inputs and labels it was given, as they are afterwards.
        claims: (n,) for whom it says it has an adversarial; None: it does not say.
        distances: (n,) as it says, in norm units; None: it does not say.
        ledger: Its bills; None: it has none.
    """

    points: Any
    model: Watched
    inputs: tuple[Array, Array]
    claims: Array | None = None
    distances: Array | None = None
    ledger: Ledger | None = None


class Subject(ABC):
    """An attack under test.

    Attributes:
        name: For people.
        norms: That it can minimise, or within which it searches.
        access: What it needs to see.
        bounded: It searches within an epsilon; a nearer adversarial is no better.
        billed: It is run by our loop, which keeps a ledger.
        takes: Which of the settings it can be given.
        budget: The most passes per sample that count, where a law gives no other;
            None: any number.
        dtype: Of the inputs that it is given unless a law says otherwise.
    """

    name: str
    norms: frozenset[str]
    access: Access
    bounded: bool
    billed: bool
    takes: frozenset[str]
    budget: int | None
    dtype: type

    @abstractmethod
    def attack(self, task: Planted, settings: Settings) -> Outcome:
        """Run it on a task, whose arrays it gets copies of."""


@dataclass(frozen=True, eq=False)
class Ours(Subject):
    """An attack of robustkit's kind.

    Args:
        own: To be run.
        name: For people.
        budget: The most passes per sample in each run, which is planned for that;
            None: the attack's own settings.
    """

    own: Attack[Any]
    name: str
    budget: int | None = None

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "norms", self.own.norms)
        set_(self, "access", self.own.access)
        set_(self, "bounded", isinstance(self.own, FixedBudget))
        set_(self, "billed", True)
        set_(self, "takes", frozenset({*_OPTIONAL, "budget"}))
        set_(self, "dtype", np.float64)

    def attack(self, task: Planted, settings: Settings) -> Outcome:
        limit = settings.patience * max(len(task.x), 1)
        model = Watched(task.model, settings.access, limit)
        # Always planned anew: a plan made of a plan is not what it would be.
        planned = settings.budget if settings.planned else self.budget
        attack = self.own if planned is None else self.own.within(planned)
        if settings.epsilon is not None and self.bounded:
            fixed: Any = attack
            attack = dataclasses.replace(fixed, epsilon=settings.epsilon)
        asked: Model = model
        if settings.torch:
            asked = TorchModel(ModelModule(model), model.bounds)
        originals, labels = asked.to_tensor(task.x), asked.to_tensor(task.y)
        criterion: Criterion = Misclassification(labels)
        if task.targets is not None:
            criterion = Targeted(asked.to_tensor(task.targets))
        starts = settings.starts
        problem = Problem(
            asked,
            originals,
            criterion,
            get_norm(settings.norm),
            seed=settings.seed,
            starts=None if starts is None else asked.to_tensor(starts),
            pool=asked.to_tensor(_pool(task)),
        )
        if len(task.x):
            margin = criterion.margin(asked.logits(originals))
            problem.ledger.know(to_numpy(margin) < 0)
        budget = self.budget if settings.budget is None else settings.budget
        ledger = loop.run(attack, problem, budget=budget)
        return Outcome(
            to_numpy(ledger.best),
            model,
            (to_numpy(originals), to_numpy(labels)),
            to_numpy(ledger.found),
            to_numpy(ledger.distance),
            ledger,
        )


@dataclass(frozen=True, eq=False)
class Function(Subject):
    """Any function `(model, x, y) -> x_adversarial`, or `-> (x_adversarial, found)`.

    It may take more, by keyword and under these names: `norm`, `bounds`, `targets`,
    `starts`, `epsilon`, `seed`, `steps`, `budget`.

    Args:
        function: To be called.
        name: For people.
        norms: That it minimises, or within which it searches.
        access: What it needs to see.
        framework: Of the model and the arrays that it gets: "torch" or "numpy".
        budget: The most passes per sample where a law gives no other; None: its own.
    """

    function: Callable[..., Any]
    name: str
    norms: frozenset[str]
    access: Access
    framework: str
    budget: int | None = None

    def __post_init__(self) -> None:
        if self.framework not in FRAMEWORKS:
            raise BadInput(
                f"unknown framework '{self.framework}'; "
                f"{suggestion(self.framework, FRAMEWORKS)}"
            )
        takes, required = _keywords(self.function)
        if self.budget is not None and "budget" not in takes:
            raise BadInput(
                f"'{self.name}' takes no argument 'budget', so it cannot be given one"
            )
        given = () if self.budget is None else ("budget",)
        for missing in sorted(required & {*_SELDOM}.difference(given)):
            raise BadInput(
                f"'{self.name}' needs a default for its argument '{missing}', which "
                "most laws do not give"
            )
        if "norm" not in takes and len(self.norms) != 1:
            raise BadInput(
                f"'{self.name}' takes no argument 'norm', so it can be tested in one "
                f"norm only; got {', '.join(sorted(self.norms)) or 'none'}. Say "
                "norms=['l2'], for one"
            )
        object.__setattr__(self, "takes", takes)
        object.__setattr__(self, "billed", False)
        object.__setattr__(self, "bounded", "epsilon" in takes)
        object.__setattr__(self, "dtype", np.float32)

    def attack(self, task: Planted, settings: Settings) -> Outcome:
        limit = settings.patience * max(len(task.x), 1)
        model = Watched(task.model, settings.access, limit)
        native, into = self._framework(model)
        x, y = into(task.x), into(task.y)
        values = {
            "norm": settings.norm,
            "bounds": (task.bounds.lower, task.bounds.upper),
            "targets": None if task.targets is None else into(task.targets),
            "starts": None if settings.starts is None else into(settings.starts),
            "epsilon": settings.epsilon,
            "seed": settings.seed,
            "steps": settings.steps,
            "budget": self.budget if settings.budget is None else settings.budget,
        }
        given = {
            name: value
            for name, value in values.items()
            if name in self.takes and value is not None
        }
        returned = self.function(native, x, y, **given)
        claims = None
        if isinstance(returned, tuple | list):
            if len(returned) != 2:
                raise BadInput(
                    f"expected '{self.name}' to return x_adversarial, or the pair "
                    f"(x_adversarial, found); got {len(returned)} values"
                )
            returned, claims = returned[0], _host(returned[1]).astype(bool)
        return Outcome(_host(returned), model, (_host(x), _host(y)), claims)

    def _framework(self, model: Watched) -> tuple[Any, Callable[[Array], Any]]:
        if self.framework == "numpy":
            return NumPyFunction(model), np.array
        module: Any = ModelModule(model).eval()
        module.bounds = (model.bounds.lower, model.bounds.upper)
        return module, lambda values: torch.from_numpy(np.array(values))


def subject_of(
    attack: Any,
    norms: Iterable[str] | None,
    access: Access,
    framework: str,
    budget: int | None,
    name: str | None,
) -> Subject:
    """The attack, its name, or the function, as a subject.

    Raises:
        BadInput: It is none of these, or a function without norms.
    """
    if isinstance(attack, str):
        return Ours(get_attack(attack), name or attack, budget)
    if isinstance(attack, Attack):
        return Ours(attack, name or type(attack).__name__, budget)
    if not callable(attack) or (
        isinstance(attack, type) and issubclass(attack, Attack)
    ):
        raise BadInput(
            "expected an attack, the name of one, or a function (model, x, y) -> "
            f"x_adversarial; got {attack!r}"
        )
    called = name or str(getattr(attack, "__name__", type(attack).__name__))
    if norms is None:
        raise BadInput(
            f"say what the function '{called}' minimises, such as norms=['l2']"
        )
    return Function(attack, called, frozenset(norms), access, framework, budget)


def _pool(task: Planted) -> Array:
    """Points of the box for attacks that walk towards other inputs."""
    drawn = np.random.default_rng(0).random((_POOL, *task.x.shape[1:]))
    points = task.bounds.lower + task.bounds.width * drawn
    return points.astype(task.x.dtype)


def _keywords(function: Callable[..., Any]) -> tuple[frozenset[str], frozenset[str]]:
    """Which of the settings a function takes by keyword, and which it must be given."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return frozenset(), frozenset()
    known = frozenset(parameters) & {*_OPTIONAL, "budget"}
    none = inspect.Parameter.empty
    return known, frozenset(name for name in known if parameters[name].default is none)


def _host(values: Any) -> Array:
    if isinstance(values, np.ndarray):
        return values
    detached = values.detach().cpu() if hasattr(values, "detach") else values
    return np.asarray(detached)
