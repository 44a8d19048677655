"""What a run, its folder and its findings answer to a reviewer's questions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from robustkit.checks.advice import beside_auto
from robustkit.checks.baselines import baselines
from robustkit.checks.check import FINDINGS
from robustkit.checks.effort_checks import after_half
from robustkit.checks.model_checks import VARIES
from robustkit.checks.run_checks import sides
from robustkit.checks.trace_checks import ends_seen
from robustkit.evaluation.results import NOT_WARRANTED, Results
from robustkit.models.base import Access, as_access
from robustkit.report import words

__all__ = [
    "NO",
    "OPEN",
    "YES",
    "Answer",
    "Asked",
    "blind",
    "chance",
    "clean",
    "converged",
    "curve",
    "done",
    "errors",
    "gradients",
    "interval",
    "judged",
    "kinds",
    "labelled",
    "left_open",
    "noise",
    "per_sample",
    "powerful",
    "probed",
    "reaches_zero",
    "repeatable",
    "settings",
    "sources",
    "threat",
    "tried",
    "undefended",
    "verified",
    "warranted",
    "whole",
    "without",
]

YES, NO, OPEN = "[x]", "[ ]", "[ ] **open:**"
"""The marks of answers."""

Answer = tuple[str, str]
"""A mark and what is said beside it."""


@dataclass(frozen=True)
class Asked:
    """What answers may look at.

    Attributes:
        results: The run.
        found: Its findings; None: it was not checked.
        probed: Whether the model was asked, too.
        trials: What came of trials of an attack; empty: there were none.
    """

    results: Results
    found: list[dict[str, Any]] | None
    probed: bool
    trials: Mapping[str, Any]

    @property
    def config(self) -> Mapping[str, Any]:
        """The run's settings."""
        return self.results.run["config"]  # type: ignore[no-any-return]

    @property
    def access(self) -> Access:
        """What the attacks might see of the model."""
        return as_access(self.config["access"])

    @property
    def attacks(self) -> dict[str, str]:
        """All attacks and the access that each had."""
        said = self.results.run.get("attack_access", {})
        return {
            name: said.get(name, "unknown")
            for norm in self.results.norms
            for name in self.results.attacks(norm)
        }

    @property
    def baselines(self) -> list[str]:
        """Those that are plain noise or a single step."""
        return sorted(baselines(self.results).keys() & self.attacks.keys())


def left_open(what: str) -> Callable[[Asked], Answer]:
    """What only the authors can say, and what they should write."""
    return lambda asked: (OPEN, what)


def without(*ids: str) -> Callable[[Asked], Answer]:
    """Yes where the checks were made and none of these spoke up."""

    def answer(asked: Asked) -> Answer:
        if asked.found is None:
            return OPEN, "the run was not checked: run `robustkit check`"
        if bad := _spoke(asked, *ids):
            return NO, f"No. {_quoted(bad)}"
        if noted := [f for f in asked.found if f["id"] in ids]:
            return YES, f"Only noted: {_quoted(noted)}"
        return YES, f"No finding of {', '.join(ids)} ({FINDINGS})."

    return answer


def _spoke(asked: Asked, *ids: str) -> list[dict[str, Any]]:
    """The findings of these checks, without notes."""
    return [f for f in asked.found or () if f["id"] in ids and f["severity"] != "note"]


def _quoted(findings: list[dict[str, Any]]) -> str:
    said = "; ".join(f"{f['id']}: {f['diagnosis']}" for f in findings)
    return f"{said} ({FINDINGS})."


def probed(*ids: str) -> Callable[[Asked], Answer]:
    """As `without`, for what is seen by asking the model only."""

    def answer(asked: Asked) -> Answer:
        if asked.found is not None and not asked.probed:
            return OPEN, "the model was not asked: run `robustkit check`"
        return without(*ids)(asked)

    return answer


def judged(*ids: str) -> Callable[[Asked], Answer]:
    """As `probed`, for what is not looked at where answers vary."""

    def answer(asked: Asked) -> Answer:
        for finding in _spoke(asked, "R1"):
            evidence = finding.get("evidence")
            if isinstance(evidence, dict) and VARIES in evidence:
                return OPEN, (
                    "not looked at, since equal questions get different answers; say "
                    "it of the model without its randomness or memory"
                )
        return probed(*ids)(asked)

    return answer


def gradients(asked: Asked) -> Answer:
    """That a model has none at all is a note, and no answer but no."""
    if none := [f for f in asked.found or () if f["id"] == "G1"]:
        return NO, f"No. {_quoted(none)}"
    return judged("G1", "G2", "G3")(asked)


def tried(*ids: str) -> Callable[[Asked], Answer]:
    """As `without`, for what only the trials of `robustkit check` show."""

    def answer(asked: Asked) -> Answer:
        if not asked.trials and not _spoke(asked, *ids):
            return OPEN, (
                "not tried: `robustkit.check(model, data, run=RUN).save(RUN)` does, or "
                "answer by hand"
            )
        return without(*ids)(asked)

    return answer


def undefended(asked: Asked) -> Answer:
    """Whether the same attack breaks the model without its defense."""
    if asked.trials.get("undefended") is None:
        return OPEN, (
            "not tried: `robustkit.check(..., undefended=MODEL)` does; or give the "
            "numbers of the same attacks on the undefended model"
        )
    return without("C7")(asked)


def converged(asked: Asked) -> Answer:
    """Whether the traces of the run had come to rest."""
    if stopped := _cut_off(asked):
        return NO, f"No. Attacks were ended before they were done ({stopped})."
    if not ends_seen(asked.results):
        return OPEN, (
            "the run has traces of too few samples; show that more steps change nothing"
        )
    return without("S2")(asked)


def done(asked: Asked) -> Answer:
    """Whether twice the steps bring nothing: by the run itself, or by trials."""
    norms = asked.results.norms
    if any(after_half(asked.results, norm) is not None for norm in norms):
        return without("C4")(asked)
    return tried("C4")(asked)


def chance(asked: Asked) -> Answer:
    """Whether no more than chance is left at half the bounds' width."""
    other = asked.config["target"] is not None or asked.config["criterion"]
    if "linf" not in asked.results.norms or other:
        return OPEN, "only an untargeted run in linf tells"
    if asked.results.run["model"].get("abstains"):
        return OPEN, "the grey may be refused; say whether it is"
    return without("C2")(asked)


def powerful(asked: Asked) -> Answer:
    """Whether attacks with more power did better than those with less."""
    compared = [
        id
        for id in ("C3", "C5", "C6")
        if any(sides(asked.results, norm, id) for norm in asked.results.norms)
    ]
    if not compared and asked.access < Access.GRADIENT:
        return OPEN, (
            "held against each other are attacks that follow gradients and others; "
            "here there are none to follow"
        )
    if not compared:
        more = beside_auto(asked.results.norms, blind=True, noise=True)
        return NO, f"No attacks to compare: {more}."
    return without(*compared)(asked)


def threat(asked: Asked) -> Answer:
    """Norms, goal, access, bounds and the sizes that were asked about."""
    config, norms = asked.config, ", ".join(asked.results.norms)
    goal = "any wrong class"
    if config["criterion"]:
        goal = f"the criterion {config['criterion']}"
    elif config["target"] is not None:
        goal = f"the target {config['target']}"
    sizes = "; ".join(
        f"{norm} {', '.join(words.size(e) for e in config['epsilons'][norm])}"
        for norm in asked.results.norms
    )
    return YES, (
        f"Norms {norms}; goal: {goal}; {config['access']} access; inputs within "
        f"{config['bounds']}; stated at {sizes} (run.json)."
    )


def clean(asked: Asked) -> Answer:
    """Clean accuracy and its interval."""
    clean, count = asked.results.clean_accuracy, len(asked.results.index)
    return YES, (
        f"{words.percent(clean.estimate, count)}, interval "
        f"{words.interval(clean, count)} (summary.json). Compare it with that of the "
        "undefended model."
    )


def curve(asked: Asked) -> Answer:
    """Where accuracy stands against the size of the perturbation."""
    return YES, (
        "Smallest perturbations, so every size at once: curve.svg, with the "
        "simultaneous band; sample by sample in samples.csv."
    )


def labelled(asked: Asked) -> Answer:
    """Whether labels are the model's; of few samples chance may look like either."""
    said = without("C11")(asked)
    clean, results = asked.results.clean_accuracy, asked.results
    if said[0] == YES and clean.lower <= 1 / results.run["model"]["classes"]:
        count = len(results.index)
        return OPEN, (
            f"the clean accuracy of {words.percent(clean.estimate, count)} (interval "
            f"{words.interval(clean, count)}) is not surely above chance; say what it "
            "is on more samples"
        )
    return said


def reaches_zero(asked: Asked) -> Answer:
    """Whether every sample has an adversarial of some size."""
    left = {}
    for norm in asked.results.norms:
        distance = asked.results.distances(norm)
        count, errors = (~np.isfinite(distance)).sum(), np.isnan(distance).sum()
        if count:
            failed = f" ({errors} of them ended in an error)" if errors else ""
            left[norm] = f"{norm}: {count}{failed}"
    if left:
        said = ", ".join(left.values())
        return NO, f"No. Samples without an adversarial of any size: {said}."
    return YES, "An adversarial of some size was found for every sample."


def per_sample(asked: Asked) -> Answer:
    """Whether there were several attacks, the nearest of which counts."""
    several = [
        norm for norm in asked.results.norms if len(asked.results.attacks(norm)) > 1
    ]
    if not several:
        return NO, "There was one attack only, so there is nothing to combine."
    return YES, (
        "The nearest adversarial of all attacks counts, sample by sample "
        f"({', '.join(several)})."
    )


def kinds(asked: Asked) -> Answer:
    """The attacks by what they ask of a model."""
    by: dict[str, list[str]] = {}
    for name, access in asked.attacks.items():
        by.setdefault(access, []).append(name)
    strong = [n for n in asked.attacks if n not in asked.baselines]
    said = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in by.items())
    if "gradient" not in by and asked.config["access"] == "gradient":
        return NO, f"No attack followed gradients ({said})."
    if asked.access is Access.DECISION and len(strong) > 1:
        return OPEN, (
            f"only decisions were shown, so every attack goes by them ({said}); say "
            "how else they differ"
        )
    if len(by) < 2 or not strong:
        return NO, f"Attacks of one kind only ({said}); try others beside them."
    return YES, f"{said} (run.json)."


def blind(asked: Asked) -> Answer:
    """The attacks that follow no gradients, baselines aside."""
    names = [
        n for n, access in asked.attacks.items()
        if access != "gradient" and n not in asked.baselines
    ]  # fmt: skip
    if not names:
        more = beside_auto(asked.results.norms, blind=True)
        return NO, f"No attack without gradients was run: {more}."
    return YES, f"{', '.join(names)} (run.json)."


def noise(asked: Asked) -> Answer:
    """The baselines: plain noise and single steps."""
    names = asked.baselines
    if not names:
        more = beside_auto(asked.results.norms, noise=True, access=asked.access)
        return NO, f"None was run: {more}."
    return YES, f"{', '.join(names)} (samples.csv)."


def settings(asked: Asked) -> Answer:
    """Every attack as it was made."""
    said = "; ".join(
        f"{norm}: {', '.join(shown.values())}"
        for norm, shown in asked.config["attacks"].items()
    )
    return YES, f"`{said}` (run.json)."


def sources(asked: Asked) -> Answer:
    """Where each attack comes from."""
    sources = asked.results.run["sources"]
    return YES, "; ".join(f"{name}: {source}" for name, source in sources.items())


def verified(asked: Asked) -> Answer:
    """How adversarials were verified, and can be again."""
    return YES, (
        "Every adversarial was asked about again, in bounds, its distance computed "
        "anew; `robustkit verify` does so from best.npz without any attack."
    )


def interval(asked: Asked) -> Answer:
    """How many samples there were, and what the intervals speak of."""
    return YES, (
        f"{len(asked.results.index)} samples; exact intervals in summary.json. They "
        "speak of the sampling of the data, not of the attacks."
    )


def errors(asked: Asked) -> Answer:
    """Whether the run is complete, no sample an error, and no attack cut short."""
    failed = {
        n: int(np.isnan(asked.results.distances(n)).sum()) for n in asked.results.norms
    }
    if asked.results.run["status"] != "complete":
        return NO, f"The run is {asked.results.run['status']}, not complete."
    if any(failed.values()):
        said = ", ".join(f"{norm}: {count}" for norm, count in failed.items())
        return NO, f"Samples that ended in an error ({said}); samples.csv says why."
    if stopped := _cut_off(asked):
        return NO, (
            f"Samples on which attacks were ended before they were done ({stopped}); "
            "samples.csv says why."
        )
    return YES, "The run is complete, and no sample ended in an error."


def _cut_off(asked: Asked) -> str:
    """On how many samples, by norm; empty: on none."""
    counts = {n: int(asked.results.cut_off(n).sum()) for n in asked.results.norms}
    return ", ".join(f"{norm}: {count}" for norm, count in counts.items() if count)


def warranted(asked: Asked) -> Answer:
    """What active tests said of each attack."""
    said = {
        f"{norm} {name}": asked.results.warrant(norm, name)["verdict"]
        for norm in asked.results.norms
        for name in asked.results.attacks(norm)
    }
    told = ", ".join(f"{name} {verdict}" for name, verdict in said.items())
    if set(said.values()) == {NOT_WARRANTED}:
        return NO, "No active test was run: `robustkit eval --warrant`."
    if all(verdict != "PASS" for verdict in said.values()):
        return NO, f"None passed: {told} (warrants.json)."
    return YES, f"{told} (warrants.json)."


def repeatable(asked: Asked) -> Answer:
    """Whether seed, versions and fingerprints are known."""
    run = asked.results.run
    missing = [part for part in ("model", "data") if not run[part].get("fingerprint")]
    said = (
        f"Seed {asked.config['seed']}, versions and fingerprints in run.json; the "
        "command is in the report"
    )
    if missing:
        return NO, f"{said}; no fingerprint of {' and '.join(missing)} could be taken."
    return YES, f"{said}."


def whole(asked: Asked) -> Answer:
    """What was attacked; whether that is all, the authors have to say."""
    return OPEN, (
        f"attacked was `{asked.results.run['model']['name']}` "
        f"({asked.results.run['model']['adapter']}); say whether that is all of the "
        "defense, with preprocessing, detector and randomness"
    )
