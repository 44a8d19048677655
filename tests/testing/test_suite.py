import dataclasses
import unittest

import defects
import numpy as np
import pytest

from robustkit.attacks.gradient.fmn import FMN
from robustkit.attacks.gradient.pgd import PGD
from robustkit.errors import BadInput
from robustkit.testing import LAWS, conformance, conformance_suite, examine

# These make an attack raise where it should not.
CRASHES = {"three-classes", "one-framework", "endless"}


@pytest.mark.parametrize("name", defects.DEFECTS)
def test_each_defect_is_caught_by_its_law(name):
    defect = defects.DEFECTS[name]
    findings = examine(
        defect.attack, defect.norm, name=name, laws=[defect.law], **defect.settings
    )
    (finding,) = findings
    assert finding.outcome == "failed"
    assert ("it raised" in finding.reading) == (name in CRASHES)


def test_every_law_has_an_attack_that_breaks_it():
    assert {defect.law for defect in defects.DEFECTS.values()} == set(LAWS)


@pytest.mark.parametrize("name", ["sound", "sound_noisy", "sound_within"])
def test_what_is_sound_passes(name):
    findings = examine(getattr(defects, name), "l2", samples=3)
    assert [f.reading for f in findings if f.outcome == "failed"] == []
    assert sum(f.outcome == "passed" for f in findings) >= 15


@conformance_suite(FMN(steps=30), norms=["l2"], samples=3)
def test_the_decorator_makes_a_test_of_each_check(check):
    check()


@conformance_suite(PGD(epsilon=1.0, steps=20), norms="linf", samples=4)
def test_an_attack_of_ours_that_searches_within_an_epsilon(check):
    check()


def test_an_attack_is_tested_in_all_its_norms():
    checks = list(conformance(FMN()))
    assert len(checks) == 4 * len(LAWS)
    assert len({check.name for check in checks}) == len(checks)
    assert {check.norm for check in checks} == {"l0", "l1", "l2", "linf"}


def test_a_numpy_function_is_tested_as_well():
    def descend(model, x, y):
        point = x.copy()
        lower, upper = model.bounds
        rows = np.arange(len(x))
        for _ in range(25):
            logits = model(point)
            logits[rows, y] = -np.inf
            slopes = np.zeros_like(logits)
            slopes[rows, y] = 1.0
            slopes[rows, logits.argmax(axis=1)] = -1.0
            ahead = model(point)[rows, y] <= logits.max(axis=1)
            step = (~ahead).reshape(-1, 1, 1, 1) * 0.05 * (upper - lower)
            move = step * np.sign(model.gradient(point, slopes))
            point = (point - move).clip(lower, upper).astype(x.dtype)
        return point

    findings = examine(descend, "linf", framework="numpy", factor=3.0)
    failed = {finding.law for finding in findings if finding.outcome == "failed"}
    # It moves all samples by whole steps, and takes a tie for a success.
    assert failed <= {"finds-the-feasible", "keeps-the-best"}
    assert sum(finding.outcome == "passed" for finding in findings) >= 12


def test_a_law_that_does_not_apply_says_why():
    (check,) = conformance(FMN(), norms="l2", laws=["within-epsilon"])
    with pytest.raises(unittest.SkipTest, match="takes no epsilon: it minimises"):
        check()


def test_a_failure_names_the_law_the_sample_what_was_expected_and_what_came():
    (check,) = conformance(
        defects.does_nothing, norms="l2", laws=["finds-the-feasible"]
    )
    with pytest.raises(AssertionError) as failure:
        check()
    assert str(failure.value).startswith(
        "does_nothing-l2-finds-the-feasible: An adversarial is found wherever there "
        "is one, or at least somewhere. But affine, sample 0: expected an adversarial, "
        "for there are some at the distances ["
    )
    assert str(failure.value).endswith("]; got none")


def test_an_error_of_the_attack_is_the_cause_of_the_failure():
    def broken(model, x, y):
        raise KeyError("gone")

    (check,) = conformance(broken, norms="l2", laws=["finite"])
    with pytest.raises(AssertionError, match="raised KeyError: 'gone'") as failure:
        check()
    assert isinstance(failure.value.__cause__, KeyError)


def raises(model, x, y):
    raise KeyError("gone")


@dataclasses.dataclass(frozen=True)
class Refuses(FMN):
    """An attack that cannot work on any problem."""

    def check(self, p):
        raise BadInput("not this one")


@pytest.mark.parametrize("attack", [raises, Refuses(), defects.does_nothing])
def test_what_fails_fails_the_laws_and_not_the_suite(attack):
    findings = examine(attack, "l2", samples=2)
    assert {finding.law for finding in findings} == set(LAWS)
    # An error is never a law kept.
    kept = {finding.law for finding in findings if finding.outcome == "passed"}
    assert kept == set() or attack is defects.does_nothing


def test_what_is_no_batch_is_said_to_be_none():
    (check,) = conformance(lambda model, x, y: x[0], norms="l2", laws=["finite"])
    with pytest.raises(AssertionError, match=r"expected floats of the shape"):
        check()


@pytest.mark.parametrize("argument", ["targets", "starts", "steps", "budget"])
def test_what_most_laws_do_not_give_needs_a_default(argument):
    scope = {}
    exec(f"def needs(model, x, y, {argument}): return x", scope)
    with pytest.raises(BadInput, match=f"needs a default for its .*'{argument}'"):
        next(conformance(scope["needs"], "l2"))


def test_the_budget_of_the_suite_is_that_of_a_function():
    asked = []

    def counts(model, x, y, budget):
        asked.append(budget)
        return x

    examine(counts, "l2", budget=40, laws=["finite", "budget-respected"])
    assert set(asked) == {40, 30}
    with pytest.raises(BadInput, match="takes no argument 'budget'"):
        next(conformance(defects.sound, "l2", budget=40))


@pytest.mark.parametrize(
    "found",
    [
        lambda x: np.zeros((len(x), 1), bool),
        lambda x: np.zeros(len(x) + 1, bool),
        lambda x: False,
    ],
)
def test_found_has_one_value_for_each_sample(found):
    def returns(model, x, y):
        return x, found(x)

    told = {f.outcome: f.reading for f in examine(returns, "l2", samples=2)}
    assert set(told) == {"failed", "skipped"}
    assert "expected found of the shape (" in told["failed"]


def test_who_promises_little_still_says_what_it_has_found():
    def silent(model, x, y):
        return defects.sound(model, x, y)[0], np.zeros(len(x), bool)

    (finding,) = examine(silent, "l2", complete=False, laws="finds-the-feasible")
    assert "expected it to claim what it has found; got no claim" in finding.reading


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"attack": 3}, "expected an attack, the name of one, or a function"),
        ({"attack": FMN}, "expected an attack, the name of one, or a function"),
        ({"attack": "fnm"}, "did you mean 'fmn'"),
        ({"attack": lambda m, x, y: x}, "say what the function"),
        ({"attack": lambda m, x, y: x, "norms": ["l1", "l2"]}, "no argument 'norm'"),
        ({"attack": "ddn", "norms": "linf"}, "cannot minimise the norm linf"),
        ({"attack": "ddn", "norms": []}, "no norm was named"),
        ({"attack": "ddn", "norms": "l3"}, "unknown norm"),
        ({"attack": "ddn", "norms": 2}, "unknown norm .2"),
        ({"attack": "ddn", "samples": 1}, "at least 2 samples"),
        ({"attack": "ddn", "samples": 2.5}, "samples must be a whole number"),
        ({"attack": "ddn", "patience": None}, "patience must be a whole number"),
        ({"attack": "ddn", "budget": 0}, "the budget must be at least 1"),
        ({"attack": "ddn", "laws": "finit"}, "did you mean 'finite'"),
        ({"attack": "ddn", "factor": "2"}, "a factor is a number of at least 1"),
        ({"attack": "ddn", "factor": {"l_2": 1.5}}, "unknown norm"),
        ({"attack": "ddn", "laws": ["finit"]}, "did you mean 'finite'"),
        ({"attack": "ddn", "factor": 0.5}, "at least 1"),
        ({"attack": lambda m, x, y: x, "norms": "l2", "access": "all"}, "access"),
        (
            {"attack": lambda m, x, y: x, "norms": "l2", "framework": "jax"},
            "unknown framework",
        ),
    ],
)
def test_bad_input_is_said_to_be_bad(given, message):
    with pytest.raises(BadInput, match=message):
        list(conformance(**given))
