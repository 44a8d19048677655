"""Problems with known answers, as spec files."""

import re

import numpy as np
import pytest
from click.testing import CliRunner

from robustkit.cli import main
from robustkit.errors import BadInput

onnx = pytest.importorskip("onnx", reason="the extra [onnx] is not installed")
onnxruntime = pytest.importorskip(
    "onnxruntime", reason="the extra [onnx] is not installed"
)

from robustkit.interop.vnnlib import falsify, read_spec  # noqa: E402 (needs them)


def spec_text(lower, upper, outputs, goal):
    """A spec as the competitions write them."""
    lines = [f"(declare-const X_{i} Real)" for i in range(len(lower))]
    lines += [f"(declare-const Y_{i} Real)" for i in range(outputs)]
    for i, (low, high) in enumerate(zip(lower, upper, strict=True)):
        lines += [f"(assert (<= X_{i} {high!r}))", f"(assert (>= X_{i} {low!r}))"]
    return "\n".join([*lines, goal]) + "\n"


def robustness(y, target, classes):
    """The label loses: to any other class, or to a target before all others."""
    if target >= 0:
        rest = (j for j in range(classes) if j != target)
        return "".join(f"(assert (<= Y_{j} Y_{target}))\n" for j in rest)
    cases = (f"(and (>= Y_{j} Y_{y}))" for j in range(classes) if j != y)
    return f"(assert (or {' '.join(cases)}))"


@pytest.fixture
def linear(tmp_path):
    """y = (x0 + 2 x1, x0 - x1, 1), on inputs (n, 1, 2)."""
    weight = onnx.numpy_helper.from_array(
        np.array([[1.0, 1.0, 0.0], [2.0, -1.0, 0.0]], np.float32), "w"
    )
    bias = onnx.numpy_helper.from_array(np.array([0, 0, 1], np.float32), "b")
    make = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Flatten", ["x"], ["flat"]),
            onnx.helper.make_node("MatMul", ["flat", "w"], ["z"]),
            onnx.helper.make_node("Add", ["z", "b"], ["y"]),
        ],
        "linear",
        [make("x", onnx.TensorProto.FLOAT, [1, 1, 2])],
        [make("y", onnx.TensorProto.FLOAT, [1, 3])],
        [weight, bias],
    )
    opset = onnx.helper.make_opsetid("", 17)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9)
    path = tmp_path / "linear.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture
def ask(linear, tmp_path):
    def asked(goal, lower=(0.0, -1.0), upper=(1.0, 1.0), **settings):
        path = tmp_path / "spec.vnnlib"
        path.write_text(spec_text(lower, upper, 3, goal))
        return falsify(linear, path, **settings)

    return asked


@pytest.mark.parametrize(
    ("goal", "verdict"),
    [
        # The largest x0 + 2 x1 is 3, at a corner; the least x0 - x1 is -1.
        ("(assert (>= Y_0 2.9999))", "sat"),
        ("(assert (>= Y_0 3.0001))", "unknown"),
        ("(assert (<= Y_1 -0.999))", "sat"),
        ("(assert (<= Y_1 -1.001))", "unknown"),
        # Of two halves that each can be met, not both.
        ("(assert (>= Y_0 2.5)) (assert (>= Y_1 0.6))", "unknown"),
        ("(assert (or (>= Y_0 2.5) (>= Y_1 1.9)))", "sat"),
        ("(assert (or (>= Y_0 9) (and (>= Y_1 1.9) (<= Y_0 -0.9))))", "sat"),
        # Only in the box that one case adds.
        ("(assert (or (and (>= X_0 0.9) (>= Y_0 2.95)) (>= Y_0 4)))", "sat"),
        ("(assert (or (and (<= X_0 0.1) (>= Y_0 2.95)) (>= Y_0 4)))", "unknown"),
        ("(assert (<= Y_2 1.0))", "sat"),
        ("(assert (<= X_0 -2)) (assert (<= Y_0 0))", "unsat"),
        ("(assert (<= (+ (* 2.0 Y_0) (* -1.0 Y_1) Y_2) -3.9))", "sat"),
    ],
)
def test_verdicts_on_a_network_that_is_seen_through(ask, goal, verdict):
    answer = ask(goal, rounds=6)
    assert answer.verdict == verdict
    assert (answer.x is not None) == (verdict == "sat")


def test_a_witness_is_what_onnxruntime_says(ask, linear, tmp_path):
    answer = ask("(assert (>= Y_0 2.5))", lower=(0.1, -1 / 3), upper=(0.7, 1.1))
    assert answer.verdict == "sat"
    first, rest = answer.text().split("\n", 1)
    assert first == "sat"
    assert rest.startswith("((X_0 ")
    assert rest.endswith("))\n")
    values = dict(re.findall(r"\(([XY]_\d) ([^()]+)\)", rest))
    assert list(values) == ["X_0", "X_1", "Y_0", "Y_1", "Y_2"]
    x = np.array([float(values["X_0"]), float(values["X_1"])])
    y = np.array([float(values[f"Y_{i}"]) for i in range(3)])
    assert read_spec(tmp_path / "spec.vnnlib").holds(x, y)
    session = onnxruntime.InferenceSession(str(linear))
    (said,) = session.run(None, {"x": x.astype(np.float32).reshape(1, 1, 2)})
    assert (said[0] == y).all()


def test_boxes_of_a_single_point(ask):
    x = (0.1, 1 / 3)
    assert ask("(assert (>= Y_0 0.7))", x, x, rounds=2).verdict == "sat"
    assert ask("(assert (>= Y_0 0.8))", x, x, rounds=2).verdict == "unknown"


def test_networks_and_specs_that_do_not_fit(ask, linear, tmp_path):
    with pytest.raises(BadInput, match=r"3 inputs X, .* inputs of shape \(1, 2\)"):
        ask("(assert (<= Y_0 0))", (0.0,) * 3, (1.0,) * 3)
    path = tmp_path / "spec.vnnlib"
    path.write_text(spec_text((0.0, 0.0), (1.0, 1.0), 2, "(assert (<= Y_0 0))"))
    with pytest.raises(BadInput, match=r"declares 2 outputs Y, and .* has 3"):
        falsify(linear, path)
    with pytest.raises(BadInput, match="above 0 seconds"):
        falsify(linear, path, timeout=0)


def test_the_command_line(linear, tmp_path):
    path, out = tmp_path / "spec.vnnlib", tmp_path / "result.txt"
    path.write_text(spec_text((0.0, 0.0), (1.0, 1.0), 3, "(assert (>= Y_0 2.5))"))
    command = ["vnnlib", str(linear), str(path), "--out", str(out)]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    assert done.stdout == out.read_text()
    assert done.stdout.startswith("sat\n((X_0 ")
    path.write_text("(assert (<= Y_0 0))")
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 2
    assert "line 1 of the spec" in done.stderr


# Witnessed ones among the first eight of each that are found within a few rounds.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("category", "found"),
    [("mnistfc", 2), ("oval21", 1), ("marabou_cifar10", 2), ("sri_resnet_a", 2)],
)
def test_known_verdicts(shared, tmp_path, category, found):
    problems, folder = shared.vnncomp(category)
    sat = np.flatnonzero((problems["verdict"] == "sat") & problems["witnessed"])[:3]
    unsat = np.flatnonzero(problems["verdict"] == "unsat")[:1]
    broken = 0
    for row in (*sat, *unsat):
        classes = int(problems["n_classes"][row])
        goal = robustness(
            int(problems["y"][row]), int(problems["target"][row]), classes
        )
        path = tmp_path / "spec.vnnlib"
        lower, upper = (problems[k][row].tolist() for k in ("lower", "upper"))
        path.write_text(spec_text(lower, upper, classes, goal))
        model = folder / str(problems["model"][row])
        answer = falsify(model, path, rounds=3, timeout=30)
        if problems["verdict"][row] == "unsat":
            assert answer.verdict == "unknown"
        else:
            broken += answer.verdict == "sat"
    assert broken >= found
