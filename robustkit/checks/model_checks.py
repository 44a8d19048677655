"""Checks of how a model answers: gradients, randomness, outputs."""

import math

import numpy as np

from robustkit.checks.finding import Finding, Severity, of_samples
from robustkit.checks.probe import ALIKE, SHARES, Probe, because
from robustkit.numerics.tensors import Array

__all__ = ["REMEMBERS", "VARIES", "check_model"]

REMEMBERS = "samples with other answers"
"""In the evidence of a finding that a model remembers earlier questions."""

VARIES = "samples with flips"
"""Likewise, and of one that answers by chance: nothing is said of gradients then."""

# Where the cross-entropy's gradient at the true class is exactly zero in float32.
_SATURATED = 17.0
# Of the margin's change that the gradient tells: enough, and so little that it is none.
_GOOD, _USELESS = 0.4, 0.2
# So much more than the gradient tells that it is another function's.
_TOO_MUCH = 2.0
# The correlation of what noise does with what the gradient says of it.
_EXPLAINED = 0.5
_BPDA = (
    "let the backward pass skip what has no useful gradient (BPDA), or attack without "
    "gradients: --access score, --access decision"
)


def check_model(p: Probe) -> list[Finding]:
    """All findings about a model.

    Args:
        p: What was seen of it.
    """
    checks = (
        _unanswered,
        _unavailable,
        _zero_gradients,
        _misleading_gradients,
        _random,
        _remembers,
        _unstable,
        _probabilities,
        _rectified,
        _few_values,
        _saturated,
        _few_classes,
        _differentiates,
        _company,
    )
    return [finding for check in checks for finding in check(p)]


def _unanswered(p: Probe) -> list[Finding]:
    if len(p.unanswered) == 0:
        return []
    return [
        Finding(
            "O4",
            Severity.NOTE,
            f"at {of_samples(len(p.unanswered), p.total)} the model has no answer"
            f"{because(p.raised)}. All else that is said of the model here is said of "
            "the others",
            "mend the model, or leave such samples out: those that end in errors count "
            "as not robust in an evaluation",
            {"share": len(p.unanswered) / p.total},
            tuple(p.unanswered.tolist()),
        )
    ]


def _unavailable(p: Probe) -> list[Finding]:
    if not p.declared:
        instead = "scores or decisions (auto does)"
        if p.decides:
            instead = "decisions (auto does)"
        return [
            Finding(
                "G1",
                Severity.NOTE,
                f"there are no gradients to follow: {p.no_gradient}, so attacks that "
                "need them cannot run",
                f"attack by {instead}; if the model can be differentiated, give it as "
                "a torch or JAX model",
                {"samples": len(p.index)},
            )
        ]
    if p.no_gradient:
        return [
            Finding(
                "G1",
                Severity.SUSPICIOUS,
                f"there are no gradients to follow: {p.no_gradient}"
                f"{p.calls.blamed('flat')}. Attacks that need them cannot run, and "
                "what they do not find says nothing",
                f"if the model computes its answer from the input, {_BPDA}",
                {"samples": len(p.index)},
            )
        ]
    if not p.broken.any():
        return []
    return [
        Finding(
            "G1",
            Severity.SUSPICIOUS,
            f"the gradient is not finite at {of_samples(p.broken.sum(), len(p.index))}",
            "look for divisions, square roots and logarithms at zero in the model; "
            f"until then, {_BPDA}",
            {"share": float(p.broken.mean())},
            _at(p, p.broken),
        )
    ]


def _zero_gradients(p: Probe) -> list[Finding]:
    if p.no_gradient or p.memory.found or not p.zero.any():
        return []
    share = float(p.zero.mean())
    return [
        Finding(
            "G2",
            Severity.INVALIDATES if share > 0.5 else Severity.SUSPICIOUS,
            "the margin's gradient is exactly zero at "
            f"{of_samples(p.zero.sum(), len(p.index))}: something in the model is flat "
            "there, such as "
            "rounding (int8?), thresholds, a saturated unit or a detached part"
            f"{p.calls.blamed('flat')}, and an attack that starts there does not move",
            f"start attacks from noise or from other samples (auto does); {_BPDA}",
            {"share": share},
            _at(p, p.zero),
        )
    ]


def _misleading_gradients(p: Probe) -> list[Finding]:
    """G3: what the margin does along its gradient, over what the gradient says."""
    if p.random or p.memory.found:
        return []
    known = ~np.isnan(p.ratio[:, -1])
    if p.no_gradient or known.sum() < max(0.1 * len(known), 1):
        return []
    near, middle, far = (_median(column) for column in p.ratio[known].T)
    backwards = p.ratio[known, -1] < 0
    evidence = {
        f"ratio at {share:g} epsilon": float(value)
        for share, value in zip(SHARES, (near, middle, far), strict=True)
    } | {"wrong direction": float(backwards.mean())}
    if far < -0.3:
        kind, what = "reversed", "going down the gradient raises the margin"
    elif far >= _GOOD and backwards.mean() <= 0.05:
        return _understated(p, evidence) or _partial_gradients(p, evidence)
    elif near > _GOOD and middle < 0.3:
        kind = "shattered"
        what = "the gradient holds for tiny steps only, since the model is jagged"
    elif far < _USELESS or backwards.mean() > 0.25:
        kind = "noisy"
        what = "the gradient says little about where the margin falls"
    else:
        what = (
            f"the margin is strongly curved: at half an epsilon it falls {far:.2f} "
            "times as much as the gradient says"
        )
        if far >= _GOOD:
            what = (
                f"at {of_samples(backwards.sum(), len(backwards))} the margin rises "
                f"half an epsilon down its gradient, where in the median it falls "
                f"{far:.2f} times as much as that says"
            )
        return _understated(p, evidence) or [
            Finding(
                "G3",
                Severity.NOTE,
                what,
                "use small steps, and many: fmn and auto choose theirs by themselves",
                evidence,
                _at(p, _spread(known, backwards)),
            )
        ]
    return [
        Finding(
            "G3",
            Severity.INVALIDATES,
            f"the gradients are {kind}: {what}{p.calls.blamed('flat')}. An attack that "
            "follows them finds little, however weak the model is",
            "average gradients over noise around the point (Estimated), replace the "
            f"backward pass of the jagged part, or {_BPDA.partition(', or ')[2]}",
            evidence,
            _at(p, _spread(known, backwards)),
        )
    ]


def _understated(p: Probe, evidence: dict[str, float]) -> list[Finding]:
    """G3, where the gradient is mostly right, and far more happens than it says.

    As where the members of an ensemble that are rounded leave their part of it out.
    """
    far = evidence[f"ratio at {SHARES[-1]:g} epsilon"]
    if far <= _TOO_MUCH:
        return []
    return [
        Finding(
            "G3",
            Severity.SUSPICIOUS,
            f"the gradients are understated: at half an epsilon the margin falls "
            f"{far:.1f} times as much as they say, so most of what decides is not in "
            f"them. Something in the model is flat or saturated"
            f"{p.calls.blamed('flat')}",
            "let the gradient pass through all of the model, replacing what has none "
            f"(BPDA); or {_BPDA.partition(', or ')[2]}",
            evidence,
            _at(p, p.ratio[:, -1] > _TOO_MUCH),
        )
    ]


def _partial_gradients(p: Probe, evidence: dict[str, float]) -> list[Finding]:
    """G3, where the gradient is right as far as it goes, but leaves something out."""
    told = ~np.isnan(p.foretold) & ~p.zero
    explained = float(np.median(p.foretold[told])) if told.any() else 1.0
    if explained >= _EXPLAINED:
        return []
    return [
        Finding(
            "G3",
            Severity.SUSPICIOUS,
            "the gradients are partial: the margin falls along them as they say, but "
            "under noise most of its changes are others than they say (correlation "
            f"{explained:.2f}). A part of the model is not in them"
            f"{p.calls.blamed('flat')}",
            "let the gradient pass through all of the model, replacing what has none "
            f"(BPDA); or {_BPDA.partition(', or ')[2]}",
            {**evidence, "correlation under noise": explained},
            _at(p, _spread(told, p.foretold[told] < _EXPLAINED)),
        )
    ]


def _random(p: Probe) -> list[Finding]:
    if not p.random:
        return []
    flips = float((p.flips > 0).mean())
    return [
        Finding(
            "R1",
            Severity.INVALIDATES if flips > 0.05 else Severity.SUSPICIOUS,
            f"the model answers equal questions differently (predictions of "
            f"{100 * flips:.0f} % of the samples changed within seven questions; "
            f"{_cause(p)}). One lucky draw is no adversarial, and one unlucky gradient "
            "no failure; but in a plain evaluation each question is decided by one "
            "draw, and so is which class is least likely",
            f"{_switch_off(p)}average the gradient over draws (EOT) and let several "
            "draws vote on each decision (MajorityVote), or let --adaptive do so, "
            "which confirms each adversarial in many draws; or fix the randomness "
            "while you evaluate",
            {VARIES: flips, "spread": float(p.spread.max())},
            _at(p, p.flips > 0),
        )
    ]


def _remembers(p: Probe) -> list[Finding]:
    """R1, where not chance but earlier questions decide."""
    m = p.memory
    if not m.found:
        return []
    flips = float(m.flipped.mean())
    once = m.once.sum() >= m.drifted.sum()
    what = (
        "the first answer about an input is another than all later ones, and these "
        "agree"
        if once
        else "answers agree in a row, and are others after many questions about near "
        "copies"
    )
    return [
        Finding(
            "R1",
            Severity.INVALIDATES if flips > 0.05 else Severity.SUSPICIOUS,
            f"the model remembers what it was asked: {what} (predictions of "
            f"{100 * flips:.0f} % of the samples changed). It may look for near copies "
            "of earlier questions, or adapt to its inputs; so an attack that asks "
            "often sees another model than the one that is used, and what it does not "
            "find says nothing",
            "attack the model without its memory, or with the memory emptied before "
            "each question; and try points that need one question: of that model, or "
            "of other networks, tried once on one that remembers nothing yet",
            {
                REMEMBERS: float((m.once | m.drifted).mean()),
                VARIES: flips,
                "median change": float(np.median(m.change)),
            },
            _at(p, (m.once | m.drifted)[p.index]),
        )
    ]


def _cause(p: Probe) -> str:
    called = p.calls.blamed("random").strip(" ()")
    return called or "is dropout left on?"


def _switch_off(p: Probe) -> str:
    if not any("dropout" in call for call in p.calls.random):
        return ""
    return (
        "switch dropout off: model.eval(), and training=False where "
        "torch.nn.functional.dropout is called. If the randomness is meant: "
    )


def _unstable(p: Probe) -> list[Finding]:
    """R2, on the margin: what noise does to it, but for what the gradient foretells.

    Of a margin that falls everywhere alike, noise changes much near the boundary.
    """
    foretold = np.where(np.isnan(p.foretold), 0.0, p.foretold)
    change = _median(p.noise * np.sqrt(np.maximum(1 - foretold**2, 0)))
    if p.random or p.memory.found or not change > 0.3:
        return []
    if p.no_gradient:
        how = ""
        what = "the loss is rugged, or steep for such an epsilon"
    else:
        how = " in other ways than the gradient says"
        what = "the loss is rugged, and gradients at single points mislead"
    return [
        Finding(
            "R2",
            Severity.SUSPICIOUS,
            f"noise of half an epsilon changes the margin by {100 * change:.0f} %{how} "
            f"(in the median): {what}",
            "average gradients over noise around the point (Estimated), and attack "
            "without gradients too",
            {"median change": change},
        )
    ]


def _probabilities(p: Probe) -> list[Finding]:
    if p.decides:
        # Scores of one and zeros, of which there are no others to be had.
        return []
    if not _sum_to_one(p.logits):
        return []
    return [
        Finding(
            "O1",
            Severity.SUSPICIOUS,
            "the model returns probabilities: every answer is within [0, 1] and sums "
            "to one. Their gradients, if any, vanish where the model is confident, and "
            "in single precision ties appear",
            "return the logits: leave out the last softmax, if there is one",
            {"smallest": float(p.logits.min()), "largest": float(p.logits.max())},
        )
    ]


def _rectified(p: Probe) -> list[Finding]:
    zeros = (p.logits == 0).mean()
    if p.logits.min() < 0 or zeros < 0.2 or _sum_to_one(p.logits):
        return []
    what, last = "a rectifier", "rectifier"
    if p.logits.max() <= 1:
        what, last = "a sigmoid that saturates, a rectifier,", "sigmoid or rectifier"
    return [
        Finding(
            "O1",
            Severity.SUSPICIOUS,
            f"{100 * zeros:.0f} % of the outputs are exactly zero and none is below, "
            f"as behind {what} or where votes are counted. That hides how near the "
            "other classes are",
            f"return the values before the last {last}, or the scores of what votes",
            {"share of zeros": float(zeros)},
        )
    ]


def _few_values(p: Probe) -> list[Finding]:
    values = len(np.unique(p.logits))
    if p.decides or values > max(0.05 * p.logits.size, 2) or p.logits.size < 200:
        return []
    return [
        Finding(
            "O1",
            Severity.SUSPICIOUS,
            f"{p.logits.size} outputs take {values} different values: they are rounded "
            "(int8, one-hot, votes?) or saturated, so small changes of the input "
            "cannot be seen in them",
            "evaluate the model before its outputs are rounded, or with decisions only "
            "(--access decision)",
            {"values": values, "outputs": p.logits.size},
        )
    ]


def _saturated(p: Probe) -> list[Finding]:
    saturated = p.margin > _SATURATED
    if not saturated.any():
        return []
    return [
        Finding(
            "O1",
            Severity.NOTE,
            f"at {of_samples(saturated.sum(), len(p.index))} the margin is above "
            f"{_SATURATED:g}, where the cross-entropy's gradient vanishes in single "
            "precision",
            'descend the margin (the default) and not the loss "cross-entropy"',
            {"share": float(saturated.mean()), "largest": float(p.margin.max())},
            _at(p, saturated),
        )
    ]


def _few_classes(p: Probe) -> list[Finding]:
    classes = p.logits.shape[1]
    # Whoever shows no gradients is not attacked by a loss.
    if classes > 3 or not p.declared:
        return []
    lost = "neither form is" if classes == 2 else "the targeted form is not"
    return [
        Finding(
            "O2",
            Severity.NOTE,
            f"with {classes} outputs, of the loss by the difference of logits ratio "
            f"{lost} defined",
            "use attacks on the margin; AutoAttack's cascade does not apply as it was "
            "published",
            {"classes": classes},
        )
    ]


def _differentiates(p: Probe) -> list[Finding]:
    if not p.inner_gradients:
        return []
    return [
        Finding(
            "O3",
            Severity.SUSPICIOUS,
            "the model differentiates something by itself while it answers (it adapts, "
            "or purifies its input, at test time), so its gradients may leave that out",
            "attack the whole of it: keep the inner steps in the graph, or use "
            "decisions only; AutoAttack alone is not enough here",
            {"calls": p.inner_gradients},
        )
    ]


def _company(p: Probe) -> list[Finding]:
    if p.random or p.memory.found or p.company < ALIKE:
        return []
    where, why = "", f"batch statistics are in use{p.calls.blamed('batch')}"
    remedy = (
        "evaluate with fixed statistics: model.eval(), and training=False where "
        "torch.nn.functional.batch_norm is called"
    )
    if p.calls.random and not p.calls.batch:
        where = ", or on their place in it"
        why = (
            "random numbers are the same each time, and drawn for the whole batch"
            f"{p.calls.blamed('random')}"
        )
        remedy = (
            "leave out the fixed seed, and average over draws (EOT, not batched); or "
            "let what is drawn for an input depend on nothing else"
        )
    return [
        Finding(
            "R1",
            Severity.INVALIDATES,
            f"answers depend on the other inputs in the batch{where} (they change by "
            f"{100 * p.company:.1f} %): {why}",
            remedy,
            {"change": p.company},
        )
    ]


def _median(values: Array) -> float:
    """Of those that are known; NaN where none is."""
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else math.nan


def _sum_to_one(logits: Array) -> bool:
    """Whether they are probabilities, of one and zeros too."""
    inside = logits.min() >= -1e-5 and logits.max() <= 1 + 1e-5
    return bool(inside and np.abs(logits.sum(axis=1) - 1).max() <= 1e-4)


def _spread(known: Array, values: Array) -> Array:
    """Booleans (n,) of the known samples, False for the others."""
    out = np.zeros(len(known), dtype=bool)
    out[known] = values
    return out


def _at(p: Probe, chosen: Array) -> tuple[int, ...]:
    return tuple(int(i) for i in p.index[chosen])
