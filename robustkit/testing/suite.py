"""The conformance suite: every law, to be asked of any attack."""

import unittest
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING, Any

from robustkit.arguments import as_whole
from robustkit.engine.attack import Attack
from robustkit.errors import BadInput, MissingPackage, suggestion
from robustkit.models.base import Access, as_access
from robustkit.numerics.norms import Norm, get_norm
from robustkit.registry import get_attack
from robustkit.testing.laws import LAWS
from robustkit.testing.subjects import subject_of
from robustkit.testing.trial import Trial

if TYPE_CHECKING:
    import pytest

__all__ = ["Check", "Finding", "conformance", "conformance_suite", "examine"]

_FACTORS = {Access.GRADIENT: 1.25, Access.SCORE: 3.0, Access.DECISION: 3.0}
_SPARSE = {Access.GRADIENT: 2.0, Access.SCORE: 4.0, Access.DECISION: 4.0}
"""The factors of L0, whose distances are few whole numbers."""
_BUDGETS = {Access.GRADIENT: 100, Access.SCORE: 400, Access.DECISION: 400}


@dataclass(frozen=True)
class Check:
    """One law, to be checked of one attack in one norm by calling this.

    Attributes:
        name: Of attack, law and norm.
        law: Its name.
        statement: It in one line.
        norm: The norm's name.

    Raises:
        AssertionError: When called: the attack breaks the law.
        unittest.SkipTest: When called: the law says nothing about it, and why not.
    """

    name: str
    law: str
    statement: str
    norm: str
    _trial: Trial = field(repr=False)

    def __call__(self) -> None:
        __tracebackhide__ = True
        try:
            LAWS[self.law](self._trial)
        except AssertionError as error:
            raise AssertionError(
                f"{self.name}: {self.statement} But {error}"
            ) from error.__cause__


@dataclass(frozen=True)
class Finding:
    """What became of a check.

    Attributes:
        law: Its name.
        norm: The norm's name.
        outcome: "passed", "failed" or "skipped".
        reading: Why, if it did not pass.
    """

    law: str
    norm: str
    outcome: str
    reading: str = ""


def conformance(
    attack: Attack[Any] | str | Callable[..., Any],
    norms: str | Norm | Iterable[str | Norm] | None = None,
    *,
    factor: float | Mapping[str, float] | None = None,
    complete: bool = True,
    access: Access | str = Access.GRADIENT,
    framework: str = "torch",
    budget: int | None = None,
    samples: int = 6,
    patience: int = 30_000,
    laws: str | Iterable[str] | None = None,
    name: str | None = None,
) -> Iterator[Check]:
    """Every law of robustkit's attacks, as checks of one attack.

    A check is called without arguments. It raises AssertionError with the law, the
    sample, what was expected and what came, or `unittest.SkipTest` with the reason why
    the law says nothing about this attack.

    A function is called as `function(model, x, y)` and returns x_adversarial, or the
    pair (x_adversarial, found). `model` is a torch module in evaluation mode, or, for
    the framework "numpy", a function from batches to logits with the method
    `gradient(x, slopes)`; both have an attribute `bounds`. `x` is (n, 1, 4, 4) and
    float32. Arguments of the function with one of these names are given by keyword, and
    more laws can be asked: `norm` (its name), `bounds` (lower, upper), `targets` (n,),
    `starts` (n, 1, 4, 4) adversarial points to start from, `epsilon` (then the function
    is one that searches within that distance), `seed`, `steps`, `budget` (forward
    passes per sample). Most laws give no targets, starts, steps or budget, so these
    need defaults.

    Args:
        attack: An attack, the name of one, or a function.
        norms: Those to be tested in, or one; None: all that the attack can minimise.
        factor: The most by which distances may exceed the minimum on easy problems,
            for each norm or for all; infinite: it states none. None: 1.25 for attacks
            with gradients (L0: 2), 3 for others (L0: 4).
        complete: Whether it promises an adversarial wherever there is one; else it has
            to find one somewhere.
        access: What a function needs to see: "gradient", "score" or "decision".
        framework: Of a function's model and arrays, "torch" or "numpy".
        budget: The most passes per sample in each run of an attack, which is planned
            for that. None: 100 for one given by its name that follows gradients, 400
            for one that does not; an attack given as an object has its own settings,
            and a function, whose argument `budget` it is, its own default.
        samples: How many inputs a task has, at least 2.
        patience: The most forward passes per sample before an attack is given up: it
            has failed, not hung.
        laws: Names of those to ask, or one; None: all.
        name: For people.

    Raises:
        BadInput: Something given is not as described.

    >>> checks = list(conformance("deepfool", norms="l2"))
    >>> checks[0].name, checks[0].statement
    ('deepfool-l2-in-bounds', 'Every point returned is within the bounds.')
    >>> for check in checks[:5]:
    ...     check()
    """
    given = None if norms is None else _names(norms)
    level = as_access(access)
    as_whole(patience, "the patience", least=1)
    if as_whole(samples, "the number of samples") < 2:
        raise BadInput(f"the laws about batches need at least 2 samples; got {samples}")
    if budget is not None:
        as_whole(budget, "the budget", least=1)
    if budget is None and isinstance(attack, str):
        budget = _BUDGETS[get_attack(attack).access]
    subject = subject_of(attack, given, level, framework, budget, name)
    asked = sorted(subject.norms) if given is None else given
    for norm in asked:
        if norm not in subject.norms:
            raise BadInput(
                f"'{subject.name}' cannot minimise the norm {norm}; it can minimise "
                f"{', '.join(sorted(subject.norms))}"
            )
    wanted = list(LAWS) if laws is None else _several(laws)
    for law in wanted:
        if law not in LAWS:
            raise BadInput(f"unknown law '{law}'; {suggestion(str(law), LAWS)}")
    factors = _factors(factor, asked)
    # In one order whoever asks, since sets have another in every process.
    chosen = [law for law in LAWS if law in wanted]
    for norm in asked:
        usual = (_SPARSE if norm == "l0" else _FACTORS)[subject.access]
        stated = factors.get(norm, usual)
        trial = Trial(subject, norm, stated, complete, samples, patience)
        for law in chosen:
            statement = (LAWS[law].__doc__ or "").strip()
            yield Check(f"{subject.name}-{norm}-{law}", law, statement, norm, trial)


def conformance_suite(
    attack: Attack[Any] | str | Callable[..., Any],
    norms: str | Norm | Iterable[str | Norm] | None = None,
    **settings: Any,
) -> "pytest.MarkDecorator":
    """A decorator that runs a test function once for each check of a suite.

    The function's argument is called `check`.

    Args:
        attack: As for `conformance`.
        norms: As for `conformance`.
        settings: The others of `conformance`.

    Raises:
        BadInput: Something given is not as described.
        MissingPackage: pytest is not installed.

    >>> from robustkit.attacks.gradient.deepfool import DeepFool
    >>> @conformance_suite(DeepFool(), norms="l2")
    ... def test_deepfool(check):
    ...     check()
    """
    try:
        import pytest
    except ImportError as error:
        raise MissingPackage("pytest", "test", "a suite as tests") from error
    checks = list(conformance(attack, norms, **settings))
    return pytest.mark.parametrize("check", checks, ids=[c.name for c in checks])


def examine(
    attack: Attack[Any] | str | Callable[..., Any],
    norms: str | Norm | Iterable[str | Norm] | None = None,
    **settings: Any,
) -> list[Finding]:
    """What becomes of every check of a suite.

    Args:
        attack: As for `conformance`.
        norms: As for `conformance`.
        settings: The others of `conformance`.

    Raises:
        BadInput: Something given is not as described.

    >>> findings = examine("deepfool", norms="l2", laws=["finite", "within-epsilon"])
    >>> [(finding.law, finding.outcome) for finding in findings]
    [('finite', 'passed'), ('within-epsilon', 'skipped')]
    """
    findings = []
    for check in conformance(attack, norms, **settings):
        outcome, reading = "passed", ""
        try:
            check()
        except unittest.SkipTest as reason:
            outcome, reading = "skipped", str(reason)
        except AssertionError as error:
            outcome, reading = "failed", str(error)
        findings.append(Finding(check.law, check.norm, outcome, reading))
    return findings


def _names(norms: str | Norm | Iterable[str | Norm]) -> list[str]:
    names = [get_norm(norm).name for norm in _several(norms)]
    if not names:
        raise BadInput("no norm was named; name one, such as norms=['l2']")
    return names


def _factors(
    factor: float | Mapping[str, float] | None, norms: Iterable[str]
) -> dict[str, float]:
    """What is stated, by norm."""
    if factor is None:
        return {}
    stated: dict[str, Any]
    if isinstance(factor, Mapping):
        stated = {get_norm(norm).name: value for norm, value in factor.items()}
    else:
        stated = dict.fromkeys(norms, factor)
    for value in stated.values():
        if not (isinstance(value, Real) and float(value) >= 1):
            raise BadInput(
                "no attack is nearer than the minimum: a factor is a number of at "
                f"least 1; got {value!r}"
            )
    return stated


def _several(values: Any) -> list[Any]:
    """What was given as one or as several."""
    one = isinstance(values, str) or not isinstance(values, Iterable)
    return [values] if one else list(values)
