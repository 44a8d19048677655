"""Reading VNN-LIB files."""

import gzip

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustkit.errors import BadInput
from robustkit.interop.vnnlib import read_spec

HEAD = """; two inputs, two outputs
(declare-const X_0 Real)
(declare-const X_1 Real)
(declare-const Y_0 Real)
(declare-const Y_1 Real)
"""
BOX = """
(assert (<= X_0 0.5)) (assert (>= X_0 -0.5))
(assert (<= 0.0 X_1))
(assert (>= 1e0 X_1))
"""


@pytest.fixture
def read(tmp_path):
    def reader(text, head=HEAD + BOX):
        path = tmp_path / "spec.vnnlib"
        path.write_text(head + text)
        return read_spec(path)

    return reader


def test_a_box_and_a_half_space(read):
    spec = read("(assert (<= Y_0 Y_1))")
    assert (spec.inputs, spec.outputs) == (2, 2)
    (region,) = spec.regions
    assert region.lower.tolist() == [-0.5, 0.0]
    assert region.upper.tolist() == [0.5, 1.0]
    (case,) = region.cases
    assert case.slopes.tolist() == [[1.0, -1.0]]
    assert case.levels.tolist() == [0.0]


def test_linear_terms_of_all_kinds(read):
    spec = read("(assert (>= (+ (* 2 Y_0) (- Y_1) (* Y_1 -3.5) 1) (- 4 Y_0 0.5)))")
    ((case,),) = (region.cases for region in spec.regions)
    # 2 y0 - y1 - 3.5 y1 + 1 >= 3.5 - y0
    assert case.slopes.tolist() == [[-3.0, 4.5]]
    assert case.levels.tolist() == [-2.5]


def test_cases_with_one_box_are_one_region(read):
    spec = read("(assert (or (and (>= Y_0 1) (<= Y_1 2)) (and (<= Y_0 -1))))")
    (region,) = spec.regions
    assert [case.slopes.tolist() for case in region.cases] == [
        [[-1.0, 0.0], [0.0, 1.0]],
        [[1.0, 0.0]],
    ]


def test_boxes_may_differ_by_case_and_assertions_are_joined(read):
    spec = read(
        """(assert (or
            (and (<= X_0 -0.2) (<= Y_0 0))
            (and (>= X_0 0.2) (<= Y_0 0))
            (and (>= X_0 0.7) (<= Y_0 0))))
        (assert (or (<= Y_1 0) (>= Y_1 5)))"""
    )
    # The third box is empty.
    assert [(r.lower[0], r.upper[0], len(r.cases)) for r in spec.regions] == [
        (-0.5, -0.2, 2),
        (0.2, 0.5, 2),
    ]


def test_a_spec_may_contradict_itself(read):
    assert read("(assert (>= X_0 2)) (assert (<= Y_0 0))").regions == ()


def test_rounding_is_no_contradiction(read):
    # In double precision 3 * 0.1 is above 0.3.
    text = "(assert (>= X_0 (* 3 0.1))) (assert (<= X_0 0.3)) (assert (>= Y_0 0))"
    (region,) = read(text).regions
    assert region.lower[0] == region.upper[0] == 0.3
    beyond = "(assert (>= X_0 0.30000000000000001))"
    assert len(read(text + beyond).regions) == 1
    assert read(text + "(assert (>= X_0 0.3000001))").regions == ()


@pytest.mark.parametrize(
    "number", ["1e999999999", "1e-999999999", f"1e{9**30}", "nan", "inf"]
)
def test_numbers_that_no_double_holds(read, number):
    with pytest.raises(BadInput, match="expected a number"):
        read(f"(assert (<= Y_0 {number}))")


def test_numbers_of_all_forms(read):
    for text, value in (("+1", 1), ("-2.", -2), (".5", 0.5), ("1.5E-1", 0.15)):
        (region,) = read(f"(assert (<= Y_0 {text}))").regions
        assert region.cases[0].levels == [value]


def test_variables_have_one_name(read):
    with pytest.raises(BadInput, match="such as"):
        read("", head="(declare-const X_00 Real)")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_files_as_any_editor_saves_them(tmp_path, end):
    """A comment ends with its line: what is below it counts."""
    path = tmp_path / "spec.vnnlib"
    text = HEAD + BOX + "; the goal\n(assert (<= Y_0 0))\n"
    path.write_bytes(text.replace("\n", end).encode("utf-8-sig"))
    ((case,),) = (region.cases for region in read_spec(path).regions)
    assert case.slopes.tolist() == [[1.0, 0.0]]
    path.write_bytes((text + "(assert (= Y_0 0))").replace("\n", end).encode())
    with pytest.raises(BadInput, match="line 12 of"):
        read_spec(path)


def test_compressed_files(tmp_path):
    path = tmp_path / "spec.vnnlib.gz"
    path.write_bytes(gzip.compress((HEAD + BOX + "(assert (<= Y_0 0))").encode()))
    assert read_spec(path).inputs == 2
    path.write_bytes(b"not gzip")
    with pytest.raises(BadInput, match="cannot read the spec"):
        read_spec(path)


FORMULA = st.recursive(
    st.builds(
        lambda sign, place, level: f"({sign} Y_{place} {level})",
        st.sampled_from(["<=", ">="]),
        st.integers(0, 1),
        st.integers(-3, 3),
    ),
    lambda inner: st.builds(
        lambda name, parts: f"({name} {' '.join(parts)})",
        st.sampled_from(["and", "or"]),
        st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=6,
)


def truth(formula, y):
    """What a formula says of outputs, by Python itself."""
    stack = []
    for token in formula.replace("(", " ( ").replace(")", " ) ").split():
        if token != ")":
            stack.append(token)
            continue
        parts = []
        while stack[-1] != "(":
            parts.append(stack.pop())
        stack.pop()
        *rest, head = parts
        if head in ("and", "or"):
            stack.append((all if head == "and" else any)(rest))
        else:
            value, level = y[int(rest[1][2:])], float(rest[0])
            stack.append(value <= level if head == "<=" else value >= level)
    return stack[0]


@given(formulas=st.lists(FORMULA, min_size=1, max_size=3), seed=st.integers(0, 99))
def test_formulas_mean_what_they_say(tmp_path_factory, formulas, seed):
    path = tmp_path_factory.getbasetemp() / "random.vnnlib"
    path.write_text(HEAD + BOX + "".join(f"(assert {f})\n" for f in formulas))
    spec = read_spec(path)
    rng = np.random.default_rng(seed)
    for y in rng.integers(-3, 4, size=(8, 2)).astype(float):
        expected = all(truth(formula, y) for formula in formulas)
        assert spec.holds(np.array([0.0, 0.5]), y) == expected
        assert not spec.holds(np.array([0.6, 0.5]), y)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("(assert (<= Y_0 Y_2))", r"line 10 of .*declared X or Y; got 'Y_2'"),
        ("\n(assert (<= Y_0 0)", r"line 11 of .*'\(' that is never closed"),
        ("hello", r"line 10 of .*expected '\('; got 'hello'"),
        ("(assert (= Y_0 0))", r"line 10 of .*<= or >= of two terms; got '=' of 2"),
        ("(assert (<= Y_0 0 1))", "got '<=' of 3"),
        ("(assert (<= (* Y_0 Y_1) 0))", "two variables is not linear"),
        ("(assert (<= (/ Y_0 2) 0))", "of some terms; got '/'"),
        ("(assert (<= (+ X_0 X_1) 0))", "ties X_0, X_1 together"),
        ("(assert (<= X_0 Y_0))", "ties X_0, Y_0 together"),
        ("(assert (or))", "'or' of nothing"),
        ("(assert " + "(and " * 60 + "(<= Y_0 0)" + ")" * 61, "more than 50 brackets"),
        (
            "".join("(assert (or (<= Y_0 0) (<= Y_1 0)))" for _ in range(20)),
            "1,048,576 cases: too many",
        ),
        ("(assert Y_0)", "a formula in brackets"),
        ("(assert (<= Y_0 nan))", "got 'nan'"),
        *[
            (f"(assert (<= Y_0 {text}))", "expected a number or a declared X or Y")
            for text in ("-0_9", "1_0", "\u0663", "1.\u0662", "sNaN", "1e", ".", "0x1")
        ],
        ("(declare-const X_0 Real)", "X_0 is declared twice"),
        ("(declare-fun X_2 () Real)", "expected declare-const or assert"),
        ("(declare-const Z_0 Real)", r"such as \(declare-const X_0 Real\)"),
        ("(declare-const X_7 Real)", "without a gap; it declares 3, up to X_7"),
        ("(declare-const X_2 Real)\n(assert (<= X_2 1))", "line 10 .*X_2 has no lower"),
    ],
)
def test_bad_specs_get_one_error_with_the_line(read, text, words):
    with pytest.raises(BadInput, match=words):
        read(text)
