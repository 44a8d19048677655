"""The exact smallest adversarial of a small ReLU network, or an interval around it."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from robustkit.active_tests.lowering import as_network
from robustkit.active_tests.networks import ReluNetwork
from robustkit.active_tests.programs import (
    Ball,
    Goal,
    Interval,
    interval_bounds,
    lead_bound,
    solve,
    tightened,
)
from robustkit.active_tests.regions import polyhedron, size
from robustkit.active_tests.scores import flat_model
from robustkit.engine.criteria import Criterion, Misclassification, Targeted
from robustkit.errors import BadInput, suggestion
from robustkit.evaluation.opening import model_and_data
from robustkit.evaluation.single import run
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.norms import Norm, get_norm
from robustkit.numerics.tensors import Array, as_tensor
from robustkit.presets import auto

__all__ = ["EXACT_NORMS", "ExactResult", "Status", "exact_distance", "exact_distances"]

EXACT_NORMS = ("l0", "l1", "linf")
Status: TypeAlias = Literal["exact", "interval", "none", "misclassified"]

_CLOSE = 1e-5
_FAR = 1e-6
"""A witness is at most this share of the box farther than the boundary."""


@dataclass(frozen=True)
class ExactResult:
    """Between which sizes the smallest adversarial perturbation lies.

    Attributes:
        lower: No adversarial is nearer, in norm units, up to the solver's tolerances
            (a millionth); infinite where there is none.
        upper: The distance of the witness; infinite where none is known.
        witness: An adversarial at that distance (in the shape of the input, float64),
            whose margin was found below zero by a forward pass; or None.
        status: "exact": the two bounds agree to 1e-5 of their size (in L0, are equal);
            "interval": time was up, or ties are all there is; "none": there is no
            adversarial in the box; "misclassified": the input itself is one.
        seconds: How long it took.
    """

    lower: float
    upper: float
    witness: Array | None
    status: Status
    seconds: float


def exact_distance(
    network: Any,
    x: Any,
    y: int,
    norm: str | Norm = "linf",
    *,
    target: int | None = None,
    bounds: Bounds | tuple[float, float] = (0.0, 1.0),
    timeout: float = 60.0,
    seed: int = 0,
) -> ExactResult:
    """The exact distance of the nearest adversarial of one input, by integer programs.

    An attack (`auto`) finds a first upper bound, and a linear program on its linear
    piece of the network the least distance there. Within that ball, bounds before the
    ReLUs are tightened: for the first layer they are the best there are, for later
    ones by linear programs. Then one mixed-integer program per class, those surely
    farther than the best so far left out. The boundary counts as adversarial for
    `lower`, and the witness lies just beyond it.

    Args:
        network: What `as_network` accepts: a torch Sequential of affine layers and
            ReLUs, pairs of weights and bias, or a `ReluNetwork`.
        x: One input (...), within the bounds.
        y: Its label.
        norm: "linf", "l1" or "l0".
        target: The class to be reached; None: any but the label.
        bounds: Of valid inputs.
        timeout: Seconds after which to return what is known. The attack at the start is
            not cut short.
        seed: Of the attack.

    Source:
        Tjeng, Xiao, Tedrake: Evaluating Robustness of Neural Networks with Mixed
        Integer Programming, ICLR 2019.

    Raises:
        BadInput: No such network, norm, label or input.

    >>> layers = [(np.array([[1.0, 1.0], [1.0, -1.0]]), np.zeros(2)),
    ...           (np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0.0, 0.3]))]
    >>> result = exact_distance(layers, np.array([0.6, 0.2]), 0, "linf")
    >>> result.status, round(result.upper, 5)
    ('exact', 0.05)
    """
    started = time.monotonic()
    name = repr(get_norm(norm))
    if name not in EXACT_NORMS:
        raise BadInput(
            f"exact distances are not computed in the norm {name}; "
            f"{suggestion(name, EXACT_NORMS)}"
        )
    if not timeout > 0:
        raise BadInput(f"the timeout must be above 0 seconds; got {timeout}")
    box = bounds if isinstance(bounds, Bounds) else Bounds(*bounds)
    point = np.array(x, dtype=np.float64)
    lowered = as_network(network, point.shape)
    _check(point, y, target, box, len(lowered.layers[-1][1]))
    search = _Search(lowered, point.reshape(-1), y, target, name, box)
    search.deadline = started + timeout
    search.solve(seed)
    seconds = time.monotonic() - started
    witness = search.witness
    shaped = None if witness is None else witness.reshape(point.shape)
    return ExactResult(search.lower, search.upper, shaped, search.status(), seconds)


def exact_distances(
    model: Any,
    data: Any,
    *,
    norm: str | Norm = "linf",
    samples: int | None = None,
    target: int | None = None,
    bounds: Bounds | tuple[float, float] | None = None,
    timeout: float = 60.0,
    seed: int = 0,
) -> Iterator[tuple[int, ExactResult]]:
    """Labels and exact distances, sample by sample, as `exact_distance` finds them.

    Args:
        model: Anything `load_model` or `as_model` accepts that is such a network.
        data: Anything `load_data` or `as_data` accepts.
        norm: "linf", "l1" or "l0".
        samples: So many of the data; None: all.
        target: The class to be reached; None: any but the label.
        bounds: Of valid inputs; None: the model's own, else (0, 1).
        timeout: Seconds for each sample.
        seed: Of the attack.

    Raises:
        BadInput: Something given is not as described.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 2)).eval()
    >>> data = np.random.default_rng(0).random((3, 2)), np.array([0, 1, 0])
    >>> [label for label, result in exact_distances(net, data)]
    [0, 1, 0]
    """
    box = Bounds(*bounds) if isinstance(bounds, tuple | list) else bounds
    adapted, dataset = model_and_data(model, data, box, samples)
    for x, y in dataset.batches(1):
        result = exact_distance(
            adapted,
            x[0],
            int(y[0]),
            norm,
            target=target,
            bounds=adapted.bounds,
            timeout=timeout,
            seed=seed,
        )
        yield int(y[0]), result


def _check(x: Array, y: int, target: int | None, box: Bounds, classes: int) -> None:
    for role, label in (("label", y), ("target", target)):
        if label is not None and not 0 <= label < classes:
            raise BadInput(
                f"the network has {classes} classes, so the {role} must be 0 to "
                f"{classes - 1}; got {label}"
            )
    if target == y:
        raise BadInput(f"the target must differ from the label; both are {y}")
    if not np.isfinite(x).all() or x.min() < box.lower or x.max() > box.upper:
        raise BadInput(
            f"x must lie within the bounds [{box.lower:g}, {box.upper:g}]; it has "
            f"values from {x.min():.6g} to {x.max():.6g}"
        )


class _Search:
    """What is known of one input, from both sides."""

    def __init__(
        self,
        network: ReluNetwork,
        x: Array,
        y: int,
        target: int | None,
        norm: str,
        box: Bounds,
    ) -> None:
        self.network, self.x, self.norm, self.box = network, x, norm, box
        self.y, self.target = y, target
        self.lower, self.upper = 0.0, np.inf
        self.witness: Array | None = None
        self.deadline = np.inf
        classes = range(len(network.layers[-1][1]))
        self.goals: list[Goal]
        if target is None:
            self.goals = [[(j, y)] for j in classes if j != y]
        else:
            self.goals = [[(target, j) for j in classes if j != target]]

    def status(self) -> Status:
        if self.upper == 0:
            return "misclassified"
        if self.lower == np.inf:
            return "none"
        if self.upper == np.inf or self.upper - self.lower > _CLOSE * self.upper:
            return "interval"
        return "exact"

    def solve(self, seed: int) -> None:
        """Close in from both sides until they meet or time is up."""
        if self._offer(self.x):
            return
        self._attack(seed)
        floors = [self._proven(goal) for goal in self.goals]
        hidden, radius = self._bounds(), self.upper
        pending = set(range(len(self.goals)))
        for at, goal in enumerate(self.goals):
            seconds = self._left() / 4
            floor, _ = self._ask(goal, hidden, relaxed=True, seconds=seconds)
            floors[at] = max(floors[at], floor)
        while pending and self._left() > 0:
            # Shares of the time, so that no goal keeps the others from an answer.
            turns = sorted(pending, key=lambda at: floors[at])
            for turn, at in enumerate(turns):
                share = self._left() / (len(turns) - turn)
                if floors[at] >= self.upper:
                    pending.discard(at)
                    continue
                if self.upper < 0.98 * radius:
                    hidden, radius = self._bounds(), self.upper
                floor, finished = self._ask(
                    self.goals[at], hidden, relaxed=False, seconds=share
                )
                floors[at] = max(floors[at], floor)
                if finished:
                    pending.discard(at)
        self.lower = min(floors) if min(floors) == np.inf else self._below(min(floors))

    def _proven(self, goal: Goal) -> float:
        """The radius up to which intervals alone rule a goal out: not much, at once."""

        def safe(radius: float) -> bool:
            low, high = self.box.lower - self.x, self.box.upper - self.x
            ball = Ball(self.norm, low, high, radius)
            return lead_bound(self.network, self.x, ball, goal) < 0

        if self.norm == "l0":
            count = 0
            while count < min(self.upper, len(self.x)) and safe(count):
                count += 1
            return float(count)
        near, far = 0.0, min(self.upper, self.box.width * len(self.x))
        for _ in range(20):
            middle = (near + far) / 2
            near, far = (middle, far) if safe(middle) else (near, middle)
        return near

    def _below(self, floor: float) -> float:
        """A lower bound that is no more than the upper one."""
        if self.norm == "l0":
            # Not minus zero.
            floor = max(float(np.ceil(floor - 1e-3)), 0.0)
        return min(floor, self.upper)

    def _left(self) -> float:
        return self.deadline - time.monotonic()

    def _ball(self) -> Ball:
        low, high = self.box.lower - self.x, self.box.upper - self.x
        # In L0 only fewer features are of interest.
        radius = self.upper - 1 if self.norm == "l0" else self.upper * (1 + 1e-7)
        return Ball(self.norm, low, high, radius)

    def _bounds(self) -> list[Interval]:
        """Bounds before the ReLUs in the present ball."""
        ball = self._ball()
        hidden = interval_bounds(self.network, self.x, ball)
        seconds = self._left() / 4
        return tightened(self.network, self.x, ball, hidden, None, seconds)

    def _ask(
        self, goal: Goal, hidden: Sequence[Interval], *, relaxed: bool, seconds: float
    ) -> tuple[float, bool]:
        """A lower bound for one goal, and whether its program was solved to the end.

        What is found on the way is kept. No bound says more than that nothing is
        nearer than the present best.
        """
        ball = self._ball()
        if self.norm == "l0" and ball.radius < 1:
            return self.upper, True
        if not relaxed:
            hidden = tightened(self.network, self.x, ball, hidden, goal, seconds / 3)
            seconds -= seconds / 3
        answer = solve(
            self.network, self.x, ball, hidden, goal, relaxed=relaxed, seconds=seconds
        )
        best = self.upper
        if not relaxed and answer.delta is not None:
            self._descend(self.x + answer.delta, goal, answer.active)
        return min(answer.floor, best), answer.finished

    def _attack(self, seed: int) -> None:
        """A first witness."""
        model = flat_model(self.network, self.box, "network")
        criterion: Criterion = Misclassification(as_tensor(np.array([self.y])))
        if self.target is not None:
            criterion = Targeted(as_tensor(np.array([self.target])))
        found = run(
            auto(self.norm), model, self.x[None], criterion, norm=self.norm, seed=seed
        )
        if not found.found[0]:
            return
        point = found.x_adversarial[0]
        self._offer(point)
        scores = self.network.logits(point[None])[0]
        winner = int(np.argmax(scores))
        goal = next(g for g in self.goals if g[0][0] == winner)
        self._descend(point, goal, [b > 0 for b in self._before(point)])

    def _before(self, point: Array) -> list[Array]:
        """What goes into the ReLUs (neurons,) of each hidden layer at a point."""
        values: list[Array] = []
        for weight, bias in self.network.layers[:-1]:
            given = np.maximum(values[-1], 0) if values else point
            values.append(weight @ given + bias)
        return values

    def _descend(self, point: Array, goal: Goal, pattern: list[Array]) -> None:
        """From one linear piece of the network to the next, while that is nearer.

        The best point of a piece often lies where some of its ReLUs are about to turn.
        """
        best = self.upper
        self._polish(point, goal, pattern)
        while self.upper < best and self.witness is not None and self._left() > 0:
            best, point = self.upper, self.witness
            before = self._before(point)
            for layer, values in enumerate(before):
                for unit in np.flatnonzero(np.abs(values) < 1e-6):
                    other = [value > 0 for value in before]
                    other[layer][unit] ^= True
                    self._polish(point, goal, other)

    def _polish(self, point: Array, goal: Goal, pattern: list[Array]) -> None:
        """The nearest adversarial on one linear piece of the network, if verified.

        A little beyond the boundary, by more and more until the margin is below zero.
        """
        weight, bias = np.eye(len(self.x)), np.zeros(len(self.x))
        slopes, offsets = [], []
        for (inner, shift), on in zip(self.network.layers[:-1], pattern, strict=True):
            weight, bias = inner @ weight, inner @ bias + shift
            side = np.where(on, -1.0, 1.0)
            slopes.append(side[:, None] * weight)
            offsets.append(side * bias)
            weight, bias = weight * on[:, None], bias * on
        inner, shift = self.network.layers[-1]
        weight, bias = inner @ weight, inner @ bias + shift
        winners, losers = np.array(goal).T
        lead, start = weight[losers] - weight[winners], bias[losers] - bias[winners]
        steep = np.linalg.norm(lead, axis=1)
        allowed = np.ones(len(self.x), bool)
        if self.norm == "l0":
            # The features are chosen; how they move is a linear program.
            allowed = np.abs(point - self.x) > 1e-9
        for beyond in (1e-10, 1e-9, 1e-8, 1e-7, _FAR):
            rows = np.vstack([*slopes, lead])[:, allowed]
            levels = (
                np.concatenate([*offsets, start + beyond * steep * self.box.width])
                + np.vstack([*slopes, lead])[:, ~allowed] @ self.x[~allowed]
            )
            inside = "l1" if self.norm == "l0" else self.norm
            near = polyhedron(rows, levels).nearest(self.x[allowed], inside, self.box)
            if near is None:
                return
            full = self.x.copy()
            full[allowed] = near
            if self._offer(full):
                return

    def _offer(self, point: Array) -> bool:
        """Take a point as the witness if it is adversarial and nearer; whether it is.

        By a forward pass in double precision.
        """
        scores = self.network.logits(point[None])[0]
        other = self.y if self.target is None else self.target
        rest = np.delete(scores, other).max()
        margin = scores[other] - rest if self.target is None else rest - scores[other]
        if not margin < 0:
            return False
        distance = size(point - self.x, self.norm)
        if distance < self.upper:
            self.upper, self.witness = distance, point
        return True
