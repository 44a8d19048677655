import hashlib

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from robustkit.errors import BadInput, MissingPackage  # noqa: E402
from robustkit.models.base import Access, NoGradient  # noqa: E402
from robustkit.models.onnx import OnnxModel  # noqa: E402
from robustkit.numerics.bounds import Bounds  # noqa: E402
from robustkit.numerics.tensors import as_tensor, to_numpy  # noqa: E402

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


@pytest.mark.parametrize("file", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("asked", [np.float32, np.float64])
def test_answers_have_the_dtype_of_the_question(file, asked):
    x = inputs(5, asked)
    out = to_numpy(OnnxModel(network(dtype=file)).logits(as_tensor(x)))
    assert out.dtype == asked
    np.testing.assert_allclose(
        out, scores(x), atol=2e-2 if file == np.float16 else 1e-5
    )


def test_it_shows_scores_only(tmp_path):
    file = tmp_path / "small.onnx"
    file.write_bytes(network())
    model = OnnxModel(file, Bounds(0, 255), threads=2)
    assert (model.access, model.name) == (Access.SCORE, "small")
    assert model.bounds == Bounds(0, 255)
    assert model.fingerprint() == hashlib.sha256(file.read_bytes()).hexdigest()
    assert OnnxModel(network()).fingerprint() == model.fingerprint()
    assert OnnxModel(network(dtype=np.float64)).fingerprint() != model.fingerprint()
    with pytest.raises(NoGradient, match="'small' gives no gradients"):
        model.linearise(model.to_tensor(inputs(2)))


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


def test_without_onnxruntime_it_says_what_to_install(without):
    without("onnxruntime", "robustkit.models.onnx")
    with pytest.raises(MissingPackage, match=r"robustkit\[onnx\]"):
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
        out = to_numpy(OnnxModel(folder / file).logits(as_tensor(points[:5])))
        one_by_one = OnnxModel(folder / file)
        single = [one_by_one.logits(as_tensor(points[i : i + 1])).raw for i in range(5)]
        np.testing.assert_allclose(out, np.concatenate(single), rtol=1e-4, atol=1e-4)
        # The verification problems start from images that are classified correctly.
        assert (out.argmax(axis=1) == labels[:5]).all()
