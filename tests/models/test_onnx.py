import hashlib

import numpy as np
import pytest
import torch

import robustkit as rk

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from robustkit.errors import BadInput, MissingPackage  # noqa: E402
from robustkit.models.base import Access, NoGradient  # noqa: E402
from robustkit.models.onnx import OnnxModel  # noqa: E402
from robustkit.models.onnx_operators import OPERATORS  # noqa: E402
from robustkit.models.wrappers import Preprocessed  # noqa: E402
from robustkit.numerics.bounds import Bounds  # noqa: E402
from robustkit.numerics.tensors import as_tensor, like, to_numpy  # noqa: E402

WEIGHTS = np.random.default_rng(0).normal(size=(6, 4))
FILES = {
    "cifar10_resnet": 1,
    "eran_mnist": 2,
    "marabou_cifar10": 2,
    "mnistfc": 3,
    "oval21": 3,
    "sri_resnet_a": 1,
    "traffic_bnn_30": 1,
    "verivital_mnist": 2,
}


def network(
    *,
    size="n",
    features=(2, 3),
    reshape=(-1, 6),
    dtype=np.float32,
    nodes=(),
    output="scores",
    inputs=("x",),
    kind=None,
):
    """Bytes of: reshape (size, 2, 3), times WEIGHTS, then `nodes` from 'scores'."""
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        [
            helper.make_node("Reshape", ["x", "shape"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weights"], ["scores"]),
            *nodes,
        ],
        "small",
        [helper.make_tensor_value_info(i, element, [size, *features]) for i in inputs],
        [helper.make_tensor_value_info(output, kind or element, None)],
        [
            numpy_helper.from_array(np.array(reshape, np.int64), "shape"),
            numpy_helper.from_array(WEIGHTS.astype(dtype), "weights"),
        ],
    )
    opset = [helper.make_opsetid("", 13)]
    model = helper.make_model(graph, ir_version=8, opset_imports=opset)
    return model.SerializeToString()


def inputs(count, dtype=np.float32):
    return np.random.default_rng(count).random((count, 2, 3)).astype(dtype)


def scores(x):
    return x.reshape(len(x), 6) @ WEIGHTS


def test_sizes_may_be_taken_from_the_input():
    """As exporters write `x.view(x.size(0), -1)`."""
    nodes = [
        helper.make_node("Shape", ["scores"], ["sizes"]),
        helper.make_node("Constant", [], ["first"], value_int=0),
        helper.make_node("Gather", ["sizes", "first"], ["count"]),
        helper.make_node("Constant", [], ["axis"], value_ints=[0]),
        helper.make_node("Unsqueeze", ["count", "axis"], ["counts"]),
        helper.make_node("Constant", [], ["rest"], value_ints=[-1]),
        helper.make_node("Concat", ["counts", "rest"], ["shape2"], axis=0),
        helper.make_node("Reshape", ["scores", "shape2"], ["out"]),
    ]
    model, x = OnnxModel(network(nodes=nodes, output="out")), inputs(3)
    assert model.notes == ()
    logits, _ = model.linearise(model.to_tensor(x))
    np.testing.assert_allclose(to_numpy(logits), scores(x), atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"size": 1},
        {"size": 4},
        {"size": 4, "reshape": (4, 6)},
        {"reshape": (1, 6)},
        {"reshape": (3, 6)},
        {"reshape": (20, -1)},
    ],
)
def test_files_work_at_any_batch_size(options):
    model = OnnxModel(network(**options))
    for count in (5, 1, 4, 23):
        x = inputs(count)
        np.testing.assert_allclose(
            to_numpy(model.logits(as_tensor(x))), scores(x), atol=1e-5
        )
        slopes = np.random.default_rng(1).normal(size=(count, 4))
        logits, pull_back = model.linearise(model.to_tensor(x))
        np.testing.assert_allclose(to_numpy(logits), scores(x), atol=1e-5)
        np.testing.assert_allclose(
            to_numpy(pull_back(like(logits, slopes))).reshape(count, 6),
            slopes @ WEIGHTS.T,
            atol=1e-5,
        )


@pytest.mark.parametrize("file", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("asked", [np.float32, np.float64])
def test_answers_have_the_dtype_of_the_question(file, asked):
    x = inputs(5, asked)
    model = OnnxModel(network(dtype=file))
    point = model.to_tensor(x)
    logits, pull_back = model.linearise(point)
    out = to_numpy(model.logits(point))
    assert out.dtype == to_numpy(logits).dtype == asked
    assert pull_back(logits).dtype == point.dtype
    tolerance = 2e-2 if file == np.float16 else 1e-5
    np.testing.assert_allclose(out, scores(x), atol=tolerance)
    np.testing.assert_allclose(to_numpy(logits), scores(x), atol=tolerance)


def test_answers_are_of_the_framework_of_the_question():
    model, x = OnnxModel(network()), inputs(3)
    assert isinstance(model.logits(as_tensor(x)).raw, np.ndarray)
    assert isinstance(model.logits(model.to_tensor(x)).raw, torch.Tensor)


def test_what_it_says_of_itself(tmp_path):
    file = tmp_path / "small.onnx"
    file.write_bytes(network())
    model = OnnxModel(file, (0, 255), threads=2)
    assert (model.access, model.name) == (Access.GRADIENT, "small")
    assert model.notes == ()
    assert model.bounds == Bounds(0, 255)
    assert model.fingerprint() == hashlib.sha256(file.read_bytes()).hexdigest()
    assert OnnxModel(network()).fingerprint() == model.fingerprint()
    assert OnnxModel(network(dtype=np.float64)).fingerprint() != model.fingerprint()
    assert not as_tensor(model.to_tensor(inputs(2)).raw).raw.requires_grad


def test_weights_in_a_file_beside_are_part_of_the_fingerprint(tmp_path):
    def saved(name, factor):
        proto = onnx.load_model_from_string(network())
        weights = numpy_helper.from_array(
            factor * WEIGHTS.astype(np.float32), "weights"
        )
        proto.graph.initializer[1].CopyFrom(weights)
        (tmp_path / name).mkdir()
        file = tmp_path / name / "small.onnx"
        onnx.save(
            proto, file, save_as_external_data=True, location="w", size_threshold=64
        )
        return file

    files = [saved("one", 1), saved("same", 1), saved("other", 2)]
    assert len({file.read_bytes() for file in files}) == 1
    one, same, other = (OnnxModel(file).fingerprint() for file in files)
    assert one == same != other


def after(*operators):
    """The operators one after the other, from 'scores' to 'out'."""
    names = ["scores", *(f"value{i}" for i in range(1, len(operators))), "out"]
    return [
        helper.make_node(name, [before], [after])
        for name, before, after in zip(operators, names, names[1:], strict=False)
    ]


@pytest.mark.parametrize(
    ("operators", "reason"),
    [
        (["Hardmax"], "robustkit does not know its operator 'Hardmax'"),
        (["Sign"], "no gradient passes through its Sign"),
        (["Sign", "Tanh", "Round"], "no gradient passes through its Round, Sign"),
    ],
)
def test_without_gradients_it_shows_scores_and_says_why(operators, reason, tmp_path):
    file = tmp_path / "small.onnx"
    file.write_bytes(network(nodes=after(*operators), output="out"))
    model, x = OnnxModel(file), inputs(4)
    assert model.access is Access.SCORE
    assert model.notes == (f"the ONNX model 'small' gives no gradients: {reason}",)
    assert model.logits(model.to_tensor(x)).shape == (4, 4)
    with pytest.raises(NoGradient, match=f"{reason}; use a score- or decision-based"):
        model.linearise(model.to_tensor(x))
    wrapped = Preprocessed(model, [0.0], [0.5])
    assert (wrapped.access, wrapped.notes) == (Access.SCORE, model.notes)
    y = to_numpy(model.logits(as_tensor(x))).argmax(axis=1)
    results = rk.evaluate(file, (x, y), attacks=["gaussian-noise"])
    assert model.notes[0] in results.run["notes"]


def test_a_network_that_is_rebuilt_wrongly_gives_no_gradients(monkeypatch):
    content = network(nodes=after("Tanh"), output="out")
    monkeypatch.setitem(OPERATORS, "Tanh", lambda x: 1.01 * x.tanh())
    assert "scores differ from onnxruntime's by 0.01" in OnnxModel(content).notes[0]
    monkeypatch.setitem(OPERATORS, "Tanh", lambda x: x.tanh() / 0 * 0)
    assert "scores differ" in OnnxModel(content).notes[0]
    monkeypatch.setitem(OPERATORS, "Tanh", lambda x: x.no_such_method())
    assert "it fails: 'Tensor' object has no" in OnnxModel(content).notes[0]
    monkeypatch.setitem(OPERATORS, "Tanh", lambda x: x.tanh() * (1 + 1e-6))
    assert OnnxModel(content).access is Access.GRADIENT


def test_gradients_go_straight_through_steps_where_wanted():
    content = network(nodes=after("Sign"), output="out")
    model, x = OnnxModel(content, straight_through=True), inputs(5)
    assert model.access is Access.GRADIENT
    slopes = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
    logits, pull_back = model.linearise(model.to_tensor(x))
    np.testing.assert_array_equal(to_numpy(logits), np.sign(scores(x)))
    np.testing.assert_allclose(
        to_numpy(pull_back(like(logits, slopes))).reshape(5, 6),
        slopes @ WEIGHTS.T,
        atol=1e-5,
    )


def test_gradients_are_finite_differences_of_onnxruntime():
    nodes = [
        helper.make_node("Mul", ["scores", "scores"], ["squares"]),
        helper.make_node("Sigmoid", ["squares"], ["bent"]),
        helper.make_node("ReduceMean", ["scores"], ["middle"], axes=[1]),
        helper.make_node("Exp", ["middle"], ["large"]),
        helper.make_node("Mul", ["bent", "large"], ["out"]),
    ]
    model = OnnxModel(network(nodes=nodes, output="out", dtype=np.float64))
    x = inputs(3, np.float64)
    slopes = np.random.default_rng(1).normal(size=(3, 4))
    logits, pull_back = model.linearise(model.to_tensor(x))
    gradient = to_numpy(pull_back(like(logits, slopes)))
    for place in np.ndindex(2, 3):
        shift = np.zeros(x.shape)
        shift[:, *place] = 1e-6
        up, down = (
            to_numpy(model.logits(as_tensor(p))) for p in (x + shift, x - shift)
        )
        rise = ((up - down) * slopes).sum(axis=1) / 2e-6
        np.testing.assert_allclose(gradient[:, *place], rise, atol=1e-7)


@pytest.mark.parametrize(
    ("operators", "left_out"),
    [
        (["Softmax"], True),
        (["Softmax", "Identity", "Identity"], True),
        (["Softmax", "Neg"], False),
        (["LogSoftmax"], False),
    ],
)
@pytest.mark.parametrize("from_file", [True, False])
def test_a_last_softmax_is_left_out(operators, left_out, from_file, tmp_path):
    content = network(nodes=after(*operators), output="out")
    (tmp_path / "small.onnx").write_bytes(content)
    model = OnnxModel(tmp_path / "small.onnx" if from_file else content)
    x = inputs(5)
    logits, _ = model.linearise(model.to_tensor(x))
    same = np.allclose(to_numpy(logits), scores(x), atol=1e-5)
    assert same == left_out
    np.testing.assert_allclose(
        to_numpy(model.logits(as_tensor(x))), to_numpy(logits), atol=1e-5
    )


def test_a_last_softmax_is_left_out_beside_labels():
    nodes = [*after("Softmax"), helper.make_node("ArgMax", ["out"], ["label"], axis=1)]
    loaded = onnx.load_from_string(network(nodes=nodes, output="out"))
    entry = helper.make_tensor_value_info("label", TensorProto.INT64, None)
    loaded.graph.output.insert(0, entry)
    x = inputs(5)
    out = OnnxModel(loaded.SerializeToString()).logits(as_tensor(x))
    np.testing.assert_allclose(to_numpy(out), scores(x), atol=1e-5)


@pytest.mark.parametrize(("axis", "left_out"), [(1, True), (-1, False), (None, False)])
def test_a_softmax_over_a_last_axis_of_one_is_no_softmax_over_the_classes(
    axis, left_out
):
    settings = {} if axis is None else {"axis": axis}
    nodes = [
        helper.make_node("Unsqueeze", ["scores", "last"], ["column"]),
        helper.make_node("Softmax", ["column"], ["out"], **settings),
    ]
    loaded = onnx.load_from_string(network(nodes=nodes, output="out"))
    loaded.graph.initializer.append(numpy_helper.from_array(np.array([2]), "last"))
    x = inputs(5)
    out = to_numpy(OnnxModel(loaded.SerializeToString()).logits(as_tensor(x)))
    expected = scores(x) if left_out else np.ones((5, 4))
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_a_softmax_over_other_axes_or_of_the_input_itself_stays():
    def single(axis):
        node = helper.make_node("Softmax", ["x"], ["out"], axis=axis)
        graph = helper.make_graph(
            [node],
            "single",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
            [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", 3])],
        )
        opset = [helper.make_opsetid("", 13)]
        made = helper.make_model(graph, ir_version=8, opset_imports=opset)
        return OnnxModel(made.SerializeToString())

    x = np.random.default_rng(0).random((4, 3)).astype(np.float32)
    parts = np.exp(x)
    for axis in (0, 1):
        expected = parts / parts.sum(axis=axis, keepdims=True)
        model = single(axis)
        logits, _ = model.linearise(model.to_tensor(x))
        np.testing.assert_allclose(to_numpy(logits), expected, rtol=1e-5)


def test_sizes_that_the_file_leaves_open_are_tried():
    nodes = [helper.make_node("GlobalAveragePool", ["x"], ["out"])]
    loaded = onnx.load_from_string(network(features=(3, "height", "width")))
    del loaded.graph.node[:]
    loaded.graph.node.extend(nodes)
    loaded.graph.output[0].name = "out"
    model = OnnxModel(loaded.SerializeToString())
    assert model.access is Access.GRADIENT
    x = model.to_tensor(np.random.default_rng(0).random((5, 3, 7, 9)))
    logits, pull_back = model.linearise(x)
    np.testing.assert_allclose(
        to_numpy(logits), to_numpy(x).mean(axis=(2, 3)), atol=1e-6
    )
    np.testing.assert_allclose(to_numpy(pull_back(logits * 0 + 1)), 1 / 63, rtol=1e-6)
    model = OnnxModel(network(features=("height", "width")))
    assert model.access is Access.SCORE
    assert "leaves open how long the axes of its input are" in model.notes[0]


def test_evaluation_attacks_with_gradients(tmp_path):
    file = tmp_path / "small.onnx"
    file.write_bytes(network(size=1))
    x = inputs(20)
    y = scores(x).argmax(axis=1)
    results = rk.evaluate(file, (x, y), norm="l2", bounds=(-9, 9))
    assert results.run["model"]["access"] == "gradient"
    assert set(results.run["config"]["attacks"]["l2"]) == {"auto"}
    # The distance to the nearest of the planes between the label and another class.
    margin = scores(x)[np.arange(20), y][:, None] - scores(x)
    normal = np.linalg.norm(WEIGHTS.T[y][:, None] - WEIGHTS.T, axis=2)
    normal[np.arange(20), y] = 1e-9
    margin[np.arange(20), y] = 1.0
    exact = (margin / normal).min(axis=1)
    assert (results.distance >= exact * (1 - 1e-5)).all()
    assert np.median(results.distance / exact) < 1.001


def test_trailing_axes_of_length_one_are_left_out():
    nodes = [
        helper.make_node("Unsqueeze", ["scores", "axes"], ["wide"]),
        helper.make_node("Constant", [], ["axes"], value_ints=[2, 3]),
    ]
    model = OnnxModel(network(nodes=nodes[::-1], output="wide"))
    assert model.logits(as_tensor(inputs(5))).shape == (5, 4)


def test_of_several_outputs_the_logits_are_used():
    nodes = [
        helper.make_node("ArgMax", ["scores"], ["label"], axis=1),
        helper.make_node("Neg", ["scores"], ["logits"]),
    ]
    loaded = onnx.load_from_string(network(nodes=nodes))
    for name, kind in (("label", TensorProto.INT64), ("logits", TensorProto.FLOAT)):
        entry = helper.make_tensor_value_info(name, kind, None)
        loaded.graph.output.insert(0 if name == "label" else 2, entry)
    x = inputs(5)
    out = OnnxModel(loaded.SerializeToString()).logits(as_tensor(x))
    np.testing.assert_allclose(to_numpy(out), -scores(x), atol=1e-5)
    del loaded.graph.output[2]
    out = OnnxModel(loaded.SerializeToString()).logits(as_tensor(x))
    np.testing.assert_allclose(to_numpy(out), scores(x), atol=1e-5)


@pytest.mark.parametrize(
    "shape", [(2, 3, 2), (2, 6), (2, 2, 3, 1), (2,)], ids=lambda shape: str(shape)
)
def test_inputs_of_another_shape_are_refused(shape):
    model = OnnxModel(network(size=1), name="mine")
    with pytest.raises(
        BadInput, match=r"'mine' takes inputs of shape \(n, 2, 3\); got"
    ):
        model.logits(as_tensor(np.zeros(shape, np.float32)))


def test_failures_inside_the_network_are_told():
    model = OnnxModel(network(features=("height", "width")))
    with pytest.raises(BadInput, match=r"asked about inputs of shape \(5, 7, 1\)"):
        model.logits(as_tensor(np.zeros((5, 7, 1), np.float32)))


def test_several_inputs_are_refused():
    with pytest.raises(BadInput, match=r"one input.*has 2: 'x', 'mask'"):
        OnnxModel(network(inputs=("x", "mask")))


def test_inputs_and_outputs_of_integers_are_refused():
    with pytest.raises(BadInput, match=r"takes floats.*tensor\(int32\)"):
        OnnxModel(network(dtype=np.int32))
    nodes = [helper.make_node("ArgMax", ["scores"], ["label"], axis=1)]
    content = network(nodes=nodes, output="label", kind=TensorProto.INT64)
    with pytest.raises(BadInput, match=r"float scores.*'label' tensor\(int64\)"):
        OnnxModel(content)


def test_files_that_are_not_networks_are_refused(tmp_path):
    with pytest.raises(BadInput, match="no file"):
        OnnxModel(tmp_path / "missing.onnx")
    file = tmp_path / "text.onnx"
    file.write_text("hello")
    with pytest.raises(BadInput, match="'text' is not an ONNX network"):
        OnnxModel(file)


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_without_its_packages_it_says_what_to_install(package, without):
    without(package, "robustkit.models.onnx")
    with pytest.raises(MissingPackage, match=rf"'{package}'.*robustkit\[onnx\]"):
        import robustkit.models.onnx  # noqa: F401


@pytest.mark.parametrize("category", FILES)
def test_real_files_at_any_batch_size(category, vnncomp):
    data, folder = vnncomp(category)
    files = np.unique(data["model"])
    assert len(files) == FILES[category]
    shape = [1] * data["x"].ndim
    if len(data["mean"]) > 1:
        shape[1] = len(data["mean"])
    x = (data["x"] - data["mean"].reshape(shape)) / data["std"].reshape(shape)
    if category.startswith("traffic"):
        x = data["x"] * 255
    for file in files:
        rows = np.flatnonzero(data["model"] == file)
        points, labels = x[rows].astype(np.float32), data["y"][rows]
        model = OnnxModel(folder / file)
        out = to_numpy(model.logits(as_tensor(points[:5])))
        one_by_one = OnnxModel(folder / file)
        single = [one_by_one.logits(as_tensor(points[i : i + 1])).raw for i in range(5)]
        np.testing.assert_allclose(out, np.concatenate(single), rtol=1e-4, atol=1e-4)
        # The verification problems start from images that are classified correctly.
        assert (out.argmax(axis=1) == labels[:5]).all()
        steps = category.startswith("traffic")
        assert model.access is (Access.SCORE if steps else Access.GRADIENT)
        model = OnnxModel(folder / file, straight_through=steps)
        for count in (1, 2, 5):
            point = model.to_tensor(points[:count])
            logits, pull_back = model.linearise(point)
            size = np.abs(out[:count]).max()
            np.testing.assert_allclose(
                to_numpy(logits) / size, out[:count] / size, atol=1e-5
            )
            slopes = np.zeros(logits.shape, np.float32)
            slopes[np.arange(count), labels[:count]] = 1.0
            gradient = to_numpy(pull_back(like(logits, slopes)))
            assert gradient.shape == points[:count].shape
            assert (gradient != 0).any(axis=tuple(range(1, points.ndim))).all()


def test_what_is_squeezed_may_be_a_batch_of_one():
    nodes = [
        helper.make_node("Constant", [], ["axes"], value_ints=[2, 3]),
        helper.make_node("Unsqueeze", ["scores", "axes"], ["wide"]),
        # Of whatever length is one, that of the batch as well.
        helper.make_node("Squeeze", ["wide"], ["narrow"]),
    ]
    model = OnnxModel(network(nodes=nodes, output="narrow"))
    assert model.access is Access.GRADIENT
    for count in (1, 2, 5):
        logits, pull_back = model.linearise(model.to_tensor(inputs(count)))
        np.testing.assert_allclose(logits.numpy(), scores(inputs(count)), rtol=1e-5)
        slopes = np.ones((count, 4), np.float32)
        expected = (slopes @ WEIGHTS.T).reshape(count, 2, 3)
        gradient = pull_back(model.to_tensor(slopes)).numpy()
        np.testing.assert_allclose(gradient, expected, rtol=1e-5)
