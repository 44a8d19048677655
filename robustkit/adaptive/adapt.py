"""The plain evaluation, its findings, and what answering them changes."""

from collections.abc import Callable, Sequence
from typing import Any

from robustkit.adaptive.adaptation import Adaptation
from robustkit.adaptive.answering import Answering
from robustkit.adaptive.attempt import Best
from robustkit.adaptive.beginning import (
    check_settings,
    customary,
    samples,
    settled,
    size_of_interest,
)
from robustkit.adaptive.catalogue import REMEDIES
from robustkit.adaptive.remedy import Case, Remedy
from robustkit.adaptive.symptoms import first_found
from robustkit.checks.finding import Finding
from robustkit.engine.criteria import Criterion
from robustkit.evaluation.goals import make_criterion
from robustkit.evaluation.opening import check_evaluated, reopened
from robustkit.evaluation.preflight import examine
from robustkit.evaluation.results import Run, as_results
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import Tensor

__all__ = ["adapt"]

# Passes per sample for a remedy of cost 1, and for all together, in such.
_BUDGET, _TOTAL = 1000, 20


def adapt(
    results: Run,
    model: Any,
    data: Any,
    *,
    budget: int | None = None,
    total: int | None = None,
    epsilon: float | None = None,
    criterion: Callable[[Tensor], Criterion] | None = None,
    remedies: Sequence[Remedy] = REMEDIES,
    draws: int = 100,
    progress: Callable[[str], None] | None = None,
) -> Adaptation:
    """Answer the findings about an evaluation, and see what is left of its number.

    The checks look at the model and the run; each remedy that answers a finding is
    built by measuring, in the order of the catalogue: first what mends gradients, on
    which the later ones build, then other losses and targets, then what needs no
    gradients. After each that mends something, the mended model is looked at again.
    Samples that are not robust at the smallest size are not attacked any more. Every
    adversarial counts only as verified on the model itself: with its own forward pass,
    or, where answers are random, `draws` of them (`confirm_repeatedly`), which the
    plain evaluation's have to stand too.

    Args:
        results: Of the plain evaluation, or its run folder.
        model: As it was given to that.
        data: Likewise.
        budget: Model passes per sample for a remedy of cost 1; None: that of the
            evaluation, else 1,000. The costs are those of `REMEDIES`.
        total: Model passes per sample that all remedies of a norm together may take, on
            average over the samples: those that are broken early leave theirs to the
            others. A remedy that might take more than is left is left out, and named
            (`Adaptation.left_out`). Passes for measuring and confirming come on top.
            None: 20 budgets.
        epsilon: The size of most interest, in norm units; None: the largest of the
            evaluation's at which half of the accuracy is left, else the smallest. Where
            the evaluation has no sizes, also the one that robust accuracy is stated at.
        criterion: As it was given to the evaluation.
        remedies: To choose from, in their order.
        draws: How often an adversarial of a random model is asked about.
        progress: Called with what is being done, in words.

    Returns:
        The steps. `save` writes them into a run folder.

    Raises:
        BadInput: Something given is not as described, model or data are not those of
            the evaluation, or it was limited to less than the model shows.

    >>> import robustkit as rk
    >>> def coarse(x):
    ...     return rk.load_model("digits").module((4 * x).round() / 4)
    >>> results = rk.evaluate(
    ...     coarse, "digits", samples=16, attacks=["fmn"], epsilons=[0.2]
    ... )
    >>> adapted = rk.adapt(results, coarse, "digits", budget=60)
    >>> [step.remedy for step in adapted.steps][:2]
    ['plain', 'straight-through']
    >>> before, after = results.robust_accuracy(0.2), adapted.robust_accuracy(0.2)
    >>> before.estimate > 0.5, after.estimate < 0.2
    (True, True)
    """
    results = as_results(results)
    config = results.run["config"]
    check_settings(results, criterion, budget, total, draws)
    interest = {n: size_of_interest(results, n, epsilon) for n in results.norms}
    sizes = {
        norm: tuple(config["epsilons"][norm]) or (size,)
        for norm, size in interest.items()
    }
    each = budget or config["budget"] or _BUDGET
    most = total or _TOTAL * each
    adapted, dataset = reopened(
        results,
        model,
        data,
        cache=config.get("cache"),
        headers=config.get("headers"),
    )
    x, label, others = samples(dataset.batches(config["batch_size"]), results)
    check_evaluated(results, adapted, dataset)
    examined = examine(adapted, x[:2])
    make = make_criterion(
        adapted, config["target"], criterion, examined.classes, config["seed"]
    )
    say = progress or _silent
    say(
        f"remedies may take {each:,} passes per sample and unit of their cost, and "
        f"all of a norm together {most:,}"
    )
    say("looking for symptoms")
    plain, random = first_found(
        adapted, x, label, results, random=examined.random, say=say
    )
    if random and config["target"] == "least-likely":
        make = settled(make, adapted, x, config["batch_size"])
    answered: dict[str, Answering] = {}
    best: dict[str, Best] = {}
    for name in results.norms:
        norm = get_norm(name)
        answered[name] = Answering(
            results=results,
            model=adapted,
            x=x,
            label=label,
            norm=norm,
            sizes=sizes[name],
            make=make,
            draws=draws if random else 1,
            seed=config["seed"],
            batch_size=config["batch_size"],
            limit=most * len(x),
            say=say,
        )
        case = Case(
            model=adapted,
            current=adapted,
            x=x[:0],
            label=label[:0],
            pool=x,
            honest=others,
            norm=norm,
            epsilon=interest[name],
            step=customary(norm, interest[name], x, adapted.bounds),
            budget=each,
            classes=examined.classes,
            random=random,
            seed=config["seed"],
            criterion=make,
            findings={f.id: f for f in plain if name in (f.norms or results.norms)},
        )
        best[name] = answered[name].run(case, remedies)
    all_of_them = answered.values()
    return Adaptation(
        steps=tuple(step for one in all_of_them for step in one.steps),
        epsilons=sizes,
        epsilon=interest,
        findings=_worst_first(plain, *(one.found for one in all_of_them)),
        best=best,
        index=results.index,
        label=label,
        draws=draws if random else 1,
        budget=each,
        total=most,
        left_out=tuple(left for one in all_of_them for left in one.left_out),
        needed={name: one.needed for name, one in answered.items()},
    )


def _worst_first(*parts: list[Finding]) -> tuple[Finding, ...]:
    distinct: list[Finding] = []
    for part in parts:
        # What is about no norm shows in each of them.
        distinct += [finding for finding in part if finding not in distinct]
    return tuple(sorted(distinct, key=lambda finding: -finding.severity))


def _silent(_: str) -> None:
    return None
