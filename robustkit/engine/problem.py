"""What an attack may see of a model: counted questions about counted samples."""

import functools
import math
from dataclasses import dataclass
from typing import Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np

from robustkit.arguments import as_seed
from robustkit.engine.criteria import Criterion
from robustkit.engine.ledger import Ledger
from robustkit.engine.losses import LOSSES, Loss, get_loss
from robustkit.errors import BadInput
from robustkit.models.base import Access, Model, NoGradient, PullBack
from robustkit.numerics.fused import compiles
from robustkit.numerics.norms import Norm
from robustkit.numerics.random import Rng, sample_keys
from robustkit.numerics.steps import descended, placed
from robustkit.numerics.tensors import (
    Array,
    Batch,
    Mask,
    PerSample,
    Tensor,
    any_nan,
    any_true,
    finite_or_zero,
    like,
    maximum,
    minus,
    minus_rows,
    plus,
    section,
    take,
    to_numpy,
    together,
    where,
)

__all__ = ["Answer", "GradientAnswer", "Head", "Listener", "Problem"]

T = TypeVar("T")


class Head(Protocol):
    """A linear last layer of each sample's own.

    A dataclass with its per-sample tensors in fields, so that samples can be dropped.
    """

    def __call__(self, outputs: Tensor) -> Tensor:
        """From a model's outputs (n, ...) to logits (n, classes)."""

    def pull_back(self, slopes: Tensor) -> Tensor:
        """From d loss / d logits (n, classes) to d loss / d outputs (n, ...)."""


@runtime_checkable
class Listener(Protocol):
    """Hears every question and its answer; changes nothing, and asks nothing."""

    def before_step(self, p: "Problem", step: int) -> None:
        """Called with the samples that will take the step."""

    def after_question(
        self, p: "Problem", margin: Array, distance: Array, rows: Array | None
    ) -> None:
        """Called with the answers to a question.

        Args:
            p: The problem.
            margin: (m,) of the points asked about; of several at once, the lowest.
            distance: (m,) from the originals, in norm units.
            rows: (m,) places of the samples in the problem, in ascending order; None:
                all of them.
        """

    def after_gradient(
        self,
        p: "Problem",
        point: Batch,
        loss: PerSample | None,
        gradient: Batch,
        rows: Array | None,
    ) -> None:
        """Called with a gradient.

        Args:
            p: The problem.
            point: (m, ...) where it was asked for.
            loss: (m,) whose gradient it is; None: not known.
            gradient: (m, ...) that was given.
            rows: As for `after_question`.
        """


_Samples: TypeAlias = tuple[
    Batch,
    Batch,
    Batch,
    PerSample,
    Criterion,
    Head | None,
    Array | None,
    Batch | None,
]
"""All that a problem holds of its samples, but for the ledger."""

# How many probes the model is shown at once, if the batch has no more rows itself.
_AT_ONCE = 256
# What a margin of minus infinity counts as, such as that of the logarithm of a label's
# probability that vanishes: infinity less infinity would be no number.
_LOWEST = -1e30


@dataclass(frozen=True)
class Answer:
    """What the model said about one point per sample.

    Attributes:
        point: (n, ...) the input asked about, clipped to the bounds and as shown.
        original: (n, ...) what it is a perturbation of.
        distance: (n,) its size, in norm units.
        adversarial: (n,) whether the margin is below zero.
        margin: (n,) of the criterion, in units of the logits; infinite where the
            model's answer is not a number, and never minus infinity.
    """

    point: Batch
    original: Batch
    distance: PerSample
    adversarial: Mask
    margin: PerSample

    @functools.cached_property
    def delta(self) -> Batch:
        """(n, ...) the perturbation; computed once somebody asks."""
        return self.point - self.original


@dataclass(frozen=True)
class GradientAnswer(Answer):
    """An answer with a gradient.

    Attributes:
        given: (n, ...) the gradient of the loss with regard to the input, as the model
            gave it.
    """

    given: Batch

    @functools.cached_property
    def gradient(self) -> Batch:
        """(n, ...) what was given, with zeros in place of what is not finite.

        So that one broken feature does not spoil a sample for good.
        """
        return finite_or_zero(self.given)


class Problem:
    """Samples to be made adversarial; only those still being worked on.

    Every question clips its point to the bounds and to what the model is shown of it
    (`Model.shown`), is billed to the samples it was asked for, and its point is kept if
    it is the nearest adversarial so far.

    Args:
        model: To be asked.
        x: (n, ...) original inputs, within the model's bounds.
        criterion: Of n samples.
        norm: In which distances are measured.
        seed: Of all randomness.
        starts: Optional (n, ...) points to start from, adversarial or not.
        pool: Optional (m, ...) other inputs that attacks may walk towards.
        pool_classes: (m,) integers, of the inputs in the pool; None: not known.
        keys: The samples' random keys (n,) uint64; None: made from their content.
        head: Of n samples: makes the logits of the model's outputs; None: they are.

    Attributes:
        x: (n, ...) original inputs.
        norm: In which distances are measured.
        bounds: Of valid inputs.
        low: (n, ...) the least a perturbation may be; at most zero.
        high: (n, ...) the most it may be; at least zero.
        largest: (n,) the size of the largest perturbation, in norm units.
        ledger: Best points and counts of the samples in `x`.
    """

    def __init__(
        self,
        model: Model,
        x: Batch,
        criterion: Criterion,
        norm: Norm,
        *,
        seed: int = 0,
        starts: Batch | None = None,
        pool: Batch | None = None,
        pool_classes: Array | None = None,
        keys: Array | None = None,
        head: Head | None = None,
    ) -> None:
        if not hasattr(criterion, "__dataclass_fields__"):
            raise BadInput(
                f"the criterion {type(criterion).__name__} must be a dataclass with "
                "its per-sample tensors in fields, so that samples can be dropped"
            )
        norm.check(x)
        self.x, self.norm, self.bounds = x, norm, model.bounds
        self.starts, self.pool, self.pool_classes = starts, pool, pool_classes
        self.low, self.high = self.bounds.lower - x, self.bounds.upper - x
        self.largest = norm(maximum(-self.low, self.high))
        self.ledger = Ledger(x, passes=model.passes_per_question)
        self._model, self._criterion = model, criterion
        self._access = model.access
        self._seed = as_seed(seed)
        self._keys = keys
        # A valid point that the last step led to, its perturbation (None: compute it)
        # and its size.
        self._arrived: tuple[Batch, Batch | None, PerSample] | None = None
        # What was clipped last.
        self._inside: Tensor | None = None
        self._head = head
        # Of all samples, also those that will have left.
        self._everyone = self._present()
        self._listeners: tuple[Listener, ...] = ()

    @property
    def size(self) -> int:
        """How many samples are being worked on."""
        return int(self.x.shape[0])

    @property
    def model(self) -> Model:
        """The model, for the loop; an attack asks questions instead."""
        return self._model

    @property
    def criterion(self) -> Criterion:
        """Of the samples being worked on."""
        return self._criterion

    def limit(self, access: Access, budget: int | None) -> None:
        """From now on show no more than `access`, and reward `budget` questions."""
        self._access = min(access, self._model.access)
        self.ledger.budget = budget

    def tell(self, listeners: tuple[Listener, ...]) -> None:
        """From now on tell them of every question."""
        self._listeners = listeners

    def rng(self, step: int) -> Rng:
        """The random numbers of a step (-1 for `init`), the same in any batch."""
        if self._keys is None:
            self._keys = sample_keys(to_numpy(self.x))
        return Rng(self._seed, self._keys, step, self.x)

    def decide(
        self,
        x: Batch,
        asked: Mask | None = None,
        rows: Array | None = None,
        *,
        inside: bool = False,
    ) -> Mask:
        """Ask for decisions: one forward pass for each sample asked.

        Afterwards the memory of the points is the caller's again.

        Args:
            x: (n, ...) points; with `rows`, (m, ...).
            asked: (n,) which samples to ask about; None: all.
            rows: In place of `asked`, (m,) the samples whom the points belong to, all
                different and in ascending order.
            inside: Whether the points are known to be within the bounds, so that
                nothing has to be clipped.

        Returns:
            (n,) whether the point is adversarial; False where not asked. With `rows`,
            (m,).
        """
        if rows is not None:
            return like(self.x, self._decided(x, rows, inside=inside))
        rows = None if asked is None else np.flatnonzero(to_numpy(asked))
        if rows is None or len(rows) == self.size:
            return like(self.x, self._decided(x, None, inside=inside))
        passed = np.zeros(self.size, dtype=bool)
        if len(rows):
            passed[rows] = self._decided(take(x, rows), rows, inside=inside)
        return like(self.x, passed)

    def score(self, x: Batch) -> Answer:
        """Ask for the margin: one forward pass per sample.

        Raises:
            BadInput: The attack declared less access than this.
        """
        self._allow(Access.SCORE)
        return self._scored(x, None)[1]

    def probe(
        self,
        x: Tensor,
        asked: Mask | None = None,
        rows: Array | None = None,
        *,
        inside: bool = False,
    ) -> Mask:
        """Ask for decisions about several points per sample, the first column first.

        Args:
            x: (m, k, ...) points, k for each sample.
            asked: (m, k) which of them to ask about; None: all. Each is one forward
                pass. (`ledger.left()` says how many answers still count.)
            rows: (m,) the samples whom the points belong to, all different; None: all.
            inside: Whether those asked about are known to be within the bounds.

        Returns:
            (m, k) whether the point is adversarial; False where not asked.
        """
        return self._probed(x, asked, Access.DECISION, rows, inside=inside)[0]

    def clip(self, x: Tensor) -> Tensor:
        """Points (..., *shape) limited to the bounds, in the memory of `x`.

        A question about what comes out of the last such call clips no second time.
        """
        self._inside = self.bounds.clip(x, reuse=True)
        return self._inside

    def probe_scores(self, x: Tensor, asked: Mask | None = None) -> Tensor:
        """Ask for the margins of several points per sample, the first column first.

        Args:
            x: (n, k, ...) points, k for each sample.
            asked: (n, k) which of them to ask about; None: all. Each is one forward
                pass.

        Returns:
            (n, k) margins, in units of the logits; infinite where not asked, or where
            the model's answer is not a number.

        Raises:
            BadInput: The attack declared less access than this.
        """
        return self._probed(x, asked, Access.SCORE, None)[1]

    def gradient(self, x: Batch, loss: str | Loss = "margin") -> GradientAnswer:
        """Ask for a gradient: one forward and one backward pass per sample.

        A model that estimates it takes more forward passes instead, which are billed
        after that of the answer (`Model.passes_per_gradient`).

        Args:
            x: (n, ...) points.
            loss: Whose gradient; a name of `robustkit.engine.losses` or a function.

        Raises:
            BadInput: The attack declared less access than this, or no such loss.
            NoGradient: The model has no gradients.
        """
        self._allow(Access.GRADIENT)
        loss = loss if callable(loss) else get_loss(loss)
        # What is kept for longer is memory that the step cannot take.
        arrived, self._arrived = self._arrived, None
        inside = arrived is not None and x is arrived[0]
        point = self._model.shown(x if inside else self.bounds.clip(x))
        with self._model.session():
            logits, pull_back = self._linearised(point, None)
            value, slopes = loss(self._criterion, logits)
            gradient = pull_back(slopes)
        # So that the memory of the forward pass serves the rest of the step.
        del pull_back
        is_margin = loss is LOSSES["margin"]
        margin = value if is_margin else self._criterion.margin(logits)
        extra = self._model.passes_per_gradient
        known = arrived if inside and point is x else None
        answer = self._recorded(point, margin, backward=extra == 0, known=known)
        if extra:
            self.ledger.forwards += extra
        with_gradient = GradientAnswer(
            answer.point,
            answer.original,
            answer.distance,
            answer.adversarial,
            answer.margin,
            gradient,
        )
        vars(with_gradient).update(vars(answer))
        for listener in self._listeners:
            listener.after_gradient(self, point, value, with_gradient.gradient, None)
        return with_gradient

    def place(self, delta: Batch) -> Batch:
        """The valid points (n, ...) that perturbations (n, ...) lead to. Asks nothing.

        For the next gradient: what is known of them is not computed again, so nobody
        may write into them until then.
        """
        self._arrived = placed(self.norm, self.bounds, self.x, delta)
        return self._arrived[0]

    def descend(
        self,
        here: GradientAnswer,
        radius: PerSample,
        share: PerSample | float,
    ) -> Batch:
        """The points (n, ...) one step down the gradient, in ball and bounds again.

        The step is `Norm.stride`, the way back `Norm.project_box`. Asks nothing.

        Args:
            here: Where the step starts.
            radius: (n,) of the ball around the originals, in norm units.
            share: How long the step is, as a share of the ball; (n,) or one for all.
        """
        if not compiles():
            norm, bounds = self.norm, self.bounds
            stride = norm.stride(here.gradient, radius, share, here.point, bounds)
            delta = minus(here.delta, stride, reuse=True)
            delta = norm.project_loosely(delta, radius, self.low, self.high)
            point = bounds.clip(plus(delta, self.x, reuse=True), reuse=True)
            delta = point - self.x
            self._arrived = point, delta, norm(delta)
            return point
        point, distance = descended(
            self.norm,
            self.bounds,
            self.x,
            self.low,
            self.high,
            here.point,
            here.given,
            radius,
            share,
        )
        self._arrived = point, None, distance
        return point

    def logits(self, x: Batch, rows: Array | None = None) -> Tensor:
        """Ask for the scores themselves: one forward pass per row.

        This and `linearise` are for attacks that bring a loss of their own, such as
        those of other packages.

        Args:
            x: (m, ...) points.
            rows: (m,) different samples, whom the points belong to; None: all.

        Raises:
            BadInput: The attack declared less access than this.
        """
        self._allow(Access.SCORE)
        return self._scored(x, rows)[0]

    def linearise(self, x: Batch, rows: Array | None = None) -> tuple[Tensor, PullBack]:
        """Ask for scores by one forward pass, and for the way back to the input.

        Each call of the returned function is one backward pass, billed when it is made.

        Args:
            x: (m, ...) points.
            rows: (m,) different samples, whom the points belong to; None: all.

        Raises:
            BadInput: The attack declared less access than this.
            NoGradient: The model has no gradients.
        """
        self._allow(Access.GRADIENT)
        point = self._model.shown(self.bounds.clip(x))
        with self._model.session():
            logits, pull_back = self._linearised(point, rows)
        self._recorded(point, self._criterion_of(rows).margin(logits), rows=rows)
        asked = slice(None) if rows is None else rows

        def billed(slopes: Tensor) -> Batch:
            if self._model.passes_per_gradient:
                self.ledger.forwards[asked] += self._model.passes_per_gradient
            else:
                self.ledger.backwards[asked] += self.ledger.passes
            with self._model.session():
                gradient = pull_back(slopes)
            for listener in self._listeners:
                listener.after_gradient(self, point, None, gradient, rows)
            return gradient

        return logits, billed

    def drop(self, finished: Array) -> None:
        """Freeze the samples where `finished` (n,) holds and go on with the others."""
        kept, gone = np.flatnonzero(~finished), np.flatnonzero(finished)
        self.ledger.retire(gone, kept)
        self._become(take(self._present(), kept))

    def reopen(self, rows: Array) -> None:
        """Go on with the samples `rows` (see `Ledger.rows`) that have left.

        All others leave, if they have not yet.
        """
        self.ledger.reopen(rows)
        self._become(take(self._everyone, rows))

    def _present(self) -> _Samples:
        box = self.low, self.high, self.largest
        return (self.x, *box, self._criterion, self._head, self._keys, self.starts)

    def _become(self, samples: _Samples) -> None:
        """Go on with other samples."""
        self.x, self.low, self.high, self.largest = samples[:4]
        self._criterion, self._head, self._keys, self.starts = samples[4:]

    def _allow(self, needed: Access) -> None:
        if needed <= self._access:
            return
        if needed > self._model.access and needed is Access.GRADIENT:
            raise NoGradient(
                f"the model '{self._model.name}' gives no gradients; use a score- or "
                "decision-based attack"
            )
        raise BadInput(
            f"a question for {needed.name.lower()} access was asked where only "
            f"{self._access.name.lower()} access is given; an attack may ask for no "
            "more than the access it declares"
        )

    def _scored(self, x: Batch, rows: Array | None) -> tuple[Tensor, Answer]:
        point = self._shown(x)
        with self._model.session():
            logits = self._logits(point, rows)
            margin = self._criterion_of(rows).margin(logits)
        return logits, self._recorded(point, margin, rows=rows)

    def _decided(self, x: Batch, rows: Array | None, *, inside: bool) -> Array:
        """(m,) whether each point is adversarial; distances only where it matters."""
        self._allow(Access.DECISION)
        if rows is not None and len(rows) == 0:
            return np.zeros(0, dtype=bool)
        point = self._model.shown(x) if inside else self._shown(x)
        with self._model.session():
            margin = to_numpy(
                self._criterion_of(rows).margin(self._logits(point, rows))
            )
        if any_nan(margin):
            unknown = np.isnan(margin)
            margin = np.where(unknown, math.inf, margin)
            self.ledger.unknown[slice(None) if rows is None else rows] += unknown
        adversarial = np.asarray(margin < 0)
        wanted = np.flatnonzero(adversarial | bool(self._listeners))
        distance = self._distances(point, wanted, rows)
        self.ledger.record(point, distance, adversarial, rows, decision=True)
        for listener in self._listeners:
            listener.after_question(self, margin, distance, rows)
        return adversarial

    def _distances(self, points: Batch, wanted: Array, rows: Array | None) -> Array:
        """(m,) of points (m, ...) of the samples `rows`; infinite where not wanted."""
        distance = np.full(points.shape[0], math.inf)
        if len(wanted):
            whose = wanted if rows is None else rows[wanted]
            delta = minus_rows(points, wanted, self.x, whose)
            distance[wanted] = to_numpy(self.norm(delta))
        return distance

    def _probed(
        self,
        x: Tensor,
        asked: Mask | None,
        access: Access,
        rows: Array | None,
        *,
        inside: bool = False,
    ) -> tuple[Mask, Tensor]:
        self._allow(access)
        shape = x.shape[:2]
        known = inside or x is self._inside
        flat = x.reshape((-1, *x.shape[2:]))
        flat = self._model.shown(flat if known else self.bounds.clip(flat))
        points = flat.reshape(x.shape)
        samples = np.arange(self.size) if rows is None else rows
        wanted = np.ones(shape, bool) if asked is None else to_numpy(asked)
        margin = np.full(flat.shape[0], math.inf)
        distance = np.full(flat.shape[0], math.inf)
        places = np.flatnonzero(wanted)
        size = max(self.size, _AT_ONCE)
        with self._model.session():
            for start in range(0, len(places), size):
                some = places[start : start + size]
                whose = samples[some // shape[1]]
                # Probes are large, so what need not be copied is not.
                whole = some[-1] - some[0] == len(some) - 1
                point = (
                    section(flat, some[0], some[-1] + 1) if whole else take(flat, some)
                )
                logits = self._logits(point, whose)
                margin[some] = to_numpy(self._criterion_of(whose).margin(logits))
                wins = np.flatnonzero(margin[some] < 0)
                distance[some] = self._distances(point, wins, whose)
        margin, distance = margin.reshape(shape), distance.reshape(shape)
        unknown = np.isnan(margin)
        if unknown.any():
            margin[unknown] = math.inf
            self.ledger.unknown[samples] += unknown.sum(axis=1)
        margin[margin == -math.inf] = _LOWEST
        adversarial = margin < 0
        self.ledger.record_probes(
            points,
            distance,
            adversarial,
            wanted,
            rows,
            decision=access is Access.DECISION,
        )
        if self._listeners and len(places):
            self._tell_lowest(flat, margin, wanted, samples)
        return like(self.x, adversarial), like(self.x, margin).astype(self.x.dtype)

    def _shown(self, x: Batch) -> Batch:
        """What the model is shown of points, within the bounds."""
        return self._model.shown(x if x is self._inside else self.bounds.clip(x))

    def _tell_lowest(
        self, points: Batch, margin: Array, asked: Array, samples: Array
    ) -> None:
        some = np.flatnonzero(asked.any(axis=1))
        # In ascending order, as listeners expect.
        some = some[np.argsort(samples[some])]
        rows = samples[some]
        lowest = margin[some].argmin(axis=1)
        point = take(points, some * margin.shape[1] + lowest)
        distance = to_numpy(self.norm(point - take(self.x, rows)))
        for listener in self._listeners:
            listener.after_question(self, margin[some, lowest], distance, rows)

    def _logits(self, point: Batch, rows: Array | None) -> Tensor:
        outputs = self._model.logits(point)
        return outputs if self._head is None else _of(self._head, rows)(outputs)

    def _linearised(self, point: Batch, rows: Array | None) -> tuple[Tensor, PullBack]:
        outputs, pull_back = self._model.linearise(point)
        if self._head is None:
            return outputs, pull_back
        head = _of(self._head, rows)
        return head(outputs), lambda slopes: pull_back(head.pull_back(slopes))

    def _criterion_of(self, rows: Array | None) -> Criterion:
        return _of(self._criterion, rows)

    def _recorded(
        self,
        point: Batch,
        margin: Tensor,
        *,
        rows: Array | None = None,
        backward: bool = False,
        known: tuple[Batch, Batch | None, PerSample] | None = None,
    ) -> Answer:
        original = self.x if rows is None else take(self.x, rows)
        if known is None:
            delta = point - original
            known = point, delta, self.norm(delta)
        _, perturbation, distance = known
        margins, distances = together(margin, distance)
        if any_nan(margins):
            unknown = np.isnan(margins)
            # So that one answer that is no number does not spoil a sample for good.
            margin = where(like(margin, unknown), math.inf, margin)
            self.ledger.unknown[slice(None) if rows is None else rows] += unknown
        below = margins < 0
        if any_true(below) and margins.min() == -math.inf:
            margin = where(like(margin, margins == -math.inf), _LOWEST, margin)
        self.ledger.record(point, distances, below, rows, backward=backward)
        for listener in self._listeners:
            listener.after_question(self, margins, distances, rows)
        answer = Answer(point, original, distance, like(margin, below), margin)
        if perturbation is not None:
            vars(answer)["delta"] = perturbation
        return answer


def _of(tree: T, rows: Array | None) -> T:
    """The rows of something that holds per-sample tensors; None: all."""
    return tree if rows is None else take(tree, rows)
