"""Attacks with one seeded defect each, and the law that has to catch it.

Most are one small sound attack (`search`) with one of its parts exchanged, as a
function on torch; those about the engine are attacks of robustkit's kind.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch

from robustkit.attacks.gradient.fmn import FMN
from robustkit.engine.attack import Attack
from robustkit.models.base import Access
from robustkit.numerics.tensors import as_tensor, like, to_numpy


def size(delta):
    return delta.flatten(1).norm(dim=1)


def spread(values, x):
    return values.reshape(-1, *(1,) * (x.ndim - 1))


def inside(point, bounds):
    return point.clamp(*bounds)


def into_ball(delta, radius):
    return delta * spread(
        torch.clamp(radius / size(delta).clamp_min(1e-12), max=1), delta
    )


def unit(gradient):
    return gradient / spread(size(gradient).clamp_min(1e-12), gradient)


def below_zero(margin):
    return margin < 0


def above_others(logits, labels):
    """How far each label is above the best other class."""
    rows = torch.arange(len(logits))
    others = logits.clone()
    others[rows, labels] = -torch.inf
    return logits[rows, labels] - others.max(dim=1).values


def toward(logits, targets):
    """How far each target is below the best other class."""
    return -above_others(logits, targets)


@dataclass(frozen=True)
class Parts:
    """What `search` is made of."""

    clip: Callable[..., Any] = inside
    project: Callable[..., Any] = into_ball
    direction: Callable[..., Any] = unit
    success: Callable[..., Any] = below_zero
    margin: Callable[..., Any] = above_others
    aimed: Callable[..., Any] = toward
    noise: Callable[..., Any] | None = None
    stepsize: Callable[[float], float] = lambda share: 0.02 + np.cos(share * np.pi / 2)
    first_only: bool = False
    starts_wrong_too: bool = True
    stop: Callable[..., Any] = lambda wins: False
    last: bool = False


def search(model, x, y, targets=None, steps=150, parts=Parts()):
    """The smallest L2 perturbation: descend inside a ball that closes in."""
    dtype, bounds = x.dtype, model.bounds
    largest = 2 * math.prod(x.shape[1:]) * (bounds[1] - bounds[0])
    labels = y if targets is None else targets
    margin_of = parts.margin if targets is None else parts.aimed
    best, delta = x.clone(), torch.zeros_like(x)
    nearest = torch.full((len(x),), torch.inf, dtype=dtype)
    point, wins = x, torch.zeros(len(x), dtype=torch.bool)
    radius = torch.zeros_like(nearest)
    for step in range(steps):
        point = parts.clip(x + delta, bounds).detach().requires_grad_()
        margin = margin_of(model(point), labels)
        (gradient,) = torch.autograd.grad(margin.sum(), point)
        point, margin = point.detach(), margin.detach()
        wins = parts.success(margin)
        if parts.starts_wrong_too is False and step == 0:
            wins = wins & False
        far = size(point - x)
        better = wins & (far < nearest)
        if parts.first_only:
            better = better & nearest.isinf()
        best = torch.where(spread(better, x), point, best)
        nearest = torch.where(better, far, nearest)
        if parts.stop(wins):
            break
        gap = 0.05 * (1 - step / steps) + 1e-3
        reach = far + 1.1 * margin.abs() / size(gradient).clamp_min(1e-12)
        wider = torch.maximum(reach, 1.2 * radius).clamp(max=largest)
        radius = torch.where(nearest.isinf(), wider, nearest)
        radius = torch.where(wins, nearest * (1 - gap), radius)
        stride = parts.stepsize(step / steps) * radius
        delta = point - x - spread(stride, x) * parts.direction(gradient)
        if parts.noise is not None:
            delta = delta + 0.02 * spread(radius, x) * parts.noise(x)
        delta = parts.project(delta, radius)
    return (point, wins) if parts.last else (best, nearest.isfinite())


def variant(**changes):
    """`search` with other parts."""
    parts = Parts(**changes)

    def function(model, x, y, targets=None, steps=150):
        return search(model, x, y, targets, steps, parts)

    return function


sound = variant()
sound_noisy = variant(noise=torch.randn_like)


# Parts that are wrong.


def never_projects(delta, radius):
    norms = size(delta).clamp_min(1e-12)
    return delta * spread(torch.clamp(norms / norms, max=1), delta)


def norm_of_the_batch(delta, radius):
    return delta * spread(
        torch.clamp(radius / delta.norm().clamp_min(1e-12), max=1), delta
    )


def unguarded(gradient):
    return gradient / spread(size(gradient), gradient)


def through_a_sigmoid(point, bounds):
    """A change of variables that is undefined outside the bounds."""
    lower, width = bounds[0], bounds[1] - bounds[0]
    return lower + width * torch.sigmoid(torch.logit((point - lower) / width))


def all_alike(x):
    return torch.randn_like(x[:1]).expand_as(x)


def not_above(margin):
    return ~(margin >= 0)


def tie_or_below(margin):
    return margin <= 0


def over_third(logits, labels):
    """The difference of logits ratio, which takes three classes for granted."""
    ranked = logits.sort(dim=1, descending=True).values
    return above_others(logits, labels) / (ranked[:, 0] - ranked[:, 2] + 1e-12)


# Attacks that are wrong.


def goes_for_one_class(model, x, y, steps=150):
    """That which scores second at the input, whatever is nearer."""
    with torch.no_grad():
        logits = model(x)
    rows = torch.arange(len(logits))
    logits[rows, y] = -torch.inf
    goal = logits.argmax(dim=1)

    def over_goal(logits, labels):
        return logits[rows, labels] - logits[rows, goal]

    return search(model, x, y, None, steps, Parts(margin=over_goal))


def deepfool_without_overshoot(model, x, y):
    point = x
    for _ in range(50):
        point = point.detach().requires_grad_()
        margin = above_others(model(point), y)
        (gradient,) = torch.autograd.grad(margin.sum(), point)
        step = spread(margin / size(gradient).square().clamp_min(1e-12), x) * gradient
        point = (point - step).clamp(*model.bounds)
    return point.detach(), margin.detach().abs() < 1e-5


def does_nothing(model, x, y):
    return x.clone(), torch.zeros(len(x), dtype=torch.bool)


def claims_everything(model, x, y):
    return search(model, x, y)[0], torch.ones(len(x), dtype=torch.bool)


def works_in_place(model, x, y):
    best, found = search(model, x, y)
    x += best - x
    return x, found


def goes_on_from_adversarials(model, x, y):
    return search(model, x, y, parts=Parts(starts_wrong_too=False))


def ignores_its_budget(model, x, y, budget=75):
    return search(model, x, y, steps=2 * budget)


def single_precision(model, x, y):
    best, found = search(model, x.float(), y)
    return best.float(), found


def forgets_the_order(model, x, y):
    best, found = search(model, x, y)
    easy_first = size(best - x).argsort()
    return best[easy_first], found[easy_first]


def shares_its_steps_out(model, x, y, steps=50):
    """Among restarts, ever more of them, which all go the same way."""
    return search(model, x, y, steps=1000 // steps)


def forgets_its_targets(model, x, y, targets=None):
    return search(model, x, y)


def adds_a_sample(model, x, y):
    if len(x) == 0:
        return torch.zeros(1, *x.shape[1:])
    return search(model, x, y)


def seeds_by_the_clock(model, x, y):
    rng = np.random.default_rng()

    def noise(x):
        return torch.from_numpy(rng.normal(size=x.shape)).to(x.dtype)

    return search(model, x, y, parts=Parts(noise=noise))


def sound_within(model, x, y, epsilon):
    best, found = search(model, x, y)
    near = found & (size(best - x) <= epsilon)
    return torch.where(spread(near, x), best, x), near


def leaves_the_ball(model, x, y, epsilon):
    return search(model, x, y)


def last_within(model, x, y, epsilon):
    point, wins = search(model, x, y, parts=Parts(last=True))
    near = wins & (size(point - x) <= epsilon)
    return torch.where(spread(near, x), point, x), near


def never_ends(model, x, y):
    while not (model(x).argmax(dim=1) != y).all():
        pass
    return x


# Defects of the engine's attacks.


class Relying(Attack[Any]):
    """FMN, to be spoilt."""

    access: ClassVar[Access] = Access.GRADIENT
    norms: ClassVar[frozenset[str]] = frozenset({"l2", "linf"})

    def init(self, p):
        return FMN(steps=self.steps).init(p)

    def step(self, p, s, t):
        return FMN(steps=self.steps).step(p, s, t)


@dataclass(frozen=True)
class Peeks(Attack[None]):
    """Declares decisions, and looks at the logits past the problem."""

    access: ClassVar[Access] = Access.DECISION
    norms: ClassVar[frozenset[str]] = frozenset({"l2"})
    steps: int = 300

    def init(self, p):
        return None

    def step(self, p, s, t):
        rng, best = p.rng(t), p.ledger.best - p.x
        scale = p.norm(best) * 0.3 + 0.3 * p.bounds.width * (p.ledger.distance > 1e9)
        tried = [best * 0.95 + rng.normal(p.x.shape[1:]) * _up(scale, p.x)]
        tried.append(best * 0.95)
        # The better of two by the margin, which it must not know.
        margins = [
            to_numpy(p.criterion.margin(p.model.logits(p.bounds.clip(p.x + d))))
            for d in tried
        ]
        first = like(p.x, margins[0] < margins[1])
        p.decide(p.x + _choice(first, *tried))


@dataclass(frozen=True)
class Misreports(Relying):
    """Writes its own distances into the ledger: root mean squares."""

    steps: int = 60

    def finalise(self, p, s):
        best = p.ledger.best
        share = 1 / math.sqrt(math.prod(best.shape[1:]))
        halved = to_numpy(p.norm(best - p.x)) * share
        p.ledger.record(best, halved, to_numpy(p.ledger.found))


@dataclass(frozen=True)
class Global(Relying):
    """Starts from a point of NumPy's global generator."""

    steps: int = 60

    def init(self, p):
        noise = np.random.normal(size=p.x.shape) * p.bounds.width  # noqa: NPY002
        p.gradient(p.x + like(p.x, noise.astype(to_numpy(p.x).dtype)))
        return super().init(p)


@dataclass(frozen=True)
class SeedsTorch(Relying):
    """Seeds the caller's generator."""

    steps: int = 60

    def init(self, p):
        torch.manual_seed(0)  # noqa: TID251
        return super().init(p)


@dataclass(frozen=True)
class OnlyNumPy(Relying):
    """Looks beneath eagerpy, where other frameworks say `shape` but not `astype`."""

    steps: int = 60

    def step(self, p, s, t):
        p.gradient(as_tensor(p.x.raw.astype(p.x.raw.dtype)))
        return super().step(p, s, t)


def _up(values, x):
    return values.reshape((-1, *(1,) * (x.ndim - 1)))


def _choice(mask, yes, no):
    from robustkit.numerics.tensors import where

    return where(mask, yes, no)


@dataclass(frozen=True)
class Defect:
    """An attack with one defect.

    Attributes:
        what: In words.
        law: That has to catch it, among others perhaps.
        attack: It.
        norm: To test it in.
        settings: Of the suite.
    """

    what: str
    law: str
    attack: Any
    norm: str = "l2"
    settings: dict[str, Any] = field(default_factory=dict)


DEFECTS = {
    "unclipped": Defect(
        "does not clip to the bounds", "in-bounds", variant(clip=lambda p, b: p)
    ),
    "sigmoid": Defect(
        "changes variables by a sigmoid, undefined outside the bounds",
        "finite",
        variant(clip=through_a_sigmoid, last=True),
    ),
    "nan-at-zero": Defect(
        "divides by the norm of a zero gradient (foolbox's NewtonFool)",
        "zero-gradients",
        variant(direction=unguarded, last=True),
    ),
    "nan-wins": Defect(
        "counts an answer of NaN as success", "nan-answers", variant(success=not_above)
    ),
    "tie": Defect(
        "counts a tie as success", "constant-logits", variant(success=tie_or_below)
    ),
    "no-overshoot": Defect(
        "steps onto the boundary, not beyond it",
        "really-adversarial",
        deepfool_without_overshoot,
    ),
    "claims": Defect(
        "claims an adversarial of every sample", "nothing-infeasible", claims_everything
    ),
    "distance": Defect(
        "reports root mean squares as L2 distances",
        "distance-as-reported",
        Misreports(),
    ),
    "too-near": Defect(
        "reports root mean squares as L2 distances",
        "never-below-minimum",
        Misreports(),
    ),
    "projection": Defect(
        "projects by norms / norms (foolbox's L2-FMN)",
        "near-minimum",
        variant(project=never_projects),
    ),
    "dual": Defect(
        "descends along the sign, for L2",
        "near-minimum",
        variant(direction=lambda g: g.sign() / math.sqrt(g[:1].numel())),
    ),
    "first": Defect(
        "keeps the first adversarial, not the nearest",
        "keeps-the-best",
        variant(first_only=True),
    ),
    "last": Defect("returns the last iterate", "keeps-the-best", variant(last=True)),
    "last-within": Defect(
        "returns the last iterate, if that is within epsilon",
        "keeps-the-best",
        last_within,
    ),
    "outside": Defect(
        "returns points beyond epsilon", "within-epsilon", leaves_the_ball
    ),
    "endless": Defect(
        "waits for a success that never comes",
        "in-bounds",
        never_ends,
        settings={"patience": 500},
    ),
    "sign": Defect(
        "drops the gradient's sign",
        "finds-the-feasible",
        variant(direction=lambda g: unit(g.abs())),
    ),
    "no-op": Defect(
        "does nothing, and says nothing", "finds-the-feasible", does_nothing
    ),
    "batch-norm": Defect(
        "takes one norm over the whole batch",
        "batch-invariant",
        variant(project=norm_of_the_batch),
    ),
    "all-stop": Defect(
        "stops when all samples of the batch are broken",
        "batch-invariant",
        variant(stop=torch.all),
    ),
    "order": Defect(
        "returns the easy samples first", "order-invariant", forgets_the_order
    ),
    "global": Defect(
        "starts from NumPy's global generator", "seed-invariant", Global()
    ),
    "clock": Defect(
        "draws from a generator without a seed", "seed-invariant", seeds_by_the_clock
    ),
    "reseeds": Defect(
        "seeds torch's global generator", "leaves-global-randomness", SeedsTorch()
    ),
    "shared-noise": Defect(
        "draws one noise for the whole batch",
        "noise-of-its-own",
        variant(noise=all_alike),
    ),
    "more-is-less": Defect(
        "shares its steps out among restarts that are all the same",
        "more-steps-never-hurt",
        shares_its_steps_out,
    ),
    "in-place": Defect(
        "writes into the inputs it was given", "inputs-untouched", works_in_place
    ),
    "peeks": Defect(
        "declares decisions, and looks at logits", "access-respected", Peeks()
    ),
    "budget": Defect(
        "asks twice as often as its budget allows",
        "budget-respected",
        ignores_its_budget,
    ),
    "zero-one": Defect(
        "clips to [0, 1] whatever the bounds (foolbox's HopSkipJump)",
        "other-bounds",
        variant(clip=lambda p, b: p.clamp(0, 1)),
    ),
    "three-classes": Defect(
        "divides by the third-highest logit",
        "two-classes",
        variant(margin=over_third),
    ),
    "one-class": Defect(
        "goes for the class that scores second at the input",
        "nearest-class",
        goes_for_one_class,
    ),
    "untargeted": Defect(
        "tests a targeted attack for misclassification",
        "targets",
        forgets_its_targets,
    ),
    "goes-on": Defect(
        "perturbs what is misclassified already",
        "already-adversarial",
        goes_on_from_adversarials,
    ),
    "empty": Defect(
        "returns a sample for an empty batch", "empty-batch", adds_a_sample
    ),
    "float32": Defect("computes in single precision", "float64", single_precision),
    "one-framework": Defect(
        "uses NumPy's tensors directly", "any-framework", OnlyNumPy()
    ),
}
