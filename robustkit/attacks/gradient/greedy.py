"""Few features, each as far as the box lets it go."""

from dataclasses import dataclass
from typing import ClassVar

from robustkit.engine.attack import Attack
from robustkit.engine.problem import GradientAnswer, Problem
from robustkit.models.base import Access
from robustkit.numerics.norms import tamed
from robustkit.numerics.schedules import cosine
from robustkit.numerics.tensors import (
    Batch,
    PerSample,
    expand,
    full,
    inner_product,
    maximum,
    minimum,
    where,
)
from robustkit.numerics.thresholds import nonzero

__all__ = ["Greedy", "exchange"]

# Weight of the past in the average of the gradients.
_MOMENTUM = 0.5
# At least so much does the number of changes grow until an adversarial was seen.
_GROWTH = 1.3


@dataclass(frozen=True)
class State:
    """Where the search stands.

    Attributes:
        delta: (n, ...) perturbation, in input units.
        normal: (n, ...) average of the gradients' directions; zero before the first.
        radius: (n,) how many features (or pixels) it may change.
    """

    delta: Batch
    normal: Batch
    radius: PerSample


@dataclass(frozen=True)
class Greedy(Attack[State]):
    """Change the features that the gradient says lower the margin most; for L0.

    Each feature counts for what it contributes to the linearised margin: those changed
    for all of their change, the others for a `stepsize` of what the box allows, so
    that fewer and fewer are exchanged. The slope is an average over the last steps, or
    the same features would come and go. As many of the best stay as the ball allows,
    each moved as far as the box lets it go. The ball shrinks below an adversarial by
    the features that the margin has to spare and grows by at least one where there is
    none. Starts from the best adversarial known, else from the original; then the ball
    is first as large as the linearised margin needs.

    Args:
        steps: How many; 1 forward and 1 backward pass each.
        stepsize: What an unchanged feature counts for at first; it falls to 0.02.
        gamma: First change of the radius, as a share of it; it falls to 0.002.

    Source:
        Kin to Papernot et al., The Limitations of Deep Learning in Adversarial
        Settings, EuroS&P 2016 (JSMA), with many features at once, and with features
        that come back.

    >>> import robustkit as rk, torch
    >>> from robustkit.attacks.gradient.greedy import Greedy
    >>> model = torch.nn.Linear(2, 2, bias=False).eval()
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> x, y = torch.tensor([[0.8, 0.4]]), torch.tensor([0])
    >>> result = rk.run(Greedy(steps=5), model, x, y, norm="l0")
    >>> float(result.distance[0])
    1.0
    """

    access: ClassVar[Access] = Access.GRADIENT
    norms: ClassVar[frozenset[str]] = frozenset({"l0"})
    cost: ClassVar[str] = "1 forward + 1 backward"
    source: ClassVar[str] = "this project; kin to Papernot et al., EuroS&P 2016"

    steps: int = 50
    stepsize: float = 0.5
    gamma: float = 0.2

    def init(self, p: Problem) -> State:
        best = p.ledger.best - p.x
        radius = p.norm.scale_down(p.norm(best), 0.95)
        delta = p.norm.project_box(best, radius, p.low, p.high)
        return State(delta, p.x.zeros_like(), radius)

    def step(self, p: Problem, s: State, t: int) -> State:
        a = p.gradient(p.place(s.delta))
        delta, normal, radius = exchange(
            p,
            a,
            a.gradient,
            s.normal if t > 0 else None,
            s.radius,
            cosine(t / self.steps, self.stepsize, 0.02),
            cosine(t / self.steps, self.gamma, 0.002),
        )
        return State(delta, normal, radius)


def exchange(
    p: Problem,
    a: GradientAnswer,
    gradient: Batch,
    before: Batch | None,
    radius: PerSample,
    stepsize: float,
    gamma: float,
) -> tuple[Batch, Batch, PerSample]:
    """One step of `Greedy`.

    Args:
        p: The problem.
        a: The last answer.
        gradient: (n, ...) of the margin there.
        before: (n, ...) average of the gradients' directions so far; None: there is
            none.
        radius: (n,) how many features were allowed.
        stepsize: As in `Greedy`, at this time.
        gamma: The same.

    Returns:
        (n, ...) the perturbation, (n, ...) the average, and (n,) how many features are
        allowed now.
    """
    direction, steep, _ = tamed(gradient)
    normal = direction / expand(nonzero(steep), direction)
    if before is not None:
        normal = _MOMENTUM * before + (1 - _MOMENTUM) * normal
    within = minimum(radius, p.ledger.distance)
    needed = a.distance - p.norm.slack(a.margin, gradient, a.delta)
    shrunk = p.norm.shrink(within, needed, gamma)
    grown = minimum(p.norm.scale_up(radius, 1 + gamma), p.ledger.distance)
    share = full(p.x, stepsize)
    if not p.ledger.all_found:
        found, rest = p.ledger.found, a.margin - inner_product(gradient, a.delta)
        whole = p.norm(p.norm.project_halfspace(gradient, rest, p.low, p.high))
        reach = maximum(whole, p.norm.scale_up(radius, _GROWTH))
        grown = where(found, grown, reach)
        share = where(found, share, 1.0)
    radius = minimum(where(a.adversarial, shrunk, grown), p.largest)
    corner = where(normal > 0, p.low, p.high)
    moved = a.delta + expand(share, a.delta) * (corner - a.delta)
    gain = maximum(-normal * moved, 0.0)
    # The ball keeps the largest squares.
    kept = p.norm.project(gain.sqrt(), radius) > 0
    return where(kept, corner, 0.0), normal, radius
