"""A few dozen passes that show how a model answers: what the model checks rest on."""

from dataclasses import dataclass, field

import numpy as np

from robustkit.checks.calls import Calls, calls
from robustkit.checks.inner import differentiations, inner_gradients
from robustkit.checks.memory import Memory, remembers
from robustkit.errors import BadInput, in_one_line
from robustkit.evaluation.goals import misclassified
from robustkit.models.base import Access, Model, NoGradient
from robustkit.models.isolated import isolated
from robustkit.numerics.random import Rng, sample_keys
from robustkit.numerics.tensors import Array, as_tensor, like, to_numpy

__all__ = ["ALIKE", "SHARES", "NothingCorrect", "Probe", "because", "probe"]

SHARES = (0.01, 0.1, 0.5)
"""Lengths, as shares of epsilon, at which gradients meet finite differences."""

ALIKE = 1e-3
"""Answers that differ by less, as a share of their length, are equal in any batch."""

_REPEATS = 3
_NOISES = 20
_ALONE = 8


class NothingCorrect(BadInput):
    """The model classifies no sample as labelled."""


@dataclass(frozen=True)
class Probe:
    """How a model answered; arrays of n samples, those it classifies correctly.

    Attributes:
        index: (n,) positions in the data.
        total: How many samples were looked at.
        unanswered: (k,) positions of those of them that the model gives no numbers for.
        raised: What it raised there, or elsewhere; empty: nothing.
        logits: (n, classes) of the originals.
        margin: (n,) of the originals, for a wrong answer that is no refusal.
        flips: (n,) the share of repeated questions with another prediction.
        spread: (n,) the largest distance (L2) of repeated answers from the first one,
            as a share of its length.
        memory: Whether answers depend on what was asked before, and how that showed.
        company: The largest change of a prediction's logits, likewise, when the
            samples are asked one by one and not together; or, if that is less, when
            half of the batch is replaced by other samples, or all have other places.
        inner_gradients: How often the model differentiated something by itself while it
            first answered, by torch, or in the program of a JAX function; 0 where that
            cannot be seen.
        declared: Whether the model shows its gradients, if it has any.
        decides: Whether it shows decisions only.
        no_gradient: Why there is no gradient; empty: there is one.
        zero: (n,) whether the margin's gradient is zero everywhere.
        broken: (n,) whether it is not finite somewhere.
        ratio: (n, lengths) the margin's change along the gradient's sign, over what the
            gradient says, at each of `SHARES` of epsilon; NaN where the gradient is
            zero.
        noise: (n,) the mean change of the margin under uniform noise of half an
            epsilon, as a share of the margin.
        foretold: (n,) the correlation of those changes with what the gradient says of
            them; NaN where it is zero.
        epsilon: In input units (Linf).
        calls: What of torch the model called while it answered once.
    """

    index: Array
    total: int
    logits: Array
    margin: Array
    flips: Array
    spread: Array
    memory: Memory
    company: float
    inner_gradients: int
    declared: bool
    decides: bool
    no_gradient: str
    zero: Array
    broken: Array
    ratio: Array
    noise: Array
    foretold: Array
    epsilon: float
    calls: Calls = field(default_factory=Calls)
    unanswered: Array = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    raised: str = ""

    @property
    def random(self) -> bool:
        """Whether equal questions got different answers by chance."""
        changes = bool(self.flips.any() or (self.spread > 1e-4).any())
        return changes and not self.memory.found


def probe(model: Model, x: Array, label: Array, epsilon: float, seed: int = 0) -> Probe:
    """Ask a model about samples, their neighbours, and its gradients.

    The first question about each sample comes first, in two halves, then the same
    again; and once more at the very end, after many questions about near copies.

    Costs some 30 forward passes and one backward pass per sample, and one forward pass
    more for each of the first 8 samples; where that one differs, one or two more.

    Args:
        model: To be asked.
        x: (n, ...) inputs within the model's bounds.
        label: (n,) their classes; samples that are misclassified, or at which the model
            raises or returns NaN, are left out.
        epsilon: A customary size of a perturbation of all features, in input units.
        seed: Of the noise.

    Raises:
        NothingCorrect: The model classifies no sample correctly.
    """
    model = isolated(model)
    with inner_gradients() as inner:
        first = _in_parts(model, x)
    total, raised = len(x), model.raised
    known = ~np.isnan(first).any(axis=1)
    unanswered, answered = np.flatnonzero(~known), np.flatnonzero(known)
    x, label, first = x[answered], label[answered], first[answered]
    correct = np.flatnonzero(first.argmax(axis=1) == label)
    if len(correct) == 0:
        silent = f" ({len(unanswered)} have no answer{because(raised)})"
        raise NothingCorrect(
            f"the model classifies none of {total} samples as labelled"
            f"{silent if len(unanswered) else ''}, so there is "
            "no robustness to check; are labels, bounds and normalisation right?"
        )
    early = np.stack([_in_parts(model, x) for _ in range(_REPEATS)])
    everyone = x
    x, label = x[correct], label[correct]
    logits = _logits(model, x)
    margin = _margins(model, logits, label)
    company = _company(model, x, logits)
    with calls() as called:
        why, gradient = _gradient(model, x, label)
    if model.access < Access.GRADIENT:
        # Nothing was asked.
        called = Calls()
    broken = np.asarray(~np.isfinite(gradient).reshape(len(x), -1).all(axis=1))
    gradient = np.where(np.isfinite(gradient), gradient, 0)
    zero = np.asarray(~gradient.reshape(len(x), -1).any(axis=1) & ~broken)
    noise, foretold = _noise(model, x, label, margin, gradient, epsilon, seed)
    ratio = _ratios(model, x, label, margin, gradient, epsilon)
    # Again, now that many near copies were asked about.
    late = np.stack([_in_parts(model, everyone) for _ in range(_REPEATS)])
    memory = remembers(first, early, late)
    again = np.concatenate([early, late])[:, correct]
    first = first[correct]
    apart = _apart(again, first)
    if memory.found:
        # What it said before it remembered.
        logits, margin = first, _margins(model, first, label)
    return Probe(
        index=answered[correct],
        total=total,
        logits=logits,
        margin=margin,
        flips=(again.argmax(axis=2) != first.argmax(axis=1)).mean(axis=0),
        spread=np.fmax.reduce(apart, axis=0, initial=0.0),
        memory=memory,
        company=company,
        inner_gradients=inner[0] + differentiations(model, x),
        declared=model.access >= Access.GRADIENT,
        decides=model.access is Access.DECISION,
        no_gradient=why,
        zero=zero,
        broken=broken,
        ratio=ratio,
        noise=noise,
        foretold=foretold,
        epsilon=epsilon,
        calls=called,
        unanswered=unanswered,
        raised=raised,
    )


def because(raised: str) -> str:
    """Why there is no answer, as the end of a clause."""
    return f": it raised {raised}" if raised else ": it is NaN, or infinite"


def _logits(model: Model, x: Array) -> Array:
    """(n, classes) in double precision; rows of NaN where there is no answer."""
    out = np.array(to_numpy(model.logits(model.to_tensor(x))), dtype=np.float64)
    # A class may be ruled out by minus infinity. That it is last is all that matters,
    # and infinity less infinity is no number.
    last = np.isneginf(out)
    least = np.where(last, np.inf, out).min(axis=1, keepdims=True)
    out = np.where(last, least - 1, out)
    out[~np.isfinite(out).all(axis=1)] = np.nan
    return out


def _in_parts(model: Model, x: Array) -> Array:
    """(n, classes), the two halves asked about one after the other."""
    half = (len(x) + 1) // 2
    return np.concatenate(
        [_logits(model, part) for part in (x[:half], x[half:]) if len(part)]
    )


def _company(model: Model, x: Array, logits: Array) -> float:
    """How much answers change with who else is asked about, as a share of their length.

    A batch of another size may be computed by another kernel, which rounds otherwise.
    So what differs there is looked at again in a batch of that size, with other samples
    or, where these do not matter, with the same ones in other places.
    """

    def change(answers: Array) -> float:
        apart = _apart(answers, logits[: len(answers)])
        return float(np.fmax.reduce(apart, initial=0.0))

    few = min(_ALONE, len(x))
    alone = change(np.concatenate([_logits(model, x[i : i + 1]) for i in range(few)]))
    if len(x) == 1 or alone < ALIKE:
        return alone
    half = (len(x) + 1) // 2
    others = np.concatenate([x[:half], x[: len(x) - half]])
    together = change(_logits(model, others)[:half])
    if together < ALIKE:
        moved = np.roll(_logits(model, np.roll(x, 1, axis=0)), -1, axis=0)
        together = max(together, change(moved))
    return min(alone, together)


def _apart(answers: Array, first: Array) -> Array:
    """(..., n) distances (L2) of answers (..., n, classes) from the first ones.

    As shares of the length of these; NaN where there is no answer.
    """
    length = np.linalg.norm(first, axis=-1) + 1e-12
    return np.asarray(np.linalg.norm(answers - first, axis=-1) / length)


def _margins(model: Model, logits: Array, label: Array) -> Array:
    """(n,) of what is wrong; a refusal is not. NaN where there is no answer."""
    known = np.isfinite(logits).all(axis=1)
    margins = np.full(len(label), np.nan)
    if known.any():
        goal = misclassified(model, as_tensor(label[known]))
        margins[known] = to_numpy(goal.margin(as_tensor(logits[known])))
    return margins


def _gradient(model: Model, x: Array, label: Array) -> tuple[str, Array]:
    """Why there is no gradient, and the margin's gradient (zeros if there is none)."""
    if model.access < Access.GRADIENT:
        return f"the model '{model.name}' shows no gradients", np.zeros_like(x)
    try:
        with model.session():
            logits, pull_back = model.linearise(model.to_tensor(x))
            criterion = misclassified(model, like(logits, label))
            gradient = pull_back(criterion.slopes(logits)[1])
        return "", np.array(to_numpy(gradient))
    except NoGradient as error:
        return " ".join(str(error).split()), np.zeros_like(x)
    except BadInput:
        raise
    except Exception as error:
        said = in_one_line(error)
        return f"asking for a gradient raised {said}", np.zeros_like(x)


def _ratios(
    model: Model,
    x: Array,
    label: Array,
    margin: Array,
    gradient: Array,
    epsilon: float,
) -> Array:
    """(n, lengths): what the margin does along the gradient, over what it should."""
    columns = []
    bounds = model.bounds
    for share in SHARES:
        moved = x - share * epsilon * np.sign(gradient)
        moved = moved.clip(bounds.lower, bounds.upper).astype(x.dtype)
        delta = moved.astype(np.float64) - x
        told = (gradient * delta).reshape(len(x), -1).sum(axis=1)
        seen = _margins(model, _logits(model, moved), label) - margin
        # Below the rounding of the answers, nothing can be seen.
        clear = np.abs(told) > 1e-5 * (1 + np.abs(margin))
        columns.append(np.where(clear, seen / np.where(clear, told, 1), np.nan))
    return np.stack(columns, axis=1)


def _noise(
    model: Model,
    x: Array,
    label: Array,
    margin: Array,
    gradient: Array,
    epsilon: float,
    seed: int,
) -> tuple[Array, Array]:
    """(n,) how much noise changes the margin, and how well the gradient tells it."""
    bounds = model.bounds
    rng = Rng(seed, sample_keys(x), 0, as_tensor(x))
    seen, told = [], []
    for _ in range(_NOISES):
        noise = to_numpy(rng.uniform(x.shape[1:], -epsilon / 2, epsilon / 2))
        near = (x + noise).clip(bounds.lower, bounds.upper).astype(x.dtype)
        seen.append(_margins(model, _logits(model, near), label) - margin)
        delta = near.astype(np.float64) - x
        told.append((gradient * delta).reshape(len(x), -1).sum(axis=1))
    change = _mean(np.abs(seen)) / (np.abs(margin) + 1e-12)
    return change, _correlation(np.array(seen), np.array(told))


def _mean(values: Array) -> Array:
    """(n,) of the columns (draws, n), of what is known of each; NaN: nothing is."""
    known = ~np.isnan(values)
    count = known.sum(axis=0)
    total = np.where(known, values, 0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _correlation(one: Array, other: Array) -> Array:
    """(n,) of the columns (draws, n) of two arrays; NaN where one does not vary.

    Draws of which the first is NaN are left out.
    """
    other = np.where(np.isnan(one), np.nan, other)
    one, other = (np.nan_to_num(values - _mean(values)) for values in (one, other))
    scale = np.sqrt((one**2).sum(axis=0) * (other**2).sum(axis=0))
    product = (one * other).sum(axis=0)
    return np.where(scale > 0, product / np.where(scale > 0, scale, 1), np.nan)
