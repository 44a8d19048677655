"""When is a sample adversarial: each criterion is one margin, below zero exactly then.

Every criterion knows its margin's slopes with regard to the logits in closed form, so
no attack needs automatic differentiation beyond the model's own.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from robustkit.arguments import as_function, as_number, as_whole
from robustkit.errors import BadInput
from robustkit.numerics.logits import ahead, at_label, lead, one_hot, one_less_another
from robustkit.numerics.tensors import (
    Array,
    PerSample,
    Tensor,
    as_array,
    differentiate,
    highest,
    maximum,
    minimum,
    natively,
    stack_columns,
    to_numpy,
    where,
)

__all__ = [
    "AllOf",
    "AnyOf",
    "Confident",
    "Criterion",
    "Custom",
    "Matching",
    "Misclassification",
    "OrderedTopK",
    "Targeted",
    "TopK",
    "Undetected",
]


class Criterion(ABC):
    """One margin per sample, negative exactly when the sample is adversarial."""

    def classes_named(self) -> tuple[Tensor, ...]:
        """The classes (n,) that it names itself, not by criteria that it holds."""
        return ()

    @property
    def aims(self) -> bool:
        """Whether there is one class to be reached, which may be far away."""
        return False

    def suits(self, classes: Array) -> Array | None:
        """Which inputs that are of the classes (m,) are likely to meet it (n, m).

        None: their classes do not tell.
        """
        return None

    @abstractmethod
    def slopes(self, logits: Tensor) -> tuple[PerSample, Tensor]:
        """The margin (n,) and its derivative with regard to the logits (n, classes).

        Where the margin has a kink, any one of its slopes is given.
        """

    def margin(self, logits: Tensor) -> PerSample:
        """The margin (n,), in units of the logits."""
        return self.slopes(logits)[0]

    def ways(self, logits: Tensor) -> Tensor:
        """Margins (n, ways) of the single ways to meet the criterion.

        The least of each row is the margin: to be misclassified, for one, a sample may
        be taken for any class but its own. A way that is closed has the margin
        infinity. Attacks that aim at one goal after another choose among these.
        """
        return self.margin(logits).expand_dims(1)

    def slopes_of(self, logits: Tensor, way: Tensor) -> tuple[PerSample, Tensor]:
        """As `slopes`, for one `way` of each sample ((n,) integers), which is open."""
        return self.slopes(logits)

    def cross_entropy(self, logits: Tensor) -> tuple[PerSample, Tensor]:
        """A loss (n,) that falls as a label's probability does, and its slopes.

        Raises:
            BadInput: This criterion is not about the probability of one label.
        """
        raise BadInput(
            f"cross-entropy is not defined for {type(self).__name__}; use the loss "
            "'margin', which every criterion has"
        )

    def cross_entropy_of(self, logits: Tensor, way: Tensor) -> tuple[PerSample, Tensor]:
        """As `cross_entropy`, of the class (n,) that one way of each sample leads to.

        Raises:
            BadInput: The ways of this criterion are no classes.
        """
        raise BadInput(
            f"the ways of {type(self).__name__} lead to no class that has a "
            "cross-entropy; use the loss 'margin'"
        )

    def joint(self, logits: Tensor) -> tuple[PerSample, Tensor]:
        """A loss (n,): how much is missing of all conditions together, and its slopes.

        Of a criterion with a single condition: the margin.
        """
        return self.slopes(logits)

    def matching(self, logits: Tensor) -> tuple[PerSample, Tensor]:
        """A loss (n,): how far the outputs are from those wanted, and its slopes.

        Raises:
            BadInput: None are wanted.
        """
        raise BadInput(
            f"{type(self).__name__} says of no outputs that they are to be reached; "
            "give Matching(criterion, goals)"
        )


@dataclass(frozen=True, eq=False)
class Misclassification(Criterion):
    """Any other class scores higher than the label: z_y - max over others of z_j.

    Args:
        labels: (n,) integers.
    """

    labels: Tensor

    def classes_named(self) -> tuple[Tensor, ...]:
        return (self.labels,)

    def suits(self, classes: Array) -> Array | None:
        return ~_equal(self.labels, classes)

    def slopes(self, logits: Tensor) -> tuple[PerSample, Tensor]:
        return lead(logits, self.labels)

    def margin(self, logits: Tensor) -> PerSample:
        return ahead(logits, self.labels)

    def ways(self, logits: Tensor) -> Tensor:
        """One way for each class (n, classes); the label's own is closed."""
        own = at_label(logits, self.labels).expand_dims(1)
        # Infinity less infinity, here and below, is no number, and no reason to warn.
        with np.errstate(invalid="ignore"):
            gap = own - logits
        return where(one_hot(self.labels, logits.shape[1]), math.inf, gap)

    def slopes_of(self, logits: Tensor, way: Tensor) -> tuple[PerSample, Tensor]:
        return _above(logits, self.labels, way)

    def cross_entropy(self, logits: Tensor) -> tuple[PerSample, Tensor]:
        own = one_hot(self.labels, logits.shape[1]).astype(logits.dtype)
        # Not a product with zeros, which is no number where a class has no chance.
        likelihood = at_label(logits.log_softmax(axis=-1), self.labels)
        return likelihood, own - logits.softmax(axis=-1)

    def cross_entropy_of(self, logits: Tensor, way: Tensor) -> tuple[PerSample, Tensor]:
        return Targeted(way).cross_entropy(logits)


@dataclass(frozen=True, eq=False)
class Undetected(Criterion):
    """Misclassified and not refused, by a model whose last class is a refusal.

    A class that is neither the label nor the refusal scores highest: max(z_y, z_r) -
    max over the others of z_j. See `robustkit.models.abstaining.Abstaining`.

    Args:
        labels: (n,) integers, none of them the last class.
    """

    labels: Tensor

    def classes_named(self) -> tuple[Tensor, ...]:
        return (self.labels,)

    def suits(self, classes: Array) -> Array | None:
        return ~_equal(self.labels, classes)

    def slopes(self, logits: Tensor) -> tuple[PerSample, Tensor]:
        return _above(logits, self._guard(logits), self._free(logits).argmax(axis=1))

    def ways(self, logits: Tensor) -> Tensor:
        """One way for each class (n, classes); label and refusal are closed."""
        guard = at_label(logits, self._guard(logits)).expand_dims(1)
        with np.errstate(invalid="ignore"):
            return guard - self._free(logits)

    def slopes_of(self, logits: Tensor, way: Tensor) -> tuple[PerSample, Tensor]:
        return _above(logits, self._guard(logits), way)

    def cross_entropy(self, logits: Tensor) -> tuple[PerSample, Tensor]:
        """Of the label and the refusal together."""
        chances = logits.log_softmax(axis=-1)
        guarded = where(self._guards(logits), chances, -math.inf)
        largest = guarded.max(axis=1)
        rest = (guarded - largest.expand_dims(1)).exp().sum(axis=1)
        slopes = guarded.softmax(axis=-1) - logits.softmax(axis=-1)
        return largest + rest.log(), slopes

    def cross_entropy_of(self, logits: Tensor, way: Tensor) -> tuple[PerSample, Tensor]:
        return Targeted(way).cross_entropy(logits)

    def joint(self, logits: Tensor) -> tuple[PerSample, Tensor]:
        rival = self._free(logits).argmax(axis=1)
        refusal = self._refusal(logits)
        top = where(one_hot(refusal, logits.shape[1]), -math.inf, logits).argmax(axis=1)
        return _together(
            self.slopes(logits),
            _above(logits, self.labels, rival),
            _above(logits, refusal, top),
        )

    def _refusal(self, logits: Tensor) -> Tensor:
        return self.labels * 0 + (logits.shape[1] - 1)

    def _guards(self, logits: Tensor) -> Tensor:
        """(n, classes) true at the label and the refusal."""
        classes = logits.shape[1]
        if classes < 3:
            raise BadInput(
                "a model that may refuse has two classes and the refusal at least, so "
                f"3 outputs; it has {classes}"
            )
        own = one_hot(self.labels, classes)
        return own.logical_or(one_hot(self._refusal(logits), classes))

    def _guard(self, logits: Tensor) -> Tensor:
        """(n,) the higher of label and refusal."""
        return where(self._guards(logits), logits, -math.inf).argmax(axis=1)

    def _free(self, logits: Tensor) -> Tensor:
        """The logits without the label's and the refusal's."""
        return where(self._guards(logits), -math.inf, logits)


@dataclass(frozen=True, eq=False)
class Targeted(Criterion):
    """The target scores highest: max over others of z_j - z_t.

    Args:
        targets: (n,) integers.
    """

    targets: Tensor

    def classes_named(self) -> tuple[Tensor, ...]:
        return (self.targets,)

    @property
    def aims(self) -> bool:
        return True

    def suits(self, classes: Array) -> Array | None:
        return _equal(self.targets, classes)

    def slopes(self, logits: Tensor) -> tuple[PerSample, Tensor]:
        margin, slopes = lead(logits, self.targets)
        return -margin, -slopes

    def cross_entropy(self, logits: Tensor) -> tuple[PerSample, Tensor]:
        loss, slopes = Misclassification(self.targets).cross_entropy(logits)
        return -loss, -slopes


@dataclass(frozen=True, eq=False)
class TopK(Criterion):
    """The label is not among the k highest scores: z_y - k-th highest other score.

    Args:
        labels: (n,) integers.
        k: At least 1 and fewer than there are classes; 1 is misclassification.
    """

    labels: Tensor
    k: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", as_whole(self.k, "the k of TopK"))

    def classes_named(self) -> tuple[Tensor, ...]:
        return (self.labels,)

    def suits(self, classes: Array) -> Array | None:
        return ~_equal(self.labels, classes)

    def slopes(self, logits: Tensor) -> tuple[PerSample, Tensor]:
        classes = logits.shape[1]
        if not 1 <= self.k < classes:
            raise BadInput(
                f"top-k needs 1 <= k < number of classes ({classes}); got k = {self.k}"
            )
        others = where(one_hot(self.labels, classes), -math.inf, logits)
        rival = highest(others, self.k)[1][:, self.k - 1]
        return _above(logits, self.labels, rival)


@dataclass(frozen=True, eq=False)
class OrderedTopK(Criterion):
    """The k highest scores are the given targets, in the given order.

    Args:
        targets: (n, k) integers, distinct in each row, highest first.
    """

    targets: Tensor

    def __post_init__(self) -> None:
        targets = as_array(self.targets, "targets")
        if targets.ndim != 2 or not targets.shape[1] or targets.dtype.kind not in "iu":
            raise BadInput(
                "ordered targets must be (n, k) integers, k at least 1; got an array "
                f"of shape {targets.shape} and dtype {targets.dtype}"
            )
        order = np.sort(targets, axis=1)
        if (order[:, 1:] == order[:, :-1]).any():
            raise BadInput("ordered targets must differ; no order has a class twice")

    def classes_named(self) -> tuple[Tensor, ...]:
        return tuple(self.targets[:, place] for place in range(self.targets.shape[1]))

    @property
    def aims(self) -> bool:
        return True

    def suits(self, classes: Array) -> Array | None:
        return _equal(self.targets[:, 0], classes)

    def slopes(self, logits: Tensor) -> tuple[PerSample, Tensor]:
        count, classes = self.targets.shape[1], logits.shape[1]
        if count > classes:
            raise BadInput(
                f"{count} ordered targets were given for a model of {classes} classes"
            )
        chain = list(self.classes_named())
        if count < classes:
            free = logits
            for target in chain:
                free = where(one_hot(target, classes), -math.inf, free)
            chain.append(free.argmax(axis=1))
        margin, slopes = _above(logits, chain[1], chain[0])
        for higher, lower in pairwise(chain[1:]):
            gap, slope = _above(logits, lower, higher)
            slopes = where(gap > margin, slope, slopes)
            margin = maximum(gap, margin)
        return margin, slopes


@dataclass(frozen=True, eq=False)
class Confident(Criterion):
    """Another criterion, met by more than `kappa` logit units.

    Args:
        criterion: Whose margin must fall below -kappa.
        kappa: In units of the logits, at least 0.
    """

    criterion: Criterion
    kappa: float

    def __post_init__(self) -> None:
        _check_criteria(self, self.criterion)
        kappa = as_number(self.kappa, "confidence kappa", least=0)
        object.__setattr__(self, "kappa", kappa)

    @property
    def aims(self) -> bool:
        return self.criterion.aims

    def suits(self, classes: Array) -> Array | None:
        return self.criterion.suits(classes)

    def slopes(self, logits: Tensor) -> tuple[PerSample, Tensor]:
        margin, slopes = self.criterion.slopes(logits)
        return margin + self.kappa, slopes

    def ways(self, logits: Tensor) -> Tensor:
        return self.criterion.ways(logits) + self.kappa

    def slopes_of(self, logits: Tensor, way: Tensor) -> tuple[PerSample, Tensor]:
        margin, slopes = self.criterion.slopes_of(logits, way)
        return margin + self.kappa, slopes

    def cross_entropy(self, logits: Tensor) -> tuple[PerSample, Tensor]:
        return self.criterion.cross_entropy(logits)

    def cross_entropy_of(self, logits: Tensor, way: Tensor) -> tuple[PerSample, Tensor]:
        return self.criterion.cross_entropy_of(logits, way)

    def joint(self, logits: Tensor) -> tuple[PerSample, Tensor]:
        """Once nothing is missing but the confidence, the margin."""
        margin, slopes = self.slopes(logits)
        joint, joint_slopes = self.criterion.joint(logits)
        missing = joint > 0
        return (
            where(missing, joint + self.kappa, margin),
            where(missing, joint_slopes, slopes),
        )

    def matching(self, logits: Tensor) -> tuple[PerSample, Tensor]:
        return self.criterion.matching(logits)


@dataclass(frozen=True, eq=False)
class AllOf(Criterion):
    """Both criteria are met: the larger of their margins."""

    first: Criterion
    second: Criterion

    def __post_init__(self) -> None:
        _check_criteria(self, self.first, self.second)

    @property
    def aims(self) -> bool:
        return self.first.aims or self.second.aims

    def suits(self, classes: Array) -> Array | None:
        first, second = self.first.suits(classes), self.second.suits(classes)
        if first is None or second is None:
            return second if first is None else first
        return first & second

    def slopes(self, logits: Tensor) -> tuple[PerSample, Tensor]:
        margin, slopes = self.first.slopes(logits)
        other, other_slopes = self.second.slopes(logits)
        return maximum(margin, other), where(margin < other, other_slopes, slopes)

    def joint(self, logits: Tensor) -> tuple[PerSample, Tensor]:
        first, second = self.first.joint(logits), self.second.joint(logits)
        return _together(self.slopes(logits), first, second)


@dataclass(frozen=True, eq=False)
class AnyOf(Criterion):
    """At least one of two criteria is met: the smaller of their margins."""

    first: Criterion
    second: Criterion

    def __post_init__(self) -> None:
        _check_criteria(self, self.first, self.second)

    def slopes(self, logits: Tensor) -> tuple[PerSample, Tensor]:
        margin, slopes = self.first.slopes(logits)
        other, other_slopes = self.second.slopes(logits)
        # Where one is no number, as between two scores of minus infinity, the other is.
        first = (margin < other).logical_or(other != other)
        return where(first, margin, other), where(first, slopes, other_slopes)

    def ways(self, logits: Tensor) -> Tensor:
        """Those of the first criterion, then those of the second."""
        return stack_columns([self.first.ways(logits), self.second.ways(logits)])

    def slopes_of(self, logits: Tensor, way: Tensor) -> tuple[PerSample, Tensor]:
        count = self.first.ways(logits).shape[1]
        last = self.second.ways(logits).shape[1] - 1
        margin, slopes = self.first.slopes_of(logits, minimum(way, count - 1))
        other, other_slopes = self.second.slopes_of(
            logits, minimum(maximum(way - count, 0), last)
        )
        first = way < count
        return where(first, margin, other), where(first, slopes, other_slopes)


@dataclass(frozen=True, eq=False)
class Matching(Criterion):
    """Another criterion, and outputs to be reached, for the loss "matching".

    What decides is the other criterion alone.

    Args:
        criterion: Of n samples.
        goals: (n, m) outputs, such as the logits of an honest input of another class.
        classes: Of the model, where features stand behind its logits (`WithFeatures`):
            the goals are then of these features. None: of the logits.
    """

    criterion: Criterion
    goals: Tensor
    classes: int | None = None

    def __post_init__(self) -> None:
        _check_criteria(self, self.criterion)
        if self.classes is not None:
            as_whole(self.classes, "the classes of Matching", least=1)

    @property
    def aims(self) -> bool:
        return self.criterion.aims

    def suits(self, classes: Array) -> Array | None:
        return self.criterion.suits(classes)

    def slopes(self, logits: Tensor) -> tuple[PerSample, Tensor]:
        margin, slopes = self.criterion.slopes(self._logits(logits))
        return margin, self._padded(slopes, logits)

    def margin(self, logits: Tensor) -> PerSample:
        return self.criterion.margin(self._logits(logits))

    def ways(self, logits: Tensor) -> Tensor:
        return self.criterion.ways(self._logits(logits))

    def slopes_of(self, logits: Tensor, way: Tensor) -> tuple[PerSample, Tensor]:
        margin, slopes = self.criterion.slopes_of(self._logits(logits), way)
        return margin, self._padded(slopes, logits)

    def cross_entropy(self, logits: Tensor) -> tuple[PerSample, Tensor]:
        loss, slopes = self.criterion.cross_entropy(self._logits(logits))
        return loss, self._padded(slopes, logits)

    def cross_entropy_of(self, logits: Tensor, way: Tensor) -> tuple[PerSample, Tensor]:
        loss, slopes = self.criterion.cross_entropy_of(self._logits(logits), way)
        return loss, self._padded(slopes, logits)

    def joint(self, logits: Tensor) -> tuple[PerSample, Tensor]:
        loss, slopes = self.criterion.joint(self._logits(logits))
        return loss, self._padded(slopes, logits)

    def matching(self, logits: Tensor) -> tuple[PerSample, Tensor]:
        start = self.classes or 0
        found = logits[:, start:]
        if found.shape != self.goals.shape:
            raise BadInput(
                f"the outputs to be reached have shape {self.goals.shape}, those of "
                f"the model {found.shape}"
            )
        # The same infinity, such as of a class that is never given, is not apart.
        same = found == self.goals
        apart = where(same, 0.0, found) - where(same, 0.0, self.goals)
        slopes = 2 * apart / found.shape[1]
        if start:
            slopes = stack_columns([logits[:, :start].zeros_like(), slopes])
        return apart.square().mean(axis=1), slopes

    def _logits(self, outputs: Tensor) -> Tensor:
        return outputs if self.classes is None else outputs[:, : self.classes]

    def _padded(self, slopes: Tensor, outputs: Tensor) -> Tensor:
        if self.classes is None:
            return slopes
        return stack_columns([slopes, outputs[:, self.classes :].zeros_like()])


@dataclass(frozen=True, eq=False)
class Custom(Criterion):
    """Your own margin, written with eagerpy operations.

    Args:
        function: From logits (n, classes) and the tensors of `data` to the margin
            (n,); row i must depend on row i of its arguments only. Differentiated by
            the tensor's framework; on NumPy by central differences of the function
            (not of the model).
        data: Per-sample tensors (n, ...) that the function needs, such as labels.

    Raises:
        BadInput: The function is none; later, that it returns no margin.
    """

    function: Callable[..., PerSample]
    data: tuple[Tensor, ...] = ()

    def __post_init__(self) -> None:
        as_function(self.function, "the function of Custom")
        given: Any = self.data
        if not isinstance(given, tuple | list):
            raise BadInput(
                "the data of Custom must be a tuple of arrays (n, ...); got a "
                f"{type(given).__name__}"
            )
        object.__setattr__(self, "data", tuple(given))

    def slopes(self, logits: Tensor) -> tuple[PerSample, Tensor]:
        return differentiate(self._margin, logits, *self.data)

    def margin(self, logits: Tensor) -> PerSample:
        return natively(self._margin, logits, *self.data)

    def _margin(self, logits: Tensor, *data: Tensor) -> PerSample:
        margin: Any = self.function(logits, *data)
        dtype = str(getattr(margin, "dtype", None))
        if (
            not isinstance(margin, Tensor)
            or margin.shape != logits.shape[:1]
            or "bool" in dtype
        ):
            shape = getattr(margin, "shape", None)
            of = "" if shape is None else f" of shape {tuple(shape)} and dtype {dtype}"
            raise BadInput(
                f"the function of Custom must return a margin ({logits.shape[0]},), "
                "below zero where a sample is adversarial, made from the logits by "
                f"eagerpy operations; it returned a {type(margin).__name__}{of}"
            )
        return margin if "float" in dtype else margin.astype(logits.dtype)


def _check_criteria(owner: Criterion, *parts: Any) -> None:
    for part in parts:
        if not isinstance(part, Criterion):
            raise BadInput(
                f"{type(owner).__name__} is made of criteria, such as "
                f"Misclassification(labels); got a {type(part).__name__}"
            )


def _equal(own: Tensor, classes: Array) -> Array:
    """(n, m) whether a sample's own class (n,) is the one of another input (m,)."""
    return np.asarray(to_numpy(own)[:, None] == classes)


def _above(logits: Tensor, one: Tensor, other: Tensor) -> tuple[PerSample, Tensor]:
    """How far one class (n,) scores above another, with slopes."""
    ours, theirs = at_label(logits, one), at_label(logits, other)
    with np.errstate(invalid="ignore"):
        margin = ours - theirs
    return margin, one_less_another(logits, one, other)


def _together(
    whole: tuple[PerSample, Tensor], *parts: tuple[PerSample, Tensor]
) -> tuple[PerSample, Tensor]:
    """The sum of the margins of conditions not met yet; if all are, the `whole`'s."""
    value, slopes = whole
    missing, missing_slopes = value.zeros_like(), slopes.zeros_like()
    for margin, slope in parts:
        missing = missing + maximum(margin, 0.0)
        missing_slopes = missing_slopes + where(margin >= 0, slope, 0.0 * slope)
    met = value < 0
    return where(met, value, missing), where(met, slopes, missing_slopes)
