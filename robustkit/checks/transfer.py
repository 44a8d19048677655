"""What became of a run's adversarials when a model was asked about them again."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from robustkit.checks.finding import Finding, Severity
from robustkit.evaluation.results import Results
from robustkit.models.base import Model
from robustkit.numerics.tensors import Array, to_numpy

__all__ = ["Transfer", "ask_again", "check_transfer"]

_REPEATS = 5
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


def ask_again(model: Model, results: Results, samples: int) -> list[Transfer]:
    """Ask a model about the first adversarials of a run, five forward passes each.

    Args:
        model: To be asked; the run's own, or another.
        results: Of a run on the wish for any wrong class, or for one and the same.
        samples: How many to ask about, per norm.

    Returns:
        One for each norm; none for runs with another wish, which its table does not
        say.
    """
    config = results.run["config"]
    target = config["target"]
    if config["criterion"] or isinstance(target, str):
        return []
    said, seen = results.run["model"]["fingerprint"], model.fingerprint()
    same = None in (said, seen) or said == seen
    found = []
    for norm in results.norms:
        best = results.adversarials(norm)
        few = np.argsort(best["index"], kind="stable")[:samples]
        if len(few) == 0:
            continue
        x, label = best["x_adversarial"][few], best["label"][few]
        precise = model.precise()
        held = np.zeros(len(few))
        for _ in range(_REPEATS):
            answer = to_numpy(precise.logits(precise.to_tensor(np.array(x))))
            guess = answer.argmax(axis=1)
            fooled = (guess != label) if target is None else (guess == target)
            if model.abstains and target is None:
                fooled &= guess != answer.shape[1] - 1
            held += fooled
        found.append(Transfer(norm, best["index"][few], held / _REPEATS, same))
    return found


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
        )
    ]
