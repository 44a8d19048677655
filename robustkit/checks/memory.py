"""Whether a model remembers: answers that change with earlier questions."""

from dataclasses import dataclass

import numpy as np
from scipy.special import bdtrc

from robustkit.checks.luck import LUCK
from robustkit.numerics.tensors import Array

__all__ = ["Memory", "remembers"]

# By so many times the spread of equal questions in a row answers have to change, and
# by so much of their length: less is chance, or rounding.
_CLEAR, _LEAST = 3.0, 1e-3
# At so many samples, in each half of them.
_SOME = 0.1
# How often chance alone looks like that at one sample, at most: an answer that comes
# one time in seven came first, and never again.
_RARE = 1 / 16


@dataclass(frozen=True)
class Memory:
    """How answers to the same inputs changed; arrays of all samples asked about.

    Attributes:
        once: (n,) whether only the first answer was another, and all later ones agree.
        drifted: (n,) whether answers agree in a row, and are others after many
            questions about near copies.
        change: (n,) how far the last answers are from the first (L2), as a share of the
            first one's length; the median of the repetitions.
        flipped: (n,) whether the last answers name another class.
        found: Whether the model remembers.
    """

    once: Array
    drifted: Array
    change: Array
    flipped: Array
    found: bool


def remembers(first: Array, early: Array, late: Array) -> Memory:
    """Tell memory from chance, by answers to equal questions.

    Chance does not care what came before: its answers are as far from each other in a
    row as they are after many other questions. A memory's answers agree in a row and
    change in between, at the first question or by the last. It has to show in both
    halves of the samples, which were asked about in different questions: what a model
    draws once for a whole batch does not happen to do that twice. And it has to show
    more often than rare answers would by chance, of which few samples may hold some.

    Args:
        first: (n, classes) the first answers of all.
        early: (k, n, classes) answers right after them.
        late: (k, n, classes) after many questions about near copies.
    """
    later = np.concatenate([early, late])
    scale = np.linalg.norm(first, axis=1) + 1e-12
    apart = _between(first[None], later).min(axis=0) / scale
    once = apart > np.maximum(_CLEAR * _within(later) / scale, _LEAST)
    apart = _between(early, late).min(axis=0) / scale
    inside = np.maximum(_within(early), _within(late)) / scale
    drifted = apart > np.maximum(_CLEAR * inside, _LEAST)
    last = np.median(late, axis=0)
    shown = once | drifted
    half = (len(first) + 1) // 2
    parts = [part for part in (shown[:half], shown[half:]) if len(part)]
    luck = np.prod([bdtrc(part.sum() - 1, len(part), _RARE) for part in parts])
    return Memory(
        once=once,
        drifted=drifted,
        change=np.linalg.norm(last - first, axis=1) / scale,
        flipped=last.argmax(axis=1) != first.argmax(axis=1),
        # One sample alone cannot tell memory from chance.
        found=len(parts) > 1
        and all(part.mean() > _SOME for part in parts)
        and bool(luck < LUCK),
    )


def _between(one: Array, other: Array) -> Array:
    """(pairs, n) distances of each of the answers from each of the others."""
    gaps = one[:, None] - other[None]
    return np.asarray(np.linalg.norm(gaps, axis=3).reshape(-1, one.shape[1]))


def _within(answers: Array) -> Array:
    """(n,) the largest distance between two of the answers."""
    return np.asarray(_between(answers, answers).max(axis=0))
