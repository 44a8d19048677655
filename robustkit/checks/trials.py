"""Short trials of an attack on a model: what the trial checks rest on."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from robustkit.attacks.gradient.pgd import PGD
from robustkit.checks.fixed import Fixed
from robustkit.engine.attack import FixedBudget, edge, questions
from robustkit.engine.criteria import Targeted
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.errors import BadInput
from robustkit.evaluation.goals import misclassified
from robustkit.evaluation.results import Results
from robustkit.models.base import Access, Model, NoGradient
from robustkit.models.isolated import isolated
from robustkit.numerics.norms import Norm, get_norm
from robustkit.numerics.tensors import Array, full, maximum, to_numpy
from robustkit.registry import get_attack

__all__ = ["SIZES", "Trials", "default_attack", "own_attack", "try_attack"]

SIZES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Sizes that the attack is tried at, as multiples of epsilon."""

_TARGETS = 3
_STEPS = 20


@dataclass(frozen=True)
class Trials:
    """How often an attack succeeded; arrays of n samples, all classified correctly.

    Attributes:
        index: (n,) positions in the data.
        attack: What was tried, with its settings.
        own: Whether it is an attack of the run that is checked.
        random: Whether the model's answers are.
        several: Whether the model was seen to tell classes apart.
        norm: In which sizes are measured.
        epsilons: (sizes,) ascending, norm units; the last is as large as can be.
        broken: (n, sizes) whether the attack succeeded within that size, with a fresh
            start at each.
        at: Which of the sizes the trials below were made at.
        doubled: (n,) with twice the steps there.
        patient: (n,) with as many times the steps as there are targets.
        targeted: (n,) aimed at some class, one after the other, the likeliest first.
        targets: How many classes.
        fixed: (n,) within the largest size, the model's randomness held still; None: it
            has none, or draws from a generator of its own, which is not held.
        undefended: (n, 2) within the largest size but one and within the largest, on
            the model without its defense; None: there is none.
    """

    index: Array
    attack: str
    norm: str
    epsilons: Array
    broken: Array
    at: int
    doubled: Array
    patient: Array
    targeted: Array
    targets: int
    fixed: Array | None = None
    undefended: Array | None = None
    own: bool = False
    random: bool = False
    several: bool = True

    def to_json(self) -> dict[str, Any]:
        """What a picture needs, as plain data."""
        return {
            "norm": self.norm,
            "attack": self.attack,
            "own": self.own,
            "samples": len(self.index),
            "epsilons": self.epsilons.tolist(),
            "success": self.broken.mean(axis=0).tolist(),
            "at": float(self.epsilons[self.at]),
            "doubled": float(self.doubled.mean()),
            "targeted": float(self.targeted.mean()),
            "fixed": None if self.fixed is None else float(self.fixed.mean()),
            "undefended": None
            if self.undefended is None
            else self.undefended.mean(axis=0).tolist(),
        }


def default_attack(epsilon: float) -> FixedBudget[Any]:
    """Plain projected gradient descent on the margin."""
    return PGD(epsilon, steps=_STEPS)


def own_attack(
    results: Results, model: Model, norm: str = "linf"
) -> FixedBudget[Any] | None:
    """The first attack of a run that follows gradients and can be tried at any size.

    One by name, planned as it was in the run of the model; of a search over the radius,
    what searches within it. None: there is none, as of those that minimise by
    themselves.
    """
    config = results.run["config"]
    for name, shown in config["attacks"].get(norm, {}).items():
        try:
            attack: Any = get_attack(name)
        except BadInput:
            # The user's own.
            continue
        planned, budget = attack, config["budget"]
        if budget is not None:
            planned = attack.within(questions(budget, model, attack.access))
        if repr(planned) != shown:
            continue
        inner = getattr(planned, "attack", planned)
        if isinstance(inner, FixedBudget) and inner.access is Access.GRADIENT:
            return inner
    return None


def try_attack(
    model: Model,
    x: Array,
    label: Array,
    epsilon: float,
    *,
    norm: str | Norm = "linf",
    attack: FixedBudget[Any] | None = None,
    own: bool = False,
    random: bool = False,
    undefended: Model | None = None,
    seed: int = 0,
) -> Trials | None:
    """Try an attack at several sizes, with more steps, with targets.

    At most some 300 forward passes per sample, and as many backward: 20 at each of 6
    sizes, 40 and 60 with more steps, 60 with targets. Samples that are broken stop
    early, so that on a weak model it is a tenth of that.

    Args:
        model: To be attacked.
        x: (n, ...) inputs within the model's bounds.
        label: (n,) their classes; samples that are misclassified, or at which the model
            raises or returns NaN, are left out.
        epsilon: A customary size, in norm units.
        norm: In which sizes are measured.
        attack: What to try; None: `default_attack`. Its epsilon is not used.
        own: Whether it is an attack of the run that is checked.
        random: Whether the model's answers are; then also try it held still.
        undefended: The same model without its defense; then also try that.
        seed: Of all randomness.

    Returns:
        What came of it; None: the attack cannot work on the model, or nothing is
        classified correctly.
    """
    chosen = default_attack(epsilon) if attack is None else attack
    norm = get_norm(norm)
    if norm.name not in chosen.norms or chosen.access > model.access:
        return None
    model = isolated(model)
    logits = np.array(to_numpy(model.logits(model.to_tensor(x))), dtype=np.float64)
    known, answer = np.isfinite(logits.max(axis=1)), logits.argmax(axis=1)
    correct = np.flatnonzero(known & (answer == label))
    if len(correct) == 0:
        return None
    labelled = answer < logits.shape[1] - int(model.abstains)
    several = len(np.unique(answer[known & labelled])) > 1
    x, label, logits = x[correct], label[correct], logits[correct]
    trial = _Trial(model, x, label, norm, chosen, seed)
    widest = trial.widest()
    sizes = [s * epsilon for s in SIZES if s * epsilon < widest / 2]
    epsilons = np.array([*sizes, widest])
    try:
        broken = np.stack([trial.broken(e) for e in epsilons], axis=1)
    except NoGradient:
        return None
    # Where most can be seen: neither all nor nothing is broken; of equals the last.
    off = np.abs(broken[:, : max(len(sizes), 1)].mean(axis=0) - 0.5)
    at = int(np.flatnonzero(off == off.min())[-1])
    size = float(epsilons[at])
    others = logits.copy()
    others[np.arange(len(x)), label] = -np.inf
    others = others[:, : others.shape[1] - model.unlabelled]
    order = np.argsort(-others, axis=1)
    count = min(_TARGETS, others.shape[1] - 1)
    targeted = np.zeros(len(x), dtype=bool)
    for place in range(count):
        targeted |= trial.broken(size, target=order[:, place], known=targeted)
    known, bare = broken[:, at], None
    if undefended is not None:
        plain = trial.on(isolated(undefended))
        last = (float(epsilons[-2:][0]), widest)
        bare = np.stack([plain.broken(e) for e in last], axis=1)
    return Trials(
        index=correct,
        attack=repr(chosen),
        norm=repr(norm),
        epsilons=epsilons,
        broken=broken,
        at=at,
        doubled=known | trial.broken(size, steps=2, known=known),
        patient=known | trial.broken(size, steps=count, known=known),
        targeted=targeted,
        targets=count,
        fixed=_held_still(trial, widest) if random else None,
        undefended=bare,
        own=own,
        random=random,
        several=several,
    )


def _held_still(trial: "_Trial", widest: float) -> Array | None:
    """(n,) whether it succeeds on the model held still; None: that does not hold it."""
    still = trial.on(Fixed(trial.model))
    with still.model.session():
        x = still.model.to_tensor(still.x)
        one, other = (to_numpy(still.model.logits(x)) for _ in range(2))
    if not np.array_equal(one, other, equal_nan=True):
        return None
    return still.broken(widest)


@dataclass(frozen=True)
class _Trial:
    """An attack on a model's samples, to be made in several ways."""

    model: Model
    x: Array
    label: Array
    norm: Norm
    attack: FixedBudget[Any]
    seed: int
    rows: Array = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", np.arange(len(self.x)))

    def on(self, model: Model) -> "_Trial":
        """The same on another model."""
        if model.access < Access.GRADIENT <= self.attack.access:
            raise BadInput(
                f"the model '{model.name}' gives no gradients, so the attack cannot be "
                "tried on it; give it as a torch or JAX model"
            )
        return dataclasses.replace(self, model=model)

    def widest(self) -> float:
        """The size within which every point lies, of all samples."""
        x = self.model.to_tensor(self.x)
        low, high = self.model.bounds.lower - x, self.model.bounds.upper - x
        return float(to_numpy(self.norm(maximum(-low, high))).max())

    def broken(
        self,
        epsilon: float,
        *,
        steps: int = 1,
        target: Array | None = None,
        known: Array | None = None,
    ) -> Array:
        """(n,) whether it succeeds within a size; those known before are not tried."""
        out = np.zeros(len(self.x), dtype=bool)
        rows = self.rows if known is None else np.flatnonzero(~known)
        if len(rows) == 0:
            return out
        x = self.model.to_tensor(self.x[rows])
        goal = misclassified(self.model, self.model.to_tensor(self.label[rows]))
        if target is not None:
            goal = Targeted(self.model.to_tensor(target[rows]))
        attack: Any = self.attack
        changed = {"epsilon": epsilon, "steps": steps * self.attack.steps}
        attack = dataclasses.replace(attack, **changed)
        ledger = run(attack, Problem(self.model, x, goal, self.norm, seed=self.seed))
        within = full(x, edge(epsilon))
        out[rows] = to_numpy(ledger.distance <= within)
        return out
