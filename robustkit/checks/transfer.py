"""What became of a run's adversarials when a model was asked about them again."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from robustkit.checks.finding import Finding, Severity
from robustkit.engine.criteria import Targeted
from robustkit.evaluation.archive import read_examples
from robustkit.evaluation.goals import misclassified
from robustkit.evaluation.results import Results
from robustkit.models.base import Model
from robustkit.models.isolated import isolated
from robustkit.numerics.tensors import Array, to_numpy

__all__ = ["Transfer", "ask_again", "check_transfer"]

_REPEATS = 5
# As far as `verify` moves an adversarial outwards, of the way that it has come: at the
# boundary itself, rounding that differs with a batch's size decides.
_MOVE = 1e-3
# Samples that may be at the very edge, where rounding decides.
_FEW = 0.02
_MANY = 0.1


@dataclass(frozen=True)
class Transfer:
    """Adversarials and the answers to them; arrays of n samples.

    Attributes:
        norm: Whose distance they minimise.
        index: (n,) positions in the data.
        held: (n,) the share of the repeated questions in which each was adversarial.
        same: Whether the model is the one they were made on, as far as can be seen.
    """

    norm: str
    index: Array
    held: Array
    same: bool


def ask_again(
    model: Model, results: Results, samples: int, fingerprint: str | None = None
) -> list[Transfer]:
    """Ask a model about the first adversarials of a run, five forward passes each.

    One that lies at the boundary counts as adversarial on either side of it: up to a
    thousandth of the margin of originals, which is about what `verify` allows for.

    Args:
        model: To be asked; the run's own, or another.
        results: Of a run on the wish for any wrong class, or for one and the same.
        samples: How many to ask about, per norm.
        fingerprint: Of the model before it was asked anything, since questions may
            change what it keeps. None: it was not, or has none.

    Returns:
        One for each norm; none for runs with another wish, which its table does not
        say.
    """
    config = results.run["config"]
    target = config["target"]
    if config["criterion"] or isinstance(target, str):
        return []
    said = results.run["model"]["fingerprint"]
    seen = fingerprint or model.fingerprint()
    same = None in (said, seen) or said == seen
    precise = isolated(model).precise()

    def margins(x: Array, label: Array) -> Array:
        goal = (
            misclassified(precise, precise.to_tensor(label))
            if target is None
            else Targeted(precise.to_tensor(np.full_like(label, target)))
        )
        return to_numpy(goal.margin(precise.logits(precise.to_tensor(np.array(x)))))

    slack = _slack(results, margins, samples)
    found = []
    for norm in results.norms:
        best = results.adversarials(norm)
        few = np.argsort(best["index"], kind="stable")[:samples]
        if len(few) == 0:
            continue
        x, label = best["x_adversarial"][few], best["label"][few]
        held = np.mean([margins(x, label) < slack for _ in range(_REPEATS)], axis=0)
        found.append(Transfer(norm, best["index"][few], held, same))
    return found


def _slack(
    results: Results, margins: Callable[[Array, Array], Array], samples: int
) -> float:
    """How far from below zero a margin may be by rounding alone.

    Args:
        results: Whose originals were kept, or some of them.
        margins: (n,) of inputs (n, ...) and their labels (n,).
        samples: How many of them to ask about at the most.
    """
    kept = read_examples(results.path / "examples.npz")
    index = np.intersect1d(results.index, list(kept))[:samples]
    if len(index) == 0:
        return 0.0
    label = results.label[np.searchsorted(results.index, index)]
    margin = margins(np.stack([kept[place] for place in index.tolist()]), label)
    robust = margin[np.isfinite(margin) & (margin > 0)]
    return _MOVE * float(np.median(robust)) if len(robust) else 0.0


def check_transfer(t: Transfer) -> list[Finding]:
    """S3: what fooled one model does not fool the one that counts.

    Args:
        t: What became of the adversarials.
    """
    lost = t.held < 0.5
    share = float(lost.mean())
    if share <= _FEW:
        return []
    evidence: dict[str, Any] = {
        "share": share,
        "held on average": float(t.held.mean()),
        "adversarials": len(t.held),
    }
    if t.same:
        what = (
            "they were lucky draws of a random model, or the model has changed since, "
            "or what is attacked is not what is asked here"
        )
        remedy = (
            "let several draws decide (MajorityVote) and average gradients over them "
            "(EOT); attack the model as it is used, end to end"
        )
    else:
        what = "they were made on another model, and do not carry over"
        remedy = (
            "attack this model itself, end to end; what a surrogate's adversarials do "
            "not break, its own may"
        )
    return [
        Finding(
            "S3",
            Severity.INVALIDATES if share > _MANY else Severity.SUSPICIOUS,
            f"{t.norm}: {lost.sum()} of {len(lost)} adversarials of the run do not "
            f"fool the model when it is asked again: {what}",
            remedy,
            evidence,
            tuple(int(i) for i in t.index[lost]),
            norms=(t.norm,),
        )
    ]
