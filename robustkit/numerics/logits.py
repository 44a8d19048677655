"""Rows of logits beside labels: who is ahead, by how much, and the slopes of that."""

import functools
import math

import eagerpy
import numpy as np

from robustkit.numerics.tensors import (
    PerSample,
    Tensor,
    framework_of,
    like,
    on_host,
    to_numpy,
    where,
)

__all__ = ["ahead", "at_label", "lead", "one_hot", "one_less_another"]

# Numbers that Python goes through faster than NumPy is called.
_FEW = 128
# Infinity less infinity is no number, which is an answer and no reason to warn.
_SILENT = functools.partial(np.errstate, invalid="ignore")


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """(n, classes) booleans, true at each label."""
    numbers = eagerpy.arange(labels, classes)
    if numbers.dtype != labels.dtype:
        numbers = numbers.astype(labels.dtype)
    return labels.expand_dims(1) == numbers


def ahead(logits: Tensor, labels: Tensor) -> PerSample:
    """How far each row's entry at its label is above the best other one (n,)."""
    if logits.shape[0] > _FEW or not on_host(logits):
        with _SILENT():
            return at_label(logits, labels) - _best_other(logits, labels)[0]
    values, own = to_numpy(logits), to_numpy(labels)
    rows, others = np.arange(len(values)), values.copy()
    others[rows, own] = -math.inf
    # Column by column: NumPy takes long for the maximum of short rows.
    best = np.maximum.reduce(others.T.copy())
    with _SILENT():
        return like(logits, values[rows, own] - best)


def _best_other(logits: Tensor, labels: Tensor) -> tuple[PerSample, Tensor]:
    """The highest entry (n,) of each row except at its label, and its place (n,)."""
    if framework_of(logits) == "torch":
        others = logits.raw.scatter(1, labels.raw.unsqueeze(1), -math.inf)
        value, place = others.max(dim=1)
        return type(logits)(value), type(logits)(place)
    others = where(one_hot(labels, logits.shape[1]), -math.inf, logits)
    return others.max(axis=1), others.argmax(axis=1)


def one_less_another(logits: Tensor, plus: Tensor, minus: Tensor) -> Tensor:
    """Like `logits` (n, classes): 1 at `plus` (n,), -1 at `minus` (n,), else 0."""
    if framework_of(logits) == "torch":
        out = logits.raw.new_zeros(logits.shape)
        out.scatter_(1, plus.raw.unsqueeze(1), 1.0)
        return type(logits)(out.scatter_(1, minus.raw.unsqueeze(1), -1.0))
    classes, dtype = logits.shape[1], logits.dtype
    return one_hot(plus, classes).astype(dtype) - one_hot(minus, classes).astype(dtype)


def lead(logits: Tensor, labels: Tensor) -> tuple[PerSample, Tensor]:
    """How far each row's entry at its label is above the best other one (n,).

    And the slopes of that: 1 at the label, -1 at the best other, else 0.
    """
    if framework_of(logits) == "numpy" or on_host(logits):
        # Tiny arrays: one call of a framework costs as much as all of this.
        count, classes = logits.shape
        few = _lead_of_few(logits, labels) if count * classes <= _FEW else None
        return _lead_of_many(logits, labels) if few is None else few
    best, rival = _best_other(logits, labels)
    gap = at_label(logits, labels) - best
    return gap, one_less_another(logits, labels, rival)


def _lead_of_few(logits: Tensor, labels: Tensor) -> tuple[PerSample, Tensor] | None:
    """By plain Python, whose code is at hand; None where a value is no number."""
    gaps, slopes = [], []
    values = to_numpy(logits)
    for row, label in zip(values.tolist(), to_numpy(labels).tolist(), strict=True):
        if not math.isfinite(sum(row)):
            return None
        value, row[label] = row[label], -math.inf
        best = max(row)
        slope = [0.0] * len(row)
        slope[label], slope[row.index(best)] = 1.0, -1.0
        gaps.append(value - best)
        slopes.append(slope)
    # By way of NumPy: to make a tensor of a list takes torch four times longer.
    out = (like(logits, np.array(part, values.dtype)) for part in (gaps, slopes))
    return next(out), next(out)


def _lead_of_many(logits: Tensor, labels: Tensor) -> tuple[PerSample, Tensor]:
    values, own = to_numpy(logits), to_numpy(labels)
    rows, others = np.arange(len(values)), np.array(values)
    others[rows, own] = -math.inf
    rival = others.argmax(axis=1)
    slopes = np.zeros_like(values)
    slopes[rows, own] = 1
    slopes[rows, rival] = -1
    with _SILENT():
        gap = values[rows, own] - others[rows, rival]
    return like(logits, gap), like(logits, slopes)


def at_label(logits: Tensor, labels: Tensor) -> PerSample:
    """The entry of each row of `logits` (n, classes) at its label."""
    if framework_of(logits) == "torch":
        return type(logits)(logits.raw.gather(1, labels.raw[:, None])[:, 0])
    return logits.take_along_axis(labels.expand_dims(1), axis=1).squeeze(axis=1)
