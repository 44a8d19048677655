"""Reading VNN-LIB files: boxes of inputs, and linear constraints on outputs."""

import gzip
import itertools
import re
import zlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from pathlib import Path
from typing import TypeAlias

import numpy as np

from robustkit.errors import BadInput
from robustkit.numerics.tensors import Array

__all__ = ["Case", "Region", "Spec", "read_spec"]

_TOKEN = re.compile(r";[^\n]*|[()]|[^\s();]+")
_VARIABLE = re.compile(r"([XY])_(0|[1-9]\d*)")
# Decimal takes underscores and the digits of all scripts.
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_MOST_CASES, _DEEPEST = 100_000, 50
# Powers of ten that no double reaches.
_MOST_PLACES = 400

Term: TypeAlias = tuple[dict[str, Fraction], Fraction]
"""Factors by variable, and what is added to them; exact, so that no rounding makes two
constraints contradict each other that do not."""


@dataclass(frozen=True, eq=False)
class Case:
    """Outputs y with slopes @ y <= levels in every row.

    Attributes:
        slopes: (rows, outputs).
        levels: (rows,).
    """

    slopes: Array
    levels: Array

    def holds(self, y: Array) -> bool:
        """Whether outputs (outputs,) are among them, without any tolerance."""
        return bool((self.slopes @ y <= self.levels).all())


@dataclass(frozen=True, eq=False)
class Region:
    """A box of inputs, and what is asked of their outputs: any of several cases.

    Attributes:
        lower: (inputs,) ends of the box, which belong to it.
        upper: (inputs,).
        cases: At least one.
    """

    lower: Array
    upper: Array
    cases: tuple[Case, ...]


@dataclass(frozen=True, eq=False)
class Spec:
    """A question: is there an input in one of these regions that meets a case of it?

    Attributes:
        inputs: How many, in the order of the flattened input.
        outputs: How many, likewise.
        regions: Any of which will do; none: there can be no such input.
    """

    inputs: int
    outputs: int
    regions: tuple[Region, ...]

    def holds(self, x: Array, y: Array) -> bool:
        """Whether an input (inputs,) with outputs (outputs,) is an answer."""
        return any(
            bool((region.lower <= x).all() and (x <= region.upper).all())
            and any(case.holds(y) for case in region.cases)
            for region in self.regions
        )


@dataclass(frozen=True)
class _Word:
    text: str
    line: int


@dataclass(frozen=True)
class _List:
    parts: tuple["_Word | _List", ...]
    line: int


@dataclass(frozen=True)
class _Constraint:
    """Factors times variables are at most a level."""

    factors: tuple[tuple[str, Fraction], ...]
    level: Fraction
    line: int


def read_spec(source: str | Path) -> Spec:
    """Read a VNN-LIB file, also if it is compressed (`.gz`).

    Understood are declarations of real constants X_0, X_1, ... and Y_0, Y_1, ..., and
    assertions of <= and >= between linear terms (numbers, constants, +, -, *), joined
    by `and` and `or`, in at most 50 brackets in each other. Each X needs a lower and an
    upper bound of its own; what ties several inputs together, or inputs to outputs, is
    refused.

    Args:
        source: Of the file.

    Raises:
        BadInput: It is no such file; the message names the line.
    """
    path = Path(source)
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        # As editors save it: with a mark of the encoding, and any ends of lines.
        text = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read the spec '{path}': {error}") from error
    return _Reader(str(path)).read(text)


class _Reader:
    def __init__(self, name: str) -> None:
        self._name = name
        self._declared: dict[str, int] = {}

    def read(self, text: str) -> Spec:
        certain: list[_Constraint] = []
        choices: list[list[list[_Constraint]]] = []
        for statement in self._statements(text):
            head, *rest = statement.parts or (_Word("", statement.line),)
            name = head.text if isinstance(head, _Word) else "("
            if name == "declare-const":
                self._declare(statement, rest)
            elif name == "assert" and len(rest) == 1:
                either = self._normal(rest[0])
                if len(either) == 1:
                    certain += either[0]
                else:
                    choices.append(either)
            elif name not in ("set-logic", "set-info", "check-sat", "exit"):
                self._fail(
                    statement.line,
                    f"expected declare-const or assert with one formula; got '{name}'",
                )
        inputs, outputs = self._count("X"), self._count("Y")
        total = 1
        for either in choices:
            total *= len(either)
        if total > _MOST_CASES:
            raise BadInput(f"the spec '{self._name}' has {total:,} cases: too many")
        base = _Box(self, inputs, outputs)
        base.add(certain)
        boxes: dict[tuple[bytes, bytes], tuple[Array, Array]] = {}
        cases: dict[tuple[bytes, bytes], list[Case]] = defaultdict(list)
        for some in itertools.product(*choices):
            box = base.copy()
            for constraints in some:
                box.add(constraints)
            box.check()
            if (box.lower <= box.upper).all():
                key = box.lower.tobytes(), box.upper.tobytes()
                boxes.setdefault(key, (box.lower, box.upper))
                cases[key].append(box.case())
        regions = tuple(Region(*ends, tuple(cases[key])) for key, ends in boxes.items())
        return Spec(inputs, outputs, regions)

    def _statements(self, text: str) -> Iterator[_List]:
        """The lists at the outermost level, each with the line where it begins."""
        stack: list[tuple[list[_Word | _List], int]] = []
        line, end = 1, 0
        for match in _TOKEN.finditer(text):
            line += text.count("\n", end, match.start())
            end = match.start()
            token = match.group()
            if token.startswith(";"):
                continue
            if token == "(":
                stack.append(([], line))
                if len(stack) > _DEEPEST:
                    self._fail(line, f"more than {_DEEPEST} brackets in each other")
            elif not stack:
                self._fail(line, f"expected '('; got '{token}'")
            elif token == ")":
                parts, began = stack.pop()
                done = _List(tuple(parts), began)
                if stack:
                    stack[-1][0].append(done)
                else:
                    yield done
            else:
                stack[-1][0].append(_Word(token, line))
        if stack:
            self._fail(stack[0][1], "a '(' that is never closed")

    def _declare(self, statement: _List, rest: list["_Word | _List"]) -> None:
        words = [part.text for part in rest if isinstance(part, _Word)]
        match = _VARIABLE.fullmatch(words[0]) if words else None
        if len(words) != 2 or words[1] != "Real" or match is None:
            self._fail(
                statement.line,
                "expected a declaration such as (declare-const X_0 Real), of X or Y",
            )
            return
        if words[0] in self._declared:
            self._fail(statement.line, f"{words[0]} is declared twice")
        self._declared[words[0]] = statement.line

    def _count(self, kind: str) -> int:
        """How many variables of a kind there are; they are numbered from 0."""
        numbers = [int(name[2:]) for name in self._declared if name[0] == kind]
        if sorted(numbers) != list(range(len(numbers))) or not numbers:
            raise BadInput(
                f"the spec '{self._name}' must declare {kind}_0, {kind}_1 and so on "
                f"without a gap; it declares {len(numbers)}"
                + (f", up to {kind}_{max(numbers)}" if numbers else "")
            )
        return len(numbers)

    def _normal(self, formula: "_Word | _List") -> list[list[_Constraint]]:
        """A formula as one or several lists of constraints, any of which will do."""
        if isinstance(formula, _Word) or not formula.parts:
            self._fail(formula.line, "expected a formula in brackets")
        assert isinstance(formula, _List)
        head, *rest = formula.parts
        name = head.text if isinstance(head, _Word) else "("
        if name in ("and", "or"):
            if not rest:
                self._fail(formula.line, f"'{name}' of nothing")
            parts = [self._normal(part) for part in rest]
            if name == "or":
                return [some for part in parts for some in part]
            total = 1
            for part in parts:
                total *= len(part)
            if total > _MOST_CASES:
                self._fail(formula.line, f"{total:,} cases: too many")
            return [
                [constraint for some in chosen for constraint in some]
                for chosen in itertools.product(*parts)
            ]
        if name in ("<=", ">=") and len(rest) == 2:
            left, right = self._term(rest[0]), self._term(rest[1])
            less, more = (left, right) if name == "<=" else (right, left)
            factors, constant = _plus(less, more, -1)
            return [[_Constraint(tuple(factors.items()), -constant, formula.line)]]
        self._fail(
            formula.line,
            f"expected and, or, or <= or >= of two terms; got '{name}' of {len(rest)}",
        )
        return []

    def _term(self, term: "_Word | _List") -> Term:
        if isinstance(term, _Word):
            if term.text in self._declared:
                return {term.text: Fraction(1)}, Fraction(0)
            try:
                value = Decimal(term.text if _NUMBER.fullmatch(term.text) else "nan")
            except InvalidOperation:
                value = Decimal("nan")
            if not value.is_finite() or abs(value.adjusted()) > _MOST_PLACES:
                self._fail(
                    term.line,
                    f"expected a number or a declared X or Y; got '{term.text}'",
                )
            return {}, Fraction(value)
        head, *rest = term.parts or (_Word("", term.line),)
        name = head.text if isinstance(head, _Word) else "("
        parts = [self._term(part) for part in rest]
        if name not in ("+", "-", "*") or not parts:
            self._fail(term.line, f"expected +, - or * of some terms; got '{name}'")
        total = parts[0]
        if name == "-" and len(parts) == 1:
            return _plus(({}, Fraction(0)), total, -1)
        for part in parts[1:]:
            if name != "*":
                total = _plus(total, part, 1 if name == "+" else -1)
            elif total[0] and part[0]:
                self._fail(term.line, "a product of two variables is not linear")
            else:
                (_, factor), of = (total, part) if part[0] else (part, total)
                total = {k: v * factor for k, v in of[0].items()}, of[1] * factor
        return total

    def _fail(self, line: int, what: str) -> None:
        raise BadInput(f"line {line} of the spec '{self._name}': {what}")

    def refuse(self, constraint: _Constraint) -> None:
        """Refuse a constraint that is about more than one input, or about both sides.

        Raises:
            BadInput: Always.
        """
        names = ", ".join(name for name, _ in constraint.factors)
        self._fail(
            constraint.line,
            f"a constraint that ties {names} together; inputs must be bounded one by "
            "one, and outputs by constraints of their own",
        )

    def open_ended(self, place: int) -> None:
        """Refuse an input that is not bounded.

        Raises:
            BadInput: Always.
        """
        self._fail(
            self._declared[f"X_{place}"], f"X_{place} has no lower or no upper bound"
        )


class _Box:
    """What one way to meet a spec asks for."""

    def __init__(self, reader: _Reader, inputs: int, outputs: int) -> None:
        self._reader, self._outputs = reader, outputs
        self.lower, self.upper = np.full(inputs, -np.inf), np.full(inputs, np.inf)
        self._rows: list[_Constraint] = []

    def copy(self) -> "_Box":
        twin = _Box(self._reader, 0, self._outputs)
        twin.lower, twin.upper = self.lower.copy(), self.upper.copy()
        twin._rows = list(self._rows)
        return twin

    def add(self, constraints: list[_Constraint]) -> None:
        for constraint in constraints:
            factors = [(n, f) for n, f in constraint.factors if f != 0]
            kinds = {name[0] for name, _ in factors}
            if kinds == {"Y"} or not kinds:
                self._rows.append(constraint)
            elif len(factors) > 1:
                self._reader.refuse(constraint)
            else:
                ((name, factor),) = factors
                place, end = int(name[2:]), _rounded(constraint.level / factor)
                if factor > 0:
                    self.upper[place] = min(self.upper[place], end)
                else:
                    self.lower[place] = max(self.lower[place], end)

    def check(self) -> None:
        unbounded = np.isinf(self.lower) | np.isinf(self.upper)
        if unbounded.any():
            self._reader.open_ended(int(np.flatnonzero(unbounded)[0]))

    def case(self) -> Case:
        slopes = np.zeros((len(self._rows), self._outputs))
        for row, constraint in enumerate(self._rows):
            for name, factor in constraint.factors:
                if factor != 0:
                    slopes[row, int(name[2:])] = _rounded(factor)
        return Case(slopes, np.array([_rounded(row.level) for row in self._rows]))


def _rounded(value: Fraction) -> float:
    """The nearest double; larger ones stay as large."""
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def _plus(one: Term, other: Term, sign: int) -> Term:
    factors = dict(one[0])
    for name, factor in other[0].items():
        factors[name] = factors.get(name, Fraction(0)) + sign * factor
    return factors, one[1] + sign * other[1]
