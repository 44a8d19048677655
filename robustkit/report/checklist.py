"""A reviewer's checklist for one run: answered where the run can, open where not."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from robustkit.checks.baselines import baselines
from robustkit.checks.check import FINDINGS
from robustkit.checks.effort_checks import after_half
from robustkit.checks.model_checks import VARIES
from robustkit.checks.run_checks import sides
from robustkit.errors import BadInput
from robustkit.evaluation.description import printable
from robustkit.evaluation.results import NOT_WARRANTED, Results, Run, as_results
from robustkit.evaluation.store import read_json
from robustkit.report import words

__all__ = ["checklist"]

_YES, _NO, _OPEN = "[x]", "[ ]", "[ ] **open:**"


def checklist(run: Run) -> str:
    """The checklist in Markdown.

    Each question is ticked, or answered "no", by what the run's folder holds, which is
    named; a question that only the authors can answer stays open, and says what to
    write. The answers say what was done. None says that a defense is robust.

    Args:
        run: A run folder, or results; finished or not.

    Source:
        The questions are those of Carlini et al., On Evaluating Adversarial
        Robustness, 2019, in words of our own, and of Tramer et al., On Adaptive Attacks
        to Adversarial Example Defenses, NeurIPS 2020.

    Raises:
        BadInput: The folder is not that of a run.

    >>> import robustkit as rk
    >>> results = rk.evaluate("digits", "digits", samples=8, attacks=["fmn"])
    >>> checklist(results.path).splitlines()[0]
    '# Checklist: digits on digits'
    """
    results = as_results(run)
    path = results.path / FINDINGS
    content = printable(read_json(path)) if path.exists() else {}
    found = content.get("findings")
    if content and not all(
        isinstance(f, dict) and {"id", "severity", "diagnosis"} <= f.keys()
        for f in (found if isinstance(found, list) else "?")
    ):
        raise BadInput(f"'{path}' does not hold findings")
    trials = content.get("measured", {}).get("trials")
    asked = _Asked(results, found, bool(content.get("samples")), trials or {})
    config = results.run["config"]
    lines = [
        _inline(f"# Checklist: {config['model']} on {config['data']}"),
        "",
        _inline(
            f"Made from the run in {results.path.name} ({results.run['status']}, "
            f"{len(results.index)} samples) by robustkit "
            f"{results.run['versions'].get('robustkit', '')}. A ticked box was "
            "answered by the run, and names its evidence. An empty one with an answer "
            "says no. What is **open** only the authors can answer."
        ),
    ]
    answers = []
    for title, questions in _SECTIONS.items():
        lines += ["", f"## {title}", ""]
        for question, answer in questions:
            mark, said = answer(asked)
            answers.append(mark)
            lines.append(f"- {mark} {question} *{_inline(said)}*")
    ticked, unanswered = answers.count(_YES), answers.count(_OPEN)
    lines[3:3] = [
        "",
        f"{ticked} of {len(answers)} answered yes by the run, "
        f"{len(answers) - ticked - unanswered} no, {unanswered} open.",
    ]
    return "\n".join(lines) + "\n"


def _inline(text: str) -> str:
    """On one line, without HTML: names and messages are whatever they are."""
    return " ".join(text.split()).replace("<", "&lt;")


@dataclass(frozen=True)
class _Asked:
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


_Answer = tuple[str, str]


def _open(what: str) -> Callable[[_Asked], _Answer]:
    return lambda asked: (_OPEN, what)


def _without(*ids: str) -> Callable[[_Asked], _Answer]:
    """Yes where the checks were made and none of these spoke up."""

    def answer(asked: _Asked) -> _Answer:
        if asked.found is None:
            return _OPEN, "the run was not checked: run `robustkit check`"
        if bad := _spoke(asked, *ids):
            return _NO, f"No. {_quoted(bad)}"
        if noted := [f for f in asked.found if f["id"] in ids]:
            return _YES, f"Only noted: {_quoted(noted)}"
        return _YES, f"No finding of {', '.join(ids)} ({FINDINGS})."

    return answer


def _spoke(asked: _Asked, *ids: str) -> list[dict[str, Any]]:
    """The findings of these checks, without notes."""
    return [f for f in asked.found or () if f["id"] in ids and f["severity"] != "note"]


def _quoted(findings: list[dict[str, Any]]) -> str:
    said = "; ".join(f"{f['id']}: {f['diagnosis']}" for f in findings)
    return f"{said} ({FINDINGS})."


def _probed(*ids: str) -> Callable[[_Asked], _Answer]:
    """As `_without`, for what is seen by asking the model only."""

    def answer(asked: _Asked) -> _Answer:
        if asked.found is not None and not asked.probed:
            return _OPEN, "the model was not asked: run `robustkit check`"
        return _without(*ids)(asked)

    return answer


def _judged(*ids: str) -> Callable[[_Asked], _Answer]:
    """As `_probed`, for what is not looked at where answers vary."""

    def answer(asked: _Asked) -> _Answer:
        for finding in _spoke(asked, "R1"):
            evidence = finding.get("evidence")
            if isinstance(evidence, dict) and VARIES in evidence:
                return _OPEN, (
                    "not looked at, since equal questions get different answers; say "
                    "it of the model without its randomness or memory"
                )
        return _probed(*ids)(asked)

    return answer


def _gradients(asked: _Asked) -> _Answer:
    """That a model has none at all is a note, and no answer but no."""
    if none := [f for f in asked.found or () if f["id"] == "G1"]:
        return _NO, f"No. {_quoted(none)}"
    return _judged("G1", "G2", "G3")(asked)


def _tried(*ids: str) -> Callable[[_Asked], _Answer]:
    """As `_without`, for what only the trials of `robustkit check` show."""

    def answer(asked: _Asked) -> _Answer:
        if not asked.trials and not _spoke(asked, *ids):
            return _OPEN, (
                "not tried: `robustkit.check(model, data, run=RUN).save(RUN)` does, or "
                "answer by hand"
            )
        return _without(*ids)(asked)

    return answer


def _undefended(asked: _Asked) -> _Answer:
    if asked.trials.get("undefended") is None:
        return _OPEN, (
            "not tried: `robustkit.check(..., undefended=MODEL)` does; or give the "
            "numbers of the same attacks on the undefended model"
        )
    return _without("C7")(asked)


def _converged(asked: _Asked) -> _Answer:
    traced = any(
        len(asked.results.traced(name, norm))
        for norm in asked.results.norms
        for name in asked.results.attacks(norm)
    )
    if not traced:
        return _OPEN, "the run has no traces; show that more steps change nothing"
    return _without("S2")(asked)


def _done(asked: _Asked) -> _Answer:
    """By the run's second half of the steps, or by trials."""
    norms = asked.results.norms
    if any(after_half(asked.results, norm) is not None for norm in norms):
        return _without("C4")(asked)
    return _tried("C4")(asked)


def _chance(asked: _Asked) -> _Answer:
    other = asked.config["target"] is not None or asked.config["criterion"]
    if "linf" not in asked.results.norms or other:
        return _OPEN, "only an untargeted run in linf tells"
    if asked.results.run["model"].get("abstains"):
        return _OPEN, "the grey may be refused; say whether it is"
    return _without("C2")(asked)


def _powerful(asked: _Asked) -> _Answer:
    compared = [
        id
        for id in ("C3", "C5", "C6")
        if any(sides(asked.results, norm, id) for norm in asked.results.norms)
    ]
    if not compared:
        return (
            _NO,
            "No attacks to compare: --attacks auto,boundary,gaussian-noise,fgsm.",
        )
    return _without(*compared)(asked)


def _threat(asked: _Asked) -> _Answer:
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
    return _YES, (
        f"Norms {norms}; goal: {goal}; {config['access']} access; inputs within "
        f"{config['bounds']}; stated at {sizes} (run.json)."
    )


def _clean(asked: _Asked) -> _Answer:
    clean, count = asked.results.clean_accuracy, len(asked.results.index)
    return _YES, (
        f"{words.percent(clean.estimate, count)}, interval "
        f"{words.interval(clean, count)} (summary.json)."
    )


def _curve(asked: _Asked) -> _Answer:
    return _YES, (
        "Smallest perturbations, so every size at once: curve.svg, with the "
        "simultaneous band; sample by sample in samples.csv."
    )


def _reaches_zero(asked: _Asked) -> _Answer:
    left = {}
    for norm in asked.results.norms:
        distance = asked.results.distances(norm)
        count, errors = (~np.isfinite(distance)).sum(), np.isnan(distance).sum()
        if count:
            failed = f" ({errors} of them ended in an error)" if errors else ""
            left[norm] = f"{norm}: {count}{failed}"
    if left:
        said = ", ".join(left.values())
        return _NO, f"No. Samples without an adversarial of any size: {said}."
    return _YES, "An adversarial of some size was found for every sample."


def _per_sample(asked: _Asked) -> _Answer:
    several = [
        norm for norm in asked.results.norms if len(asked.results.attacks(norm)) > 1
    ]
    if not several:
        return _NO, "There was one attack only, so there is nothing to combine."
    return _YES, (
        "The nearest adversarial of all attacks counts, sample by sample "
        f"({', '.join(several)})."
    )


def _kinds(asked: _Asked) -> _Answer:
    by: dict[str, list[str]] = {}
    for name, access in asked.attacks.items():
        by.setdefault(access, []).append(name)
    strong = [n for n in asked.attacks if n not in asked.baselines]
    said = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in by.items())
    if "gradient" not in by and asked.config["access"] == "gradient":
        return _NO, f"No attack followed gradients ({said})."
    if len(by) < 2 or not strong:
        return _NO, f"Attacks of one kind only ({said}); try others beside them."
    return _YES, f"{said} (run.json)."


def _blind(asked: _Asked) -> _Answer:
    names = [
        n for n, access in asked.attacks.items()
        if access != "gradient" and n not in asked.baselines
    ]  # fmt: skip
    if not names:
        return _NO, "No attack without gradients was run: --attacks auto,boundary."
    return _YES, f"{', '.join(names)} (run.json)."


def _noise(asked: _Asked) -> _Answer:
    names = asked.baselines
    if not names:
        return _NO, "None was run: --attacks auto,gaussian-noise,fgsm."
    return _YES, f"{', '.join(names)} (samples.csv)."


def _settings(asked: _Asked) -> _Answer:
    said = "; ".join(
        f"{norm}: {', '.join(shown.values())}"
        for norm, shown in asked.config["attacks"].items()
    )
    return _YES, f"`{said}` (run.json)."


def _sources(asked: _Asked) -> _Answer:
    sources = asked.results.run["sources"]
    return _YES, "; ".join(f"{name}: {source}" for name, source in sources.items())


def _verified(asked: _Asked) -> _Answer:
    return _YES, (
        "Every adversarial was asked about again, in bounds, its distance computed "
        "anew; `robustkit verify` does so from best.npz without any attack."
    )


def _interval(asked: _Asked) -> _Answer:
    return _YES, (
        f"{len(asked.results.index)} samples; exact intervals in summary.json. They "
        "speak of the sampling of the data, not of the attacks."
    )


def _errors(asked: _Asked) -> _Answer:
    failed = {
        n: int(np.isnan(asked.results.distances(n)).sum()) for n in asked.results.norms
    }
    if asked.results.run["status"] != "complete":
        return _NO, f"The run is {asked.results.run['status']}, not complete."
    if any(failed.values()):
        said = ", ".join(f"{norm}: {count}" for norm, count in failed.items())
        return _NO, f"Samples that ended in an error ({said}); samples.csv says why."
    return _YES, "The run is complete, and no sample ended in an error."


def _warranted(asked: _Asked) -> _Answer:
    said = {
        f"{norm} {name}": asked.results.warrant(norm, name)["verdict"]
        for norm in asked.results.norms
        for name in asked.results.attacks(norm)
    }
    told = ", ".join(f"{name} {verdict}" for name, verdict in said.items())
    if set(said.values()) == {NOT_WARRANTED}:
        return _NO, "No active test was run: `robustkit eval --warrant`."
    if all(verdict != "PASS" for verdict in said.values()):
        return _NO, f"None passed: {told} (warrants.json)."
    return _YES, f"{told} (warrants.json)."


def _repeatable(asked: _Asked) -> _Answer:
    run = asked.results.run
    missing = [part for part in ("model", "data") if not run[part].get("fingerprint")]
    said = (
        f"Seed {asked.config['seed']}, versions and fingerprints in run.json; the "
        "command is in the report"
    )
    if missing:
        return _NO, f"{said}; no fingerprint of {' and '.join(missing)} could be taken."
    return _YES, f"{said}."


def _whole(asked: _Asked) -> _Answer:
    return _OPEN, (
        f"attacked was `{asked.results.run['model']['name']}` "
        f"({asked.results.run['model']['adapter']}); say whether that is all of the "
        "defense, with preprocessing, detector and randomness"
    )


_SECTIONS: dict[str, list[tuple[str, Callable[[_Asked], _Answer]]]] = {
    "Threat model": [
        ("What may the adversary change, how much, and what for?", _threat),
        (
            "Why is that threat model of interest?",
            _open("motivate the norm and the sizes by the task"),
        ),
        (
            "Does the adversary know all of the defense, its code and its weights?",
            _open("say what was kept secret, if anything, and why it would stay so"),
        ),
    ],
    "What was attacked": [
        ("Is the model that was attacked the whole defense?", _whole),
        (
            "Is clean accuracy stated, and what the defense costs of it?",
            lambda asked: (
                _clean(asked)[0],
                _clean(asked)[1] + " Compare it with that of the undefended model.",
            ),
        ),
        ("Are labels, bounds and normalisation those of the model?", _without("C11")),
        (
            "If it may reject inputs: is the detector's ROC curve shown, and is it "
            "part of what is attacked?",
            _open("answer, or say that nothing is rejected"),
        ),
    ],
    "Attacks": [
        ("Which attacks, with which settings?", _settings),
        ("Where do they come from?", _sources),
        ("Are they of different kinds?", _kinds),
        ("Is one of them without gradients?", _blind),
        ("Are plain noise and a single step there to compare with?", _noise),
        (
            "Was an adaptive attack made for this very defense, by people who tried to "
            "break it?",
            _open(
                "describe it: which parts of the defense were targeted, how the loss "
                "was chosen, and what else was tried"
            ),
        ),
        (
            "Were the hyper-parameters of the attacks searched?",
            _open("say over which, and by whom"),
        ),
        (
            "Were transferred adversarials tried, from the undefended model and from "
            "one trained like this one?",
            _open("say how many carried over; `robustkit check MODEL --run RUN` with "
                  "the run of another model counts them"),
        ),
    ],
    "Symptoms": [
        ("Are there gradients, and do they tell the truth?",
         _gradients),
        ("Is the model deterministic, or its randomness averaged?", _probed("R1")),
        ("Is the loss smooth enough to be followed?", _judged("R2")),
        ("Does it return logits?", _probed("O1")),
        ("Does it optimise nothing while it answers?", _probed("O3")),
        ("Do attacks with more power do better than those with less?",
         _powerful),
        ("Had the attacks converged?", _converged),
        ("Does success not fall where more is allowed?", _tried("C1")),
        ("Do twice the steps bring nothing?", _done),
        ("Do targets bring nothing?", _tried("C8")),
        ("Does the attack break the model without its defense?", _undefended),
        ("Is no more than chance left at half the bounds' width?", _chance),
        ("Is everything broken if the size is not limited?", _reaches_zero),
        ("Do the adversarials hold when asked about again?", _without("S3")),
    ],
    "Report": [
        ("Is accuracy shown against the size of the perturbation?", _curve),
        ("Is it that of the nearest of all attacks, sample by sample?", _per_sample),
        ("Was every adversarial verified?", _verified),
        ("How many samples, and how sure is the number?", _interval),
        ("Did everything go through?", _errors),
        ("Did the attacks pass a test with a known answer?", _warranted),
        ("Can it be done again?", _repeatable),
        (
            "Are code, weights and adversarials published?",
            _open("give the address; best.npz holds the adversarials"),
        ),
        (
            "Is the number compared with those of earlier defenses, attacked as "
            "strongly?",
            _open("name them, and their numbers under the same attacks"),
        ),
        (
            "Where is the defense known to fail?",
            _open("say so: other norms, other sizes, other data"),
        ),
    ],
}  # fmt: skip
