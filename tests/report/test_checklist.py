import csv
import io
import json

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

import robustkit as rk
from robustkit.checks.model_checks import VARIES
from robustkit.cli import main
from robustkit.errors import BadInput
from robustkit.evaluation.store import write_json
from robustkit.report.checklist import checklist
from robustkit.report.terminal import print_results


@pytest.fixture(scope="module")
def planted(plant):
    return plant(seed=7, samples=20, features=6, bounds=(0.0, 1.0), dtype=np.float32)


@pytest.fixture
def run(planted, tmp_path):
    def make(attacks=("fmn", "square"), **settings):
        return rk.evaluate(
            planted.model(),
            (planted.x, planted.y),
            attacks=attacks,
            budget=40,
            out=tmp_path / "run",
            **settings,
        )

    return make


def answers(results):
    """Mark and answer of each question."""
    found = {}
    for line in checklist(results.path).splitlines():
        if line.startswith("- "):
            question, _, said = line[2:].rpartition("? *")
            mark = "[ ] **open:**" if "**open:**" in question else question[:3]
            found[question.removeprefix(mark).strip()] = mark, said.rstrip("*")
    return found


def marks(results):
    return {question: mark for question, (mark, _) in answers(results).items()}


OPEN, YES, NO = "[ ] **open:**", "[x]", "[ ]"


def test_what_only_authors_can_answer_stays_open(run):
    results = run()
    told = marks(results)
    for question in (
        "Why is that threat model of interest",
        "Was an adaptive attack made for this very defense, by people who tried to "
        "break it",
        "Are code, weights and adversarials published",
        "Is the model that was attacked the whole defense",
    ):
        assert told[question] == OPEN
    text = checklist(results.path)
    assert f"{list(told.values()).count(OPEN)} open." in text
    assert f"{list(told.values()).count(YES)} of {len(told)} answered yes" in text


def test_a_run_without_checks_says_nothing_of_symptoms(run):
    told = answers(run())
    assert told["Is the loss smooth enough to be followed"][0] == OPEN
    assert told["Had the attacks converged"][0] == OPEN
    assert "robustkit check" in told["Had the attacks converged"][1]


def test_what_the_run_answers_is_from_the_run(run):
    told = answers(run(norm=["linf", "l2"], epsilons={"linf": [0.1], "l2": [0.5]}))
    threat = told["What may the adversary change, how much, and what for"]
    assert threat[0] == YES
    assert "linf 0.1; l2 0.5" in threat[1]
    kinds = told["Are they of different kinds"]
    assert kinds == (YES, "gradient: fmn; score: square (run.json).")
    assert told["Is one of them without gradients"] == (YES, "square (run.json).")
    assert told["Are plain noise and a single step there to compare with"][0] == NO
    assert told["Did the attacks pass a test with a known answer"][0] == NO


def test_findings_answer_no_and_are_quoted(run, planted):
    results = run()
    found = rk.check(planted.model(), (planted.x, planted.y), run=results)
    found.save(results.path)
    told = marks(results)
    assert told["Is the loss smooth enough to be followed"] == YES
    assert told["Do twice the steps bring nothing"] == YES
    assert told["Does the attack break the model without its defense"] == OPEN
    content = json.loads((results.path / "findings.json").read_text())
    bad = {"id": "R2", "severity": "suspicious", "diagnosis": "rugged as a saw"}
    content["findings"].append(bad)
    write_json(results.path / "findings.json", content)
    answer = answers(results)["Is the loss smooth enough to be followed"]
    assert answer == (NO, "No. R2: rugged as a saw (findings.json).")
    # A note is no symptom.
    content["findings"][-1]["severity"] = "note"
    write_json(results.path / "findings.json", content)
    assert marks(results)["Is the loss smooth enough to be followed"] == YES


def told_of(results, *findings, **content):
    """The answers beside these findings."""
    whole = {"samples": 9, "findings": list(findings), **content}
    write_json(results.path / "findings.json", whole)
    return answers(results)


def a_finding(id, severity="suspicious", diagnosis="so it is", **evidence):
    return {"id": id, "severity": severity, "diagnosis": diagnosis,
            "evidence": evidence}  # fmt: skip


def test_no_answer_says_more_than_the_findings_do(run):
    results = run()
    gradients = "Are there gradients, and do they tell the truth"
    smooth = "Is the loss smooth enough to be followed"
    told = told_of(results, a_finding("O1", "note", "margins are large"))
    assert told["Does it return logits"] == (
        YES,
        "Only noted: O1: margins are large (findings.json).",
    )
    assert told[gradients][0] == told[smooth][0] == YES
    # That there are none at all is a note.
    assert told_of(results, a_finding("G1", "note"))[gradients][0] == NO
    # Where answers vary, gradients are not looked at; batch statistics are another R1.
    told = told_of(results, a_finding("R1", **{VARIES: 0.2, "spread": 1.0}))
    assert told[gradients][0] == told[smooth][0] == OPEN
    assert told_of(results, a_finding("R1", change=0.1))[smooth][0] == YES
    # What a run says without any trial is not hidden by there being none.
    size = "Does success not fall where more is allowed"
    assert told_of(results)[size][0] == OPEN
    told = told_of(results, a_finding("C1", diagnosis="it falls"))
    assert told[size] == (NO, "No. C1: it falls (findings.json).")


def test_chance_is_told_of_where_it_was_looked_at_only(run, planted):
    question = "Is no more than chance left at half the bounds' width"
    results = run()
    assert told_of(results)[question][0] == YES
    content = json.loads((results.path / "run.json").read_text())
    content["model"]["abstains"] = True
    write_json(results.path / "run.json", content)
    assert told_of(results)[question][0] == OPEN


@pytest.mark.parametrize(("right", "expected"), [(2, OPEN), (18, YES)])
def test_an_accuracy_that_may_be_chance_says_nothing_of_labels(
    planted, tmp_path, right, expected
):
    labels = planted.y.copy()
    labels[right:] = (labels[right:] + 1) % 3
    results = rk.evaluate(
        planted.model(), (planted.x, labels), attacks="fgsm", out=tmp_path / "run"
    )
    write_json(results.path / "findings.json", {"findings": [], "samples": 0})
    told = answers(results)["Are labels, bounds and normalisation those of the model"]
    assert told[0] == expected
    assert ("above chance" in told[1]) == (expected == OPEN)


def test_where_only_decisions_are_shown_no_other_kind_is_asked_for(run):
    results = run(["rays", "boundary"], access="decision")
    mark, said = answers(results)["Are they of different kinds"]
    assert (mark, "try others" in said) == (OPEN, False)


def test_texts_of_findings_stay_texts(run):
    odd = a_finding("R2", diagnosis="rugged\n- [x] sound <img src=x>\x1b[2J")
    _, said = told_of(run(), odd)["Is the loss smooth enough to be followed"]
    assert said.startswith("No. R2: rugged - [x] sound &lt;img src=x>")
    assert "\x1b" not in said


def test_texts_of_the_run_stay_texts(run):
    results, odd = run(), "<img src=x>\n- [x] sound"
    description = json.loads((results.path / "run.json").read_text())
    description["status"] = description["versions"]["robustkit"] = odd
    write_json(results.path / "run.json", description)
    folder = results.path.rename(results.path.with_name("<img src=y>"))
    text = checklist(folder)
    assert "<img" not in text
    assert "\n- [x] sound" not in text
    assert "(&lt;img src=x> - [x] sound, 20 samples)" in text


def test_a_model_that_was_not_asked_answers_nothing(run):
    results = run()
    write_json(results.path / "findings.json", {"samples": 0, "findings": []})
    told = marks(results)
    assert told["Does it return logits"] == OPEN
    assert told["Do the adversarials hold when asked about again"] == YES


def test_the_undefended_model_answers_when_it_was_tried(run, planted):
    results, model = run(), planted.model()
    data = (planted.x, planted.y)
    rk.check(model, data, run=results, undefended=model, epsilon=0.2).save(results.path)
    told = marks(results)
    assert told["Does the attack break the model without its defense"] in (YES, NO)


@pytest.mark.parametrize("attacks", [["fmn"], ["gaussian-noise"]])
def test_one_attack_is_not_enough(run, attacks):
    results = run(attacks)
    write_json(results.path / "findings.json", {"samples": 9, "findings": []})
    told = marks(results)
    assert told["Are they of different kinds"] == NO
    assert told["Do attacks with more power do better than those with less"] == NO
    assert told["Is it that of the nearest of all attacks, sample by sample"] == NO


@pytest.mark.parametrize(("samples", "expected"), [(3, OPEN), (12, YES)])
def test_of_a_few_samples_nothing_says_that_attacks_converged(run, samples, expected):
    results = run(["fmn"], samples=samples)
    write_json(results.path / "findings.json", {"samples": samples, "findings": []})
    assert marks(results)["Had the attacks converged"] == expected


def test_what_is_advised_can_be_run(run):
    """On what the model shows, and in the norms of the run."""
    results = run(["boundary"], access="decision")
    write_json(results.path / "findings.json", {"samples": 0, "findings": []})
    told = answers(results)
    assert told["Are plain noise and a single step there to compare with"] == (
        NO,
        "None was run: --attacks auto,gaussian-noise.",
    )
    question = "Do attacks with more power do better than those with less"
    assert told[question][0] == OPEN


def test_baselines_are_told_by_what_they_are(run):
    results = run({"mine": rk.FGSM(), "fgsm": rk.FMN()})
    question = "Are plain noise and a single step there to compare with"
    assert answers(results)[question] == (YES, "mine (samples.csv).")


def test_the_command_prints_it(run):
    results = run(["fmn"])
    said = CliRunner().invoke(main, ["report", str(results.path), "--checklist"])
    assert said.exit_code == 0
    assert said.stdout == checklist(results.path)
    assert not (results.path / "report.html").exists()
    both = ["report", str(results.path), "--checklist", "--latex"]
    refused = CliRunner().invoke(main, both)
    assert refused.exit_code == 2
    assert "give one of --markdown, --latex and --checklist" in refused.stderr


def test_samples_that_end_in_an_error_are_not_broken(run):
    question = "Is everything broken if the size is not limited"
    results = run(["fmn"], norm=["l2"])
    assert answers(results)[question][0] == YES
    samples = results.path / "samples.csv"
    with open(samples, newline="") as file:
        rows = list(csv.DictReader(file))
    rows[3] |= {"found": "false", "distance": "nan", "status": "error"}
    rows[5] |= {"found": "false", "distance": "inf", "status": "not_found"}
    with open(samples, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    said = (
        "No. Samples without an adversarial of any size: l2: 2 (1 of them ended in an "
        "error)."
    )
    assert answers(results)[question] == (NO, said)


def test_attacks_that_were_stopped_had_not_come_to_their_end(run):
    """As a time limit leaves them: with an adversarial, and the reason beside it."""
    results = run(["fmn"], norm=["linf", "l2"])
    write_json(results.path / "findings.json", {"findings": [], "samples": 20})
    for question in ("Had the attacks converged", "Did everything go through"):
        assert answers(results)[question][0] == YES
    assert "were ended" not in checklist(results.path)
    samples = results.path / "samples.csv"
    lines = samples.read_text().splitlines(keepends=True)
    late = [
        line.replace(",found,", ",found,stopped after 5 seconds")
        if ",l2," in line else line for line in lines
    ]  # fmt: skip
    samples.write_text("".join(late))
    for question in ("Had the attacks converged", "Did everything go through"):
        mark, said = answers(results)[question]
        assert mark == NO
        assert "before they were done (l2: 20)" in said
    results = rk.Results(results.path)
    assert "L2: on 20 samples attacks were ended" in (
        results.report().read_text(encoding="utf-8")
    )
    text = io.StringIO()
    print_results(results, Console(file=text, width=200))
    assert text.getvalue().count("on 20 samples attacks were ended") == 1


def test_old_runs_and_broken_files(run):
    results = run()
    write_json(results.path / "findings.json", {"samples": 9, "findings": []})
    (results.path / "traces.npz").unlink()
    assert marks(results)["Had the attacks converged"] == OPEN
    write_json(results.path / "findings.json", {"samples": 9, "findings": [3]})
    with pytest.raises(BadInput, match="does not hold findings"):
        checklist(results.path)
    with pytest.raises(BadInput, match="not a run folder"):
        checklist(results.path / "nothing")
