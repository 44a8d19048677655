"""foolbox models as ours, its attacks as ours, and our attacks as its own.

A foolbox model (`FoolboxModel`) carries over with its bounds, preprocessing and
wrappers: with gradients through all of them for PyTorch and JAX, with scores for NumPy.
What does not: TensorFlow models, and counting inside
`ExpectationOverTransformationWrapper`, whose draws together are one question.

A foolbox attack (`foolbox_attack`) is its own code, unchanged, on torch tensors, with
its own settings and with `starting_points` from the problem's `starts`; it
differentiates through our model, whatever framework that is written in. Every call of
the model is a question of the problem: clipped to the bounds (what is not finite
becomes the original's value), billed, and remembered with our own margin and distance,
whatever the attack makes of it. An attack that needs decisions only is shown no more.
What does not carry over: `early_stop`; plans for a budget (an attack is stopped when it
is spent); for attacks that want to know a class, any criterion but misclassification
and targets; and independence of the batch, since many of foolbox's attacks share random
numbers or stopping among the samples of a batch.

One of our attacks (`as_foolbox`) serves foolbox's call signature, with `epsilons`,
`starting_points`, `distance` and `repeat`. What does not carry over: `early_stop`, and
what foolbox's own distances cannot do, such as reducing L0.
"""

import hashlib
import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from eagerpy.astensor import astensor_
from eagerpy.tensor.jax import JAXTensor
from eagerpy.tensor.pytorch import PyTorchTensor

from robustkit.engine import criteria
from robustkit.engine.attack import Attack
from robustkit.engine.problem import Problem
from robustkit.errors import BadInput, MissingPackage, suggestion
from robustkit.evaluation.single import run
from robustkit.models.base import Access, Model, PullBack, native_name
from robustkit.models.numpy import NumPyModel
from robustkit.models.torch import TorchModel
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.norms import Norm, get_norm
from robustkit.numerics.tensors import (
    Array,
    Batch,
    Tensor,
    as_tensor,
    like,
    put,
    take,
    to_numpy,
    where,
)

try:
    with warnings.catch_warnings():
        # It imports names that SciPy deprecates.
        warnings.simplefilter("ignore")
        import foolbox.attacks
        from foolbox import criteria as guest_criteria
        from foolbox import distances
        from foolbox.attacks import base
        from foolbox.attacks.dataset_attack import DatasetAttack
        from foolbox.models.base import Model as GuestModel
        from foolbox.models.numpy import NumPyModel as GuestNumPyModel
        from foolbox.types import Bounds as GuestBounds
except ImportError as error:
    raise MissingPackage("foolbox", "foolbox", "a foolbox model or attack") from error

__all__ = ["FoolboxModel", "as_foolbox", "foolbox_attack"]

_NORM_OF = {0: "l0", 1: "l1", 2: "l2", np.inf: "linf"}
_DISTANCE_OF = {
    "l0": distances.l0,
    "l1": distances.l1,
    "l2": distances.l2,
    "linf": distances.linf,
}


class FoolboxModel(Model):
    """A foolbox model, with its bounds, preprocessing and wrappers.

    Args:
        model: A foolbox PyTorchModel, JAXModel or NumPyModel, or one of its wrappers
            around such a model.
        bounds: None, or the model's own once more.
        name: For people.

    Raises:
        BadInput: The bounds differ from the model's own, or it is written in
            TensorFlow or an unknown framework.

    >>> module = torch.nn.Linear(4, 3).eval()
    >>> native = foolbox.PyTorchModel(module, bounds=(0, 255), device="cpu")
    >>> FoolboxModel(native).bounds
    Bounds(lower=0.0, upper=255.0)
    """

    def __init__(
        self,
        model: GuestModel,
        bounds: Bounds | None = None,
        *,
        name: str | None = None,
    ) -> None:
        self.bounds = Bounds(*model.bounds)
        if bounds is not None and bounds != self.bounds:
            raise BadInput(
                f"the foolbox model has the bounds {self.bounds}; {bounds} was asked "
                "for. Leave the bounds out, or give model.transform_bounds((lower, "
                "upper))"
            )
        self._layers = _layers(model)
        self._inner = _adapted(model, self._layers[-1], self.bounds, name)
        self.access, self.name = self._inner.access, self._inner.name
        self.data_format: str | None = getattr(model, "data_format", None)

    def logits(self, x: Batch) -> Tensor:
        return self._inner.logits(x)

    def linearise(self, x: Batch) -> tuple[Tensor, PullBack]:
        return self._inner.linearise(x)

    def to_tensor(self, x: Array) -> Batch:
        return self._inner.to_tensor(x)

    def session(self) -> AbstractContextManager[None]:
        return self._inner.session()

    def fingerprint(self) -> str | None:
        inner = self._inner.fingerprint()
        if inner is None:
            return None
        settings = [_settings(layer) for layer in self._layers]
        return hashlib.sha256(f"{inner} {settings}".encode()).hexdigest()


def foolbox_attack(attack: str | base.Attack, **settings: Any) -> Attack[Any]:
    """A foolbox attack as one of ours.

    Fixed-epsilon attacks are run at several epsilons, to find the smallest at which
    they succeed: by bisection on a logarithmic scale, each sample on its own, though
    samples at the same epsilon share a batch. `dataclasses.replace(attack, steps=...)`
    sets how many; the default of 10 finds it to about 1 %. Other attacks run once, or
    `steps` times with other random numbers.

    The global random generators of torch and NumPy, which foolbox draws from, are
    seeded from the problem for as long as the attack runs and restored afterwards. An
    attack's result can depend on its batch: see the top of this module.

    What the attack raises is passed on.

    Args:
        attack: The name of a class of `foolbox.attacks`, in any case, with or without
            "Attack" at its end; or a foolbox attack.
        settings: For the constructor of the class named.

    Raises:
        BadInput: No such attack, it cannot be built from these settings, or foolbox
            cannot run it on a problem.

    >>> attack = foolbox_attack("L2DeepFool", steps=20)
    >>> attack, sorted(attack.norms), attack.access.name
    (foolbox:L2DeepFoolAttack(steps=20), ['l2'], 'GRADIENT')
    """
    if isinstance(attack, str):
        guest = _built(attack, settings)
        given = ", ".join(f"{key}={value!r}" for key, value in settings.items())
        label = f"foolbox:{type(guest).__name__}({given})"
    else:
        if settings:
            raise BadInput(
                "settings are for attacks given by name; this one is built already: "
                f"{attack!r}"
            )
        guest, label = attack, f"foolbox:{attack!r}"
    name = type(guest).__name__
    if isinstance(guest, DatasetAttack):
        raise BadInput(
            "foolbox's DatasetAttack has to be fed a data set with answers of its own; "
            "use robustkit's 'boundary' with pool=..., which starts from such inputs"
        )
    by_epsilon = isinstance(guest, base.FixedEpsilonAttack)
    # A class of its own, since access and norms belong to the class of an attack.
    own = type(
        name,
        (_Guest,),
        {
            "__doc__": type(guest).__doc__,
            "access": _access(guest),
            "norms": _norms(guest),
            "cost": "one run at one epsilon" if by_epsilon else "one run",
            "source": f"foolbox {foolbox.__version__}, {name}",
        },
    )
    return cast(Attack[Any], own(guest, label, 10 if by_epsilon else 1))


def as_foolbox(
    attack: Attack[Any],
    norm: str | Norm,
    *,
    seed: int = 0,
    budget: int | None = None,
) -> base.MinimizationAttack:
    """One of our attacks, to be called like one of foolbox's.

    `attack(fmodel, inputs, criterion, epsilons=...)` returns what foolbox's attacks
    return. Takes labels, or foolbox's Misclassification and TargetedMisclassification,
    or several of these joined by `&`; `starting_points` are the problem's `starts`.
    `repeat(times)` keeps the nearest of runs with the seeds `seed`, `seed` + 1, ...

    Args:
        attack: To be run.
        norm: To be minimised: "l0", "l1", "l2" or "linf".
        seed: Of all randomness.
        budget: The most model passes per sample and run that count; None: the attack's
            own.

    Raises:
        BadInput: foolbox has no distance for the norm.

    >>> from robustkit import FMN
    >>> as_foolbox(FMN(steps=20), "l2").distance
    LpDistance(2)
    """
    chosen = get_norm(norm)
    if repr(chosen) not in _DISTANCE_OF:
        raise BadInput(
            f"foolbox has no distance for the norm {chosen}; it has "
            f"{', '.join(_DISTANCE_OF)}"
        )
    return _Lent(attack, chosen, seed, budget)


# foolbox models as ours


def _layers(model: GuestModel) -> list[GuestModel]:
    """The model, the one it wraps, and so on."""
    layers = [model]
    while isinstance(inner := getattr(layers[-1], "_model", None), GuestModel):
        layers.append(inner)
    return layers


def _adapted(
    model: GuestModel, core: GuestModel, bounds: Bounds, name: str | None
) -> Model:
    native = _native(core)
    name = name or native_name(native)
    dummy = getattr(core, "dummy", None)
    if isinstance(dummy, PyTorchTensor):
        if isinstance(native, torch.nn.Module):
            return TorchModel(_WithFoolbox(native, model), bounds, name=name)
        return TorchModel(model, bounds, device=dummy.raw.device, name=name)
    if isinstance(dummy, JAXTensor):
        from robustkit.models.jax import JaxModel

        return JaxModel(model, bounds, name=name)
    if isinstance(core, GuestNumPyModel):
        return NumPyModel(model, bounds, name=name)
    raise BadInput(
        f"a foolbox {type(core).__name__} cannot be used: expected a PyTorchModel, "
        "JAXModel or NumPyModel, or a wrapper around one. Wrap the native model in "
        "NumPyModel(function, bounds), for score- and decision-based attacks"
    )


def _native(core: GuestModel) -> Any:
    """What the foolbox model was built around."""
    native = getattr(core, "_model", core)
    if inspect.isfunction(native):
        # PyTorchModel keeps its module in a closure only.
        return inspect.getclosurevars(native).nonlocals.get("model", native)
    return native


def _settings(layer: GuestModel) -> str:
    """What tells two models around the same module apart."""
    left_out = ("_model", "_dummy", "device")
    settings = {k: _plain(v) for k, v in vars(layer).items() if k not in left_out}
    return f"{type(layer).__name__} {settings}"


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return to_numpy(value).tolist()
    return [_plain(part) for part in value] if isinstance(value, tuple) else value


class _WithFoolbox(torch.nn.Module):
    """A module asked through its foolbox model, so that its parameters are seen."""

    def __init__(self, module: torch.nn.Module, model: GuestModel) -> None:
        super().__init__()
        self.training = module.training
        self.module = module
        self._ask = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._ask(x)


# foolbox attacks as ours


_SMALLEST = 1e-5


@dataclass(frozen=True)
class _State:
    """Where the bisection over epsilons stands.

    Attributes:
        share: (n,) of the way, on a logarithmic scale, from the smallest epsilon to
            the largest.
    """

    share: Array


@dataclass(frozen=True, repr=False)
class _Guest(Attack[_State]):
    """A foolbox attack; a subclass for each says what it needs and can.

    Args:
        guest: To be run, once per step.
        label: For people.
        steps: How many runs: at the epsilons of a bisection, or with other random
            numbers if the guest takes no epsilon.
    """

    guest: base.Attack
    label: str
    steps: int

    def __repr__(self) -> str:
        return self.label if self.steps == 1 else f"{self.label}, {self.steps} runs"

    def init(self, p: Problem) -> _State:
        return _State(share=np.full(p.size, 0.5))

    def step(self, p: Problem, s: _State, t: int) -> _State:
        if not isinstance(self.guest, base.FixedEpsilonAttack):
            self._visit(p, np.arange(p.size), t, None)
            return s
        largest = float(to_numpy(p.norm(p.x[:1].zeros_like() + p.bounds.width))[0])
        epsilon = largest * _SMALLEST ** (1 - s.share)
        # A perturbation of that size may measure a little more by rounding.
        enough = epsilon * (1 + 1e-5)
        unknown = to_numpy(p.ledger.distance) > enough
        for size in np.unique(epsilon[unknown]):
            rows = np.flatnonzero((epsilon == size) & unknown)
            self._visit(p, rows, t, float(size))
        passed = to_numpy(p.ledger.distance) <= enough
        half = 0.5 ** (t + 2)
        return _State(share=s.share + np.where(passed, -half, half))

    def within(self, budget: int) -> "_Guest":
        # A run stops when the budget is spent; what it would cost is not known.
        return self

    def _visit(self, p: Problem, rows: Array, t: int, epsilon: float | None) -> None:
        """Run the guest on some samples; the ledger keeps what it comes across."""
        try:
            _visit(self.guest, self.access, p, rows, t, epsilon)
        except _OtherRows:
            for row in rows:
                _visit(self.guest, self.access, p, np.array([row]), t, epsilon)


class _BudgetSpent(Exception):
    """Nobody asked about has budget left; the guest has to go."""


class _OtherRows(Exception):
    """The guest asks about a number of points that is not the number of samples."""


def _visit(
    guest: base.Attack,
    access: Access,
    p: Problem,
    rows: Array,
    step: int,
    epsilon: float | None,
) -> None:
    originals = _as_torch(take(p.x, rows))
    watched = _Watched(p, rows, access, originals)
    criterion = _for_guest(take(p.criterion, rows), access, p.x, originals)
    settings: dict[str, Any] = {}
    if isinstance(guest, base.AttackWithDistance):
        settings["epsilons"] = epsilon
    if p.starts is not None and _takes_starts(guest):
        starts = _as_torch(take(p.starts, rows))
        settings["starting_points"] = as_tensor(starts)
    seed = int(to_numpy(p.rng(step).integers(2**31))[rows[0]])
    try:
        with _seeded(seed, originals.device), warnings.catch_warnings():
            # SpatialAttack calls it as older versions of torch wanted it.
            warnings.filterwarnings("ignore", "torch.meshgrid")
            guest(watched, originals.clone(), criterion, **settings)
    except _BudgetSpent:
        return
    except ValueError as error:
        if str(error) == "unsupported criterion":
            raise BadInput(
                f"foolbox's {type(guest).__name__} does not serve the criterion "
                f"{type(p.criterion).__name__}; choose another attack"
            ) from error
        if str(error).endswith("requires starting_points"):
            raise BadInput(
                f"foolbox's {type(guest).__name__} refines adversarial points; give "
                "them as starts=... to robustkit.run"
            ) from error
        raise


class _Watched(GuestModel):
    """Some samples of a problem as a foolbox model: each call is a question.

    Args:
        problem: To ask.
        rows: Which of its samples the guest works on.
        access: What the guest is shown: a two-class decision, or scores.
        originals: Their inputs.
    """

    def __init__(
        self, problem: Problem, rows: Array, access: Access, originals: torch.Tensor
    ) -> None:
        self._problem, self._rows, self._access = problem, rows, access
        self._originals = originals
        # The problem works faster on all its samples than on a choice of them.
        self._asked = None if len(rows) == problem.size else rows
        self.data_format = _data_format(problem.model, originals)

    @property
    def bounds(self) -> GuestBounds:
        bounds = self._problem.bounds
        return GuestBounds(bounds.lower, bounds.upper)

    def __call__(self, inputs: Any) -> Any:
        x, restore_type = astensor_(inputs)
        return restore_type(as_tensor(self._answer(x.raw)))

    def _answer(self, x: torch.Tensor) -> torch.Tensor:
        if self._problem.ledger.spent()[self._rows].all():
            raise _BudgetSpent
        if len(x) == len(self._rows):
            return self._question(x)
        if len(self._rows) > 1:
            raise _OtherRows
        return torch.cat([self._question(point[None]) for point in x])

    def _question(self, x: torch.Tensor) -> torch.Tensor:
        if self._access is Access.DECISION:
            return self._decide(x)
        if x.requires_grad:
            answer: torch.Tensor = _Question.apply(x, self._linearise)  # type: ignore[no-untyped-call]
            return answer
        return _as_torch(self._problem.logits(self._ours(x), self._asked))

    def _decide(self, x: torch.Tensor) -> torch.Tensor:
        p = self._problem
        asked = np.zeros(p.size, dtype=bool)
        asked[self._rows] = True
        points = put(p.x, self._rows, self._ours(x))
        passed = take(p.decide(points, like(p.x, asked)), self._rows)
        two = torch.nn.functional.one_hot(_as_torch(passed).long(), 2)
        return two.to(x.dtype)

    def _linearise(
        self, x: torch.Tensor
    ) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
        logits, pull_back = self._problem.linearise(self._ours(x), self._asked)
        return _as_torch(logits), lambda slopes: _as_torch(
            pull_back(_from_torch(slopes, self._problem.x))
        )

    def _ours(self, x: torch.Tensor) -> Batch:
        finite = torch.where(torch.isfinite(x), x, self._originals)
        return _from_torch(finite, self._problem.x)


class _Question(torch.autograd.Function):
    """A question that torch differentiates by the way back that comes with it."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, ask: Callable[..., Any]) -> torch.Tensor:
        logits: torch.Tensor
        logits, ctx.pull_back = ask(x)
        return logits

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.pull_back(slopes[0]), None


class _Met(guest_criteria.Criterion):
    """Any of our criteria, for the attacks that ask no more than whether it is met."""

    def __init__(self, criterion: criteria.Criterion, reference: Tensor) -> None:
        self._criterion, self._reference = criterion, reference

    def __repr__(self) -> str:
        return f"robustkit {type(self._criterion).__name__}"

    def __call__(self, perturbed: Any, outputs: Any) -> Any:
        logits, restore_type = astensor_(outputs)
        margin = self._criterion.margin(_from_torch(logits.raw, self._reference))
        return restore_type(as_tensor(_as_torch(margin < 0)))


def _for_guest(
    criterion: criteria.Criterion,
    access: Access,
    reference: Tensor,
    originals: torch.Tensor,
) -> guest_criteria.Criterion:
    """The criterion in foolbox's words, for the model that a guest is shown."""
    device = originals.device
    if access is Access.DECISION:
        # That model has two classes: not adversarial, adversarial.
        not_adversarial = torch.zeros(len(originals), dtype=torch.int64, device=device)
        return guest_criteria.Misclassification(not_adversarial)
    if isinstance(criterion, criteria.Misclassification):
        labels = _as_torch(criterion.labels).long().to(device)
        return guest_criteria.Misclassification(labels)
    if isinstance(criterion, criteria.Targeted):
        targets = _as_torch(criterion.targets).long().to(device)
        return guest_criteria.TargetedMisclassification(targets)
    return _Met(criterion, reference)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the generators that foolbox draws from, and put them back afterwards."""
    generators = [torch.default_generator]
    if device.type == "cuda":
        generators.append(torch.cuda.default_generators[device.index])
    before = [generator.get_state() for generator in generators]
    numpy_before = np.random.get_state()  # noqa: NPY002
    try:
        for generator in generators:
            generator.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002, TID251
        yield
    finally:
        for generator, state in zip(generators, before, strict=True):
            generator.set_state(state)
        np.random.set_state(numpy_before)  # noqa: NPY002


_DECIDES = {
    "BaseAdditiveNoiseAttack",
    "BaseRepeatedAdditiveNoiseAttack",
    "BinarizationRefinementAttack",
    "BinarySearchContrastReductionAttack",
    "BoundaryAttack",
    "GaussianBlurAttack",
    "HopSkipJumpAttack",
    "InversionAttack",
    "L2ContrastReductionAttack",
    "LinearSearchBlendedUniformNoiseAttack",
    "LinearSearchContrastReductionAttack",
    "PointwiseAttack",
    "SaltAndPepperNoiseAttack",
    "SpatialAttack",
}
_SCORES = {"GenAttack"}


def _access(guest: base.Attack) -> Access:
    """What the guest, or the attack that finds its starting points, needs to see."""
    names = {ancestor.__name__ for ancestor in type(guest).__mro__}
    if names & _DECIDES:
        own = Access.DECISION
    else:
        own = Access.SCORE if names & _SCORES else Access.GRADIENT
    first = getattr(guest, "init_attack", None)
    return own if first is None else max(own, _access(first))


def _norms(guest: base.Attack) -> frozenset[str]:
    """The norm of the guest's distance; all of them where it is for any distance."""
    if not isinstance(guest, base.AttackWithDistance):
        return frozenset(_DISTANCE_OF)
    try:
        distance = guest.distance
    except (ValueError, AttributeError):
        # No distance was given, and it needs none to run.
        return frozenset(_DISTANCE_OF)
    norm = _NORM_OF.get(getattr(distance, "p", np.nan))
    if norm is None:
        raise BadInput(
            f"foolbox's {type(guest).__name__} minimises {distance}; robustkit has the "
            f"norms {', '.join(_DISTANCE_OF)}"
        )
    return frozenset({norm})


def _built(name: str, settings: dict[str, Any]) -> base.Attack:
    known: dict[str, type] = {
        key.lower().removesuffix("attack"): value
        for key, value in vars(foolbox.attacks).items()
        if isinstance(value, type) and issubclass(value, base.Attack)
    }
    found = known.get(name.lower().removesuffix("attack"))
    if found is None:
        raise BadInput(
            f"unknown foolbox attack '{name}'; {suggestion(name, filter(None, known))}"
        )
    if inspect.isabstract(found):
        raise BadInput(
            f"foolbox's {found.__name__} is abstract: the common part of several "
            "attacks; name one of these"
        )
    signature = inspect.signature(found)
    try:
        signature.bind(**settings)
        return cast(base.Attack, found(**settings))
    except ImportError as error:
        raise BadInput(
            f"foolbox's {found.__name__} needs a package that foolbox does not "
            f"install: {error}"
        ) from error
    except TypeError as error:
        raise BadInput(
            f"cannot build foolbox's {found.__name__}{signature} with the settings "
            f"{settings}: {error}. Use foolbox_attack(name, **settings)"
        ) from error


def _takes_starts(guest: base.Attack) -> bool:
    run_guest = getattr(guest, "run", guest)
    return "starting_points" in inspect.signature(run_guest).parameters


def _data_format(model: Model, originals: torch.Tensor) -> str | None:
    """Where image channels are; None where that cannot be told."""
    own: str | None = getattr(model, "data_format", None)
    if own is not None or originals.ndim != 4:
        return own
    first, last = (originals.shape[axis] in (1, 3) for axis in (1, 3))
    if first == last:
        return None
    return "channels_first" if first else "channels_last"


def _as_torch(tensor: Tensor) -> torch.Tensor:
    if isinstance(tensor.raw, torch.Tensor):
        return tensor.raw
    return torch.from_numpy(np.array(to_numpy(tensor)))


def _from_torch(raw: torch.Tensor, reference: Tensor) -> Tensor:
    if isinstance(reference.raw, torch.Tensor):
        return as_tensor(raw.detach())
    return like(reference, raw.detach().cpu().numpy())


# our attacks as foolbox's


class _Lent(base.MinimizationAttack):
    """One of our attacks behind foolbox's interface."""

    def __init__(
        self,
        attack: Attack[Any],
        norm: Norm,
        seed: int,
        budget: int | None,
        times: int = 1,
    ) -> None:
        self._attack, self._norm, self._seed = attack, norm, seed
        self._budget, self._times = budget, times

    @property
    def distance(self) -> distances.Distance:
        return _DISTANCE_OF[self._norm.name]

    def repeat(self, times: int) -> "_Lent":
        if times < 1:
            raise BadInput(f"an attack is repeated at least once; got {times} times")
        times *= self._times
        return _Lent(self._attack, self._norm, self._seed, self._budget, times)

    def run(
        self,
        model: GuestModel,
        inputs: Any,
        criterion: Any,
        *,
        early_stop: float | None = None,
        starting_points: Any = None,
        **settings: Any,
    ) -> Any:
        """The nearest adversarial of each input, or the input itself."""
        base.raise_if_kwargs(settings)
        x, restore_type = astensor_(inputs)
        ours = _from_guest(base.get_criterion(criterion))
        results = [
            run(
                self._attack,
                model,
                x,
                ours,
                norm=self._norm,
                budget=self._budget,
                seed=self._seed + turn,
                starts=starting_points,
            )
            for turn in range(self._times)
        ]
        best, distance = results[0].x_adversarial, results[0].distance
        for other in results[1:]:
            closer = other.distance < distance
            best = where(closer, other.x_adversarial, best)
            distance = where(closer, other.distance, distance)
        return restore_type(best)


def _from_guest(criterion: guest_criteria.Criterion) -> criteria.Criterion:
    if isinstance(criterion, guest_criteria.Misclassification):
        return criteria.Misclassification(criterion.labels)
    if isinstance(criterion, guest_criteria.TargetedMisclassification):
        return criteria.Targeted(criterion.target_classes)
    if isinstance(criterion, guest_criteria._And):
        return criteria.AllOf(_from_guest(criterion.a), _from_guest(criterion.b))
    raise BadInput(
        f"foolbox's criterion {criterion!r} has no margin to descend; expected labels, "
        "Misclassification or TargetedMisclassification, or several joined by &"
    )
