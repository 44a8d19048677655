"""All checks on a model, and on a run if there is one."""

from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from robustkit.arguments import as_number, as_seed, as_whole
from robustkit.checks.effort_checks import check_effort
from robustkit.checks.finding import Finding, Severity, as_json
from robustkit.checks.model_checks import check_model
from robustkit.checks.probe import SHARES, NothingCorrect, Probe, probe
from robustkit.checks.run_checks import check_run
from robustkit.checks.trace_checks import check_traces
from robustkit.checks.transfer import ask_again, check_transfer
from robustkit.checks.trial_checks import check_trials
from robustkit.checks.trials import own_attack, try_attack
from robustkit.engine.attack import FixedBudget
from robustkit.errors import BadInput
from robustkit.evaluation.opening import check_evaluated, model_and_data, reopened
from robustkit.evaluation.preflight import check_labels, examine
from robustkit.evaluation.results import Results, Run, as_results
from robustkit.evaluation.store import write_json
from robustkit.models.base import Access
from robustkit.models.isolated import isolated
from robustkit.numerics.bounds import BoundsLike
from robustkit.numerics.tensors import Array

__all__ = ["FINDINGS", "Findings", "check", "check_results"]

FINDINGS = "findings.json"
"""The file of a run folder that holds its findings."""


@dataclass(frozen=True)
class Findings:
    """What the checks found.

    Attributes:
        findings: The worst first.
        samples: How many samples the model was looked at with; 0 where it was not
            asked, or is right about none.
        measured: What the pictures of a report show, as plain data.
    """

    findings: tuple[Finding, ...]
    samples: int
    measured: Mapping[str, Any] = field(default_factory=dict)

    @property
    def worst(self) -> Severity | None:
        """How bad the worst finding is; None: there is none."""
        return max((finding.severity for finding in self.findings), default=None)

    @property
    def invalid(self) -> bool:
        """Whether a number from this model, or run, is no evidence."""
        return self.worst is Severity.INVALIDATES

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "schema": 1,
            "samples": self.samples,
            "worst": None if self.worst is None else self.worst.name.lower(),
            "findings": [as_json(finding) for finding in self.findings],
            "measured": dict(self.measured),
        }

    def save(self, run: str | Path) -> Path:
        """Write them into a run folder."""
        path = Path(run) / FINDINGS
        write_json(path, self.to_json())
        return path


def check(
    model: Any,
    data: Any,
    *,
    run: Run | None = None,
    epsilon: float | None = None,
    samples: int = 64,
    trials: int = 32,
    attack: FixedBudget[Any] | None = None,
    undefended: Any = None,
    seed: int = 0,
    bounds: BoundsLike | None = None,
    mean: Any = None,
    std: Any = None,
    device: str | None = None,
) -> Findings:
    """Look for the symptoms of an evaluation that fools itself.

    No check changes an attack or the model. A model without findings need not be
    sound: these are symptoms that have a name.

    Args:
        model: As for `evaluate`.
        data: As for `evaluate`; the first `samples` are used.
        run: Of that model, a run folder or results: its attacks are held against each
            other.
        epsilon: A customary perturbation of every feature, in input units; None: 8/255
            of the bounds' width.
        samples: To ask the model about, some 30 forward passes each.
        trials: So many of them an attack is tried on, at several sizes, with more steps
            and with targets: up to 300 passes each, a tenth of that on weak models. 0:
            no trials.
        attack: What to try, one that searches within a distance in Linf; None: the
            first of the run's attacks that can be tried at any size, else plain
            projected gradient descent. What follows gradients is not tried where there
            are none.
        undefended: The same model without its defense, as `model`; then the attack is
            tried on that, too.
        seed: Of the noise.
        bounds: As for `evaluate`; also `mean`, `std` and `device`.
        mean: See `bounds`.
        std: See `bounds`.
        device: See `bounds`.

    Raises:
        BadInput: Something given is not as described.
        NothingCorrect: The model classifies nothing correctly, and there is no run.

    >>> from robustkit.checks.check import check
    >>> check("digits", "digits", samples=16).invalid
    False
    """
    samples = as_whole(samples, "the number of samples", least=1)
    trials, seed = as_whole(trials, "the number of trials", least=0), as_seed(seed)
    _check_attack(attack)
    opened, dataset = model_and_data(
        model, data, bounds, samples, device=device, mean=mean, std=std
    )
    size = 8 / 255 * opened.bounds.width
    if epsilon is not None:
        size = as_number(epsilon, "epsilon", above=0)
    fingerprint = opened.fingerprint()
    examined = examine(opened, dataset.example)
    opened = isolated(opened, examined.classes)
    x, y = next(dataset.batches(samples))
    classes = examined.classes - opened.unlabelled
    check_labels(y, classes, 0)
    found: list[Finding] = []
    measured: dict[str, Any] = {}
    results = None
    if run is not None:
        results = as_results(run)
        _check_of_run(results, x, examined.classes)
        found += _of_run(results)
    seen = None
    # Before adversarials near these samples are asked about: a model may remember.
    # Where nothing is correct, a run says as much by itself.
    with suppress(NothingCorrect) if run is not None else nullcontext():
        seen = probe(opened, x, y, size, seed)
        found += check_model(seen)
        measured["gradients"] = _gradients(seen)
    if results is not None:
        for transfer in ask_again(opened, results, samples, fingerprint):
            found += check_transfer(transfer)
    blind = attack is not None and attack.access < Access.GRADIENT
    if seen is not None and trials and (blind or not seen.no_gradient):
        bare = None
        if undefended is not None:
            bare, _ = model_and_data(
                undefended, data, bounds, samples, device=device, mean=mean, std=std
            )
            others = examine(bare, dataset.example).classes - bare.unlabelled
            if others != classes:
                raise BadInput(
                    f"the undefended model has {others} classes, the model itself "
                    f"{classes}; give the same model without its defense"
                )
        ours = None
        if attack is None and results is not None:
            ours = own_attack(results, opened)
        tried = try_attack(
            opened,
            x[:trials],
            y[:trials],
            size,
            attack=attack or ours,
            own=ours is not None,
            random=seen.random,
            undefended=bare,
            seed=seed,
        )
        if tried is not None:
            found += check_trials(tried)
            measured["trials"] = tried.to_json()
    return _ordered(found, 0 if seen is None else len(x), measured)


def check_results(results: Results, samples: int = 32) -> Findings:
    """Check a run and, if it may follow gradients, its model, loaded by name again.

    Without trials, which take as many passes as a short attack does. A model that is
    asked for scores or decisions only may cost money, and is not asked.

    Args:
        results: A run whose model and data have names (`robustkit eval`).
        samples: To ask the model about; no more than the run was to evaluate, since
            nobody looked at what follows them in the data.

    Raises:
        BadInput: The model of that name is not the one that was evaluated any more.
    """
    config, asked = results.run["config"], results.run["asked"]
    if config["access"] != "gradient":
        return _ordered(_of_run(results), 0)
    samples = min(samples, config["samples"] or samples)
    model, data = reopened(results, asked["model"], asked["data"], samples=samples)
    check_evaluated(results, model)
    return check(
        model, data, run=results, samples=samples, trials=0, seed=config["seed"]
    )


def _check_attack(attack: Any) -> None:
    if attack is None:
        return
    if not isinstance(attack, FixedBudget):
        raise BadInput(
            "an attack is tried within one size after another, so give one that "
            f"searches within a distance, such as PGD(0.1); got {attack!r}"
        )
    if "linf" not in attack.norms:
        raise BadInput(
            "attacks are tried in the norm linf, and "
            f"{type(attack).__name__} is for {', '.join(sorted(attack.norms))}"
        )


def _check_of_run(results: Results, x: Array, classes: int) -> None:
    """Whether a run can be of inputs (n, ...) and of a model with so many scores."""
    target = results.run["config"]["target"]
    named = [results.label, np.array([target] if isinstance(target, int) else [], int)]
    for norm in results.norms:
        best = results.adversarials(norm)
        named.append(best["label"])
        points = best["x_adversarial"]
        if len(points) and points.shape[1:] != x.shape[1:]:
            raise BadInput(
                f"the run's inputs have shape {points.shape[1:]}, those of the data "
                f"{x.shape[1:]}; give the model and the data of the run"
            )
    every = np.concatenate(named)
    wrong = every[(every < 0) | (every >= classes)]
    if len(wrong):
        raise BadInput(
            f"the run is about the class {wrong[0]}, and the model has {classes} "
            "classes, from 0; give the model and the data of the run"
        )


def _of_run(results: Results) -> list[Finding]:
    """What a run's own records say."""
    return check_run(results) + check_traces(results) + check_effort(results)


def _gradients(seen: Probe) -> dict[str, Any]:
    """What the margin did along its gradient, over what the gradient says."""
    ratio = [
        [None if np.isnan(value) else float(value) for value in row]
        for row in seen.ratio
    ]
    return {
        "shares": list(SHARES),
        "epsilon": seen.epsilon,
        "index": seen.index.tolist(),
        "ratio": ratio,
    }


def _ordered(
    found: list[Finding], samples: int, measured: Mapping[str, Any] | None = None
) -> Findings:
    order = np.argsort([-finding.severity for finding in found], kind="stable")
    return Findings(tuple(found[i] for i in order), samples, measured or {})
