"""foolbox attacks as ours."""

import inspect
from dataclasses import dataclass
from typing import Any, Self, cast

import foolbox.attacks
import numpy as np
from foolbox.attacks import base
from foolbox.attacks.dataset_attack import DatasetAttack

from robustkit.engine.attack import Attack, edge
from robustkit.engine.problem import Problem
from robustkit.errors import BadInput, suggestion
from robustkit.interop.foolbox.translation import DISTANCES
from robustkit.interop.foolbox.visits import visit
from robustkit.models.base import Access
from robustkit.numerics.tensors import Array, to_numpy

__all__ = ["foolbox_attack"]

_SMALLEST = 1e-5

# By name, for foolbox exports them from many places.
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


def foolbox_attack(attack: str | base.Attack, **settings: Any) -> Attack[Any]:
    """A foolbox attack as one of ours.

    Fixed-epsilon attacks are run at several epsilons, to find the smallest at which
    they succeed: by bisection on a logarithmic scale, each sample on its own, though
    samples at the same epsilon share a batch. `dataclasses.replace(attack, steps=...)`
    sets how many; the default of 10 finds it to about 1 %. Other attacks run once, or
    `steps` times with other random numbers.

    The global random generators of torch and NumPy, which foolbox draws from, are
    seeded from the problem for as long as the attack runs and restored afterwards. An
    attack's result can depend on its batch: see `robustkit.interop.foolbox`.

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
    if isinstance(guest, DatasetAttack):
        raise BadInput(
            "foolbox's DatasetAttack has to be fed a data set with answers of its own; "
            "use robustkit's 'boundary' with pool=..., which starts from such inputs"
        )
    name = type(guest).__name__
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
            visit(self.guest, self.access, p, np.arange(p.size), t, None)
            return s
        largest = float(to_numpy(p.norm(p.x[:1].zeros_like() + p.bounds.width))[0])
        epsilon = largest * _SMALLEST ** (1 - s.share)
        # A perturbation of that size may measure a little more by rounding.
        enough = edge(epsilon)
        unknown = to_numpy(p.ledger.distance) > enough
        for size in np.unique(epsilon[unknown]):
            rows = np.flatnonzero((epsilon == size) & unknown)
            visit(self.guest, self.access, p, rows, t, float(size))
        passed = to_numpy(p.ledger.distance) <= enough
        half = 0.5 ** (t + 2)
        return _State(share=s.share + np.where(passed, -half, half))

    def within(self, budget: int) -> Self:
        # A run stops when the budget is spent; what it would cost is not known.
        return self


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
        return frozenset(DISTANCES)
    try:
        distance = guest.distance
    except (ValueError, AttributeError):
        # No distance was given, and it needs none to run.
        return frozenset(DISTANCES)
    order = getattr(distance, "p", None)
    norms = frozenset(name for name, known in DISTANCES.items() if known.p == order)
    if not norms:
        raise BadInput(
            f"foolbox's {type(guest).__name__} minimises {distance}; robustkit has the "
            f"norms {', '.join(DISTANCES)}"
        )
    return norms


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
    try:
        return cast(base.Attack, found(**settings))
    except ImportError as error:
        raise BadInput(
            f"foolbox's {found.__name__} needs a package that foolbox does not "
            f"install: {error}"
        ) from error
    except TypeError as error:
        raise BadInput(
            f"cannot build foolbox's {found.__name__}{inspect.signature(found)} with "
            f"the settings {settings}: {error}. Use foolbox_attack(name, **settings)"
        ) from error
