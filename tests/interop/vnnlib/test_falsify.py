"""Problems with known answers, as spec files."""

import json
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


def save_linear(path, batch=1):
    """y = (x0 + 2 x1, x0 - x1, 1), on inputs (batch, 1, 2)."""
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
        [make("x", onnx.TensorProto.FLOAT, [batch, 1, 2])],
        [make("y", onnx.TensorProto.FLOAT, [batch, 3])],
        [weight, bias],
    )
    opset = onnx.helper.make_opsetid("", 17)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9)
    onnx.save(model, path)
    return path


@pytest.fixture
def linear(tmp_path):
    return save_linear(tmp_path / "linear.onnx")


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


# In single precision the ends are 0.1 up and 0.7 down, 1/3 up and -1/3 down.
@pytest.mark.parametrize(
    ("lower", "upper"), [((0.1, -1 / 3), (0.7, 1.1)), ((0.0, 0.1), (1 / 3, 0.3))]
)
@pytest.mark.parametrize("sign", ["<=", ">="])
def test_a_witness_is_what_the_network_is_shown(ask, lower, upper, sign):
    corner = lower if sign == "<=" else upper
    goal = corner[0] + 2 * corner[1] + (1e-5 if sign == "<=" else -1e-5)
    answer = ask(f"(assert ({sign} Y_0 {goal}))", lower=lower, upper=upper)
    assert answer.verdict == "sat"
    assert answer.exact
    assert (answer.x == answer.x.astype(np.float32)).all()
    assert ((lower <= answer.x) & (answer.x <= upper)).all()


def test_boxes_of_a_single_point(ask):
    x = (0.1, 1 / 3)
    answer = ask("(assert (>= Y_0 0.7))", x, x, rounds=2)
    assert answer.verdict == "sat"
    # No number in single precision is in that box, and the answer says so.
    assert (answer.x == x).all()
    assert not answer.exact
    assert ask("(assert (>= Y_0 0.8))", x, x, rounds=2).verdict == "unknown"


def test_networks_and_specs_that_do_not_fit(ask, linear, tmp_path):
    with pytest.raises(BadInput, match=r"3 inputs X, .* inputs of shape \(1, 2\)"):
        ask("(assert (<= Y_0 0))", (0.0,) * 3, (1.0,) * 3)
    path = tmp_path / "spec.vnnlib"
    path.write_text(spec_text((0.0, 0.0), (1.0, 1.0), 2, "(assert (<= Y_0 0))"))
    with pytest.raises(BadInput, match=r"declares 2 outputs Y, and .* has 3"):
        falsify(linear, path)
    for timeout in (0, "x"):
        with pytest.raises(BadInput, match="the timeout must be"):
            falsify(linear, path, timeout=timeout)
    for rounds in (0, "x"):
        with pytest.raises(BadInput, match="the number of rounds must be"):
            falsify(linear, path, rounds=rounds)
    for seed in (-1, 2**63, "a"):
        with pytest.raises(BadInput, match="the seed must be"):
            falsify(linear, path, seed=seed)


def test_networks_of_several_outputs_or_inputs_are_refused(linear, tmp_path):
    path = tmp_path / "spec.vnnlib"
    path.write_text(spec_text((0.0, -1.0), (1.0, 1.0), 3, "(assert (>= Y_0 2.5))"))
    make, float32 = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    for kind in ("output", "input"):
        model = onnx.load(linear)
        getattr(model.graph, kind).append(make("z", float32, [1, 3]))
        if kind == "input":
            model.graph.node[2].input[1] = "z"
            model.graph.node[1].output[0] = model.graph.node[2].input[0] = "product"
        onnx.save(model, tmp_path / "several.onnx")
        with pytest.raises(BadInput, match=rf"of one {kind}; 'several' has 2: .*'z'"):
            falsify(tmp_path / "several.onnx", path)


def test_any_seed_lasts_for_all_rounds(ask):
    answer = ask("(assert (>= Y_0 3.0001))", seed=2**63 - 1, rounds=3)
    assert (answer.verdict, answer.rounds) == ("unknown", 3)


def test_networks_saved_for_several_inputs(linear, tmp_path):
    several = save_linear(tmp_path / "several.onnx", batch=5)
    path = tmp_path / "spec.vnnlib"
    path.write_text(spec_text((0.0, -1.0), (1.0, 1.0), 3, "(assert (>= Y_0 2.5))"))
    answer, same = (falsify(model, path) for model in (several, linear))
    assert answer.text() == same.text()
    assert answer.verdict == "sat"


def test_the_command_line(linear, tmp_path):
    path, out = tmp_path / "spec.vnnlib", tmp_path / "result.txt"
    path.write_text(spec_text((0.0, 0.0), (1.0, 1.0), 3, "(assert (>= Y_0 2.5))"))
    command = ["vnnlib", str(linear), str(path), "--out", str(out)]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    assert done.stdout == out.read_text()
    assert done.stdout.startswith("sat\n((X_0 ")
    again = CliRunner().invoke(
        main, ["eval", str(linear), "--vnnlib", str(path), "--seed", "0"]
    )
    assert again.stdout == done.stdout
    path.write_text("(assert (<= Y_0 0))")
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 2
    assert "line 1 of the spec" in done.stderr


def test_several_specs_on_the_command_line(linear, tmp_path):
    goals = {"one": "(assert (>= Y_0 2.5))", "two": "(assert (<= X_0 -2))"}
    specs = [tmp_path / f"{name}.vnnlib" for name in goals]
    for spec, goal in zip(specs, goals.values(), strict=True):
        spec.write_text(spec_text((0.0, 0.0), (1.0, 1.0), 3, goal))
    out = tmp_path / "answers"
    command = ["vnnlib", str(linear), *map(str, specs), "--out", str(out)]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    kept = [(out / f"{name}.txt").read_text() for name in goals]
    assert kept[1] == "unsat\n"
    expected = [f"; {spec}\n{text}" for spec, text in zip(specs, kept, strict=True)]
    assert done.stdout == "".join(expected)
    options = [word for spec in specs for word in ("--vnnlib", str(spec))]
    lines = CliRunner().invoke(main, ["eval", str(linear), *options, "--json"])
    told = [json.loads(line) for line in lines.stdout.splitlines()]
    assert [(a["spec"], a["verdict"]) for a in told] == [
        (str(specs[0]), "sat"),
        (str(specs[1]), "unsat"),
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["eval", "--vnnlib", "a.vnnlib"], "--vnnlib needs a MODEL"),
        (
            ["eval", "n.onnx", "--vnnlib", "a.vnnlib", "--norm", "l2"],
            "leave out --norm",
        ),
        (["vnnlib", "n.onnx", "a/p.vnnlib", "b/p.vnnlib", "--out", "o"], "are named p"),
        (["vnnlib", "n.onnx", "a.vnnlib", "--out", "."], "'.' is a folder"),
        (["vnnlib", "n.onnx", "a.vnnlib", "--out", "no/a.txt"], "no folder 'no'"),
        (
            ["vnnlib", "linear.onnx", "p.vnnlib", "q.vnnlib", "--out", "full"],
            "cannot write the answer to 'full/p.txt'",
        ),
    ],
)
def test_the_command_line_refuses(words, message, linear, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "pq":
        text = spec_text((0.0, 0.0), (1.0, 1.0), 3, "(assert (>= Y_0 2.5))")
        (tmp_path / f"{name}.vnnlib").write_text(text)
    (tmp_path / "full" / "p.txt").mkdir(parents=True)
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2
    assert message in done.stderr


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
        answer = falsify(model, path, rounds=3, timeout=120)
        if problems["verdict"][row] == "unsat":
            assert answer.verdict == "unknown"
        else:
            broken += answer.verdict == "sat"
    assert broken >= found
