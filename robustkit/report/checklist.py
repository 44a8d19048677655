"""A reviewer's checklist for one run: answered where the run can, open where not."""

from collections.abc import Callable

from robustkit.checks.check import FINDINGS
from robustkit.errors import BadInput
from robustkit.evaluation.description import printable
from robustkit.evaluation.results import Run, as_results
from robustkit.evaluation.store import read_json
from robustkit.report import answers
from robustkit.report.answers import Answer, Asked

__all__ = ["checklist"]


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
    found, measured = content.get("findings"), content.get("measured", {})
    if content and not (
        isinstance(measured, dict)
        and isinstance(measured.get("trials", {}), dict)
        and all(
            isinstance(f, dict) and {"id", "severity", "diagnosis"} <= f.keys()
            for f in (found if isinstance(found, list) else "?")
        )
    ):
        raise BadInput(f"'{path}' does not hold findings")
    trials = measured.get("trials")
    asked = Asked(results, found, bool(content.get("samples")), trials or {})
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
    marks = []
    for title, questions in _SECTIONS.items():
        lines += ["", f"## {title}", ""]
        for question, answer in questions:
            mark, said = answer(asked)
            marks.append(mark)
            lines.append(f"- {mark} {question} *{_inline(said)}*")
    ticked, unanswered = marks.count(answers.YES), marks.count(answers.OPEN)
    lines[3:3] = [
        "",
        f"{ticked} of {len(marks)} answered yes by the run, "
        f"{len(marks) - ticked - unanswered} no, {unanswered} open.",
    ]
    return "\n".join(lines) + "\n"


def _inline(text: str) -> str:
    """On one line, without HTML: names and messages are whatever they are."""
    return " ".join(text.split()).replace("<", "&lt;")


_SECTIONS: dict[str, list[tuple[str, Callable[[Asked], Answer]]]] = {
    "Threat model": [
        ("What may the adversary change, how much, and what for?", answers.threat),
        (
            "Why is that threat model of interest?",
            answers.left_open("motivate the norm and the sizes by the task"),
        ),
        (
            "Does the adversary know all of the defense, its code and its weights?",
            answers.left_open(
                "say what was kept secret, if anything, and why it would stay so"
            ),
        ),
    ],
    "What was attacked": [
        ("Is the model that was attacked the whole defense?", answers.whole),
        (
            "Is clean accuracy stated, and what the defense costs of it?",
            answers.clean,
        ),
        (
            "Are labels, bounds and normalisation those of the model?",
            answers.labelled,
        ),
        (
            "If it may reject inputs: is the detector's ROC curve shown, and is it "
            "part of what is attacked?",
            answers.left_open("answer, or say that nothing is rejected"),
        ),
    ],
    "Attacks": [
        ("Which attacks, with which settings?", answers.settings),
        ("Where do they come from?", answers.sources),
        ("Are they of different kinds?", answers.kinds),
        ("Is one of them without gradients?", answers.blind),
        ("Are plain noise and a single step there to compare with?", answers.noise),
        (
            "Was an adaptive attack made for this very defense, by people who tried to "
            "break it?",
            answers.left_open(
                "describe it: which parts of the defense were targeted, how the loss "
                "was chosen, and what else was tried"
            ),
        ),
        (
            "Were the hyper-parameters of the attacks searched?",
            answers.left_open("say over which, and by whom"),
        ),
        (
            "Were transferred adversarials tried, from the undefended model and from "
            "one trained like this one?",
            answers.left_open(
                "say how many carried over; `robustkit check MODEL --run RUN` with "
                "the run of another model counts them"
            ),
        ),
    ],
    "Symptoms": [
        ("Are there gradients, and do they tell the truth?", answers.gradients),
        (
            "Is the model deterministic, or its randomness averaged?",
            answers.probed("R1"),
        ),
        ("Is the loss smooth enough to be followed?", answers.judged("R2")),
        ("Does it return logits?", answers.probed("O1")),
        ("Does it optimise nothing while it answers?", answers.probed("O3")),
        (
            "Do attacks with more power do better than those with less?",
            answers.powerful,
        ),
        ("Had the attacks converged?", answers.converged),
        ("Does success not fall where more is allowed?", answers.tried("C1")),
        ("Do twice the steps bring nothing?", answers.done),
        ("Do targets bring nothing?", answers.tried("C8")),
        ("Does the attack break the model without its defense?", answers.undefended),
        ("Is no more than chance left at half the bounds' width?", answers.chance),
        ("Is everything broken if the size is not limited?", answers.reaches_zero),
        ("Do the adversarials hold when asked about again?", answers.without("S3")),
    ],
    "Report": [
        ("Is accuracy shown against the size of the perturbation?", answers.curve),
        (
            "Is it that of the nearest of all attacks, sample by sample?",
            answers.per_sample,
        ),
        ("Was every adversarial verified?", answers.verified),
        ("How many samples, and how sure is the number?", answers.interval),
        ("Did everything go through?", answers.errors),
        ("Did the attacks pass a test with a known answer?", answers.warranted),
        ("Can it be done again?", answers.repeatable),
        (
            "Are code, weights and adversarials published?",
            answers.left_open("give the address; best.npz holds the adversarials"),
        ),
        (
            "Is the number compared with those of earlier defenses, attacked as "
            "strongly?",
            answers.left_open("name them, and their numbers under the same attacks"),
        ),
        (
            "Where is the defense known to fail?",
            answers.left_open("say so: other norms, other sizes, other data"),
        ),
    ],
}
