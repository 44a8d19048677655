"""Every operator against onnxruntime, on a graph that holds nothing else."""

import numpy as np
import pytest
import torch

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from robustkit.models.onnx_operators import OPERATORS, STEPS  # noqa: E402
from robustkit.models.onnx_torch import NotDifferentiable, OnnxNetwork  # noqa: E402

X = "x"
RNG = np.random.default_rng(0)
ROWS, SERIES, IMAGES = (2, 6), (2, 3, 9), (2, 3, 7, 6)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def positive(*shape):
    return RNG.uniform(0.5, 2.0, shape).astype(np.float32)


def ints(*values):
    return np.array(values, np.int64)


def case(operator, *inputs, x=ROWS, kind=np.float32, opset=17, **settings):
    """An operator of the input x, where X stands (or else first), and of constants."""
    inputs = inputs if any(i is X for i in inputs) else (X, *inputs)
    return pytest.param(operator, inputs, x, kind, opset, settings, id=operator)


TO_ELEMENTS = [
    case(name)
    for name in (
        *("Abs", "Ceil", "Cos", "Elu", "Erf", "Exp", "Floor", "HardSigmoid"),
        *("HardSwish", "Identity", "LeakyRelu", "Neg", "Relu", "Round", "Selu"),
        *("Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Tanh"),
    )
]
CASES = [
    *TO_ELEMENTS,
    case("Mish", opset=18),
    case("Gelu", opset=20),
    case("Gelu", opset=20, approximate="tanh"),
    case("Elu", alpha=0.3),
    case("HardSigmoid", alpha=0.3, beta=0.4),
    case("LeakyRelu", alpha=0.2),
    case("Selu", alpha=1.2, gamma=0.9),
    case("PRelu", normal(6)),
    case("PRelu", normal(3, 1, 1), x=IMAGES),
    case("Log", kind="positive"),
    case("Sqrt", kind="positive"),
    case("Reciprocal", kind="positive"),
    case("Pow", np.float32(2.5), kind="positive"),
    case("Pow", ints(2)),
    # Two inputs, or any number of them
    case("Add", normal(6)),
    case("Sub", normal(1), X),
    case("Mul", normal(2, 1)),
    case("Div", normal(6), X),
    case("Div", ints(2, 3, -4, 5, 7, -2), kind=np.int64),
    case("Max", normal(2, 6), np.float32(0.1)),
    case("Min", normal(2, 6), np.float32(0.1)),
    case("Sum", normal(2, 6), normal(6)),
    case("Mean", normal(2, 6), normal(6)),
    case("Equal", ints(0, 1, 2, 3, -1, 0), kind=np.int64),
    case("Greater", normal(6)),
    case("GreaterOrEqual", normal(6)),
    case("Less", normal(6)),
    case("LessOrEqual", normal(6)),
    case("And", np.array([True, False] * 3), kind=bool),
    case("Or", np.array([True, False] * 3), kind=bool),
    case("Not", kind=bool),
    case("Where", np.array([True, False] * 3), X, normal(6)),
    case("Clip", np.float32(-0.5), np.float32(0.5)),
    case("Clip", None, np.float32(0.5)),
    case("Clip"),
    case("Clip", opset=9, min=-0.5, max=0.5),
    # Over axes
    case("ReduceMean", axes=[1]),
    case("ReduceMean", ints(2, 3), x=IMAGES, opset=18, keepdims=0),
    case("ReduceMean", x=IMAGES, opset=18),
    case("ReduceMean", x=IMAGES, opset=18, noop_with_empty_axes=1),
    case("ReduceSum", ints(-1), keepdims=0),
    case("ReduceMax", axes=[1, -1], x=IMAGES),
    case("ReduceMin", axes=[1], keepdims=0),
    case("ReduceL2", axes=[1]),
    case("Softmax"),
    case("Softmax", x=IMAGES, axis=1),
    case("Softmax", x=IMAGES, opset=11),
    case("Softmax", x=IMAGES, opset=11, axis=-1),
    case("LogSoftmax", axis=1),
    # Layers
    case("BatchNormalization", *(positive(3) for _ in range(4)), x=IMAGES),
    case(
        "BatchNormalization",
        *(positive(3) for _ in range(4)),
        x=SERIES,
        opset=9,
        epsilon=0.1,
        momentum=0.5,
    ),
    case("InstanceNormalization", normal(3), normal(3), x=IMAGES),
    case("LayerNormalization", normal(6), normal(6), x=IMAGES),
    case("LayerNormalization", normal(7, 6), x=IMAGES, axis=2, epsilon=0.1),
    case("LRN", x=IMAGES, size=3, alpha=0.1, beta=0.6, bias=2.0),
    case("Gemm", normal(6, 4)),
    case("Gemm", normal(4, 6), normal(4), alpha=0.5, beta=2.0, transB=1),
    case("Gemm", normal(2, 4), normal(6, 1), transA=1),
    case("MatMul", normal(6, 4)),
    case("MatMul", normal(3, 6, 4), x=IMAGES),
    case("Einsum", normal(6, 4), equation="ni,ij->nj"),
    # Windows
    case("Conv", normal(4, 3, 3, 2), normal(4), x=IMAGES),
    case("Conv", normal(4, 3, 3, 3), x=IMAGES, pads=[1, 1, 1, 1], strides=[2, 2]),
    case("Conv", normal(4, 3, 3, 3), x=IMAGES, pads=[0, 1, 2, 1], dilations=[2, 1]),
    case("Conv", normal(6, 1, 2, 2), x=IMAGES, group=3, kernel_shape=[2, 2]),
    case("Conv", normal(4, 3, 3, 2), x=IMAGES, auto_pad="SAME_UPPER", strides=[2, 3]),
    case("Conv", normal(4, 3, 2, 2), x=IMAGES, auto_pad="SAME_LOWER"),
    case("Conv", normal(4, 3, 2, 2), x=IMAGES, auto_pad="VALID"),
    case("Conv", normal(4, 3, 3), x=SERIES, pads=[1, 0]),
    case("Conv", normal(4, 3, 2, 2, 2), x=(2, 3, 4, 4, 3)),
    case("MaxPool", x=IMAGES, kernel_shape=[2, 3], strides=[2, 2]),
    case("MaxPool", x=IMAGES, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    case("MaxPool", x=IMAGES, kernel_shape=[2, 2], pads=[0, 1, 1, 0]),
    case("MaxPool", x=IMAGES, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    case("MaxPool", x=IMAGES, kernel_shape=[2, 2], dilations=[2, 2]),
    *(
        case(
            operator,
            x=IMAGES,
            kernel_shape=[2, 3],
            strides=[4, 7],
            pads=[1, 1, 1, 1],
            ceil_mode=1,
            **settings,
        )
        for operator, settings in [
            ("MaxPool", {}),
            ("AveragePool", {}),
            ("AveragePool", {"count_include_pad": 1}),
        ]
    ),
    case("MaxPool", x=SERIES, kernel_shape=[3], auto_pad="SAME_UPPER"),
    case("AveragePool", x=IMAGES, kernel_shape=[2, 3], strides=[2, 2]),
    case("AveragePool", x=IMAGES, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    case("AveragePool", x=IMAGES, kernel_shape=[2, 2], pads=[0, 1, 1, 0]),
    case(
        "AveragePool",
        x=IMAGES,
        kernel_shape=[3, 3],
        pads=[1, 1, 1, 1],
        count_include_pad=1,
    ),
    case("AveragePool", x=IMAGES, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    case("AveragePool", x=SERIES, kernel_shape=[2], auto_pad="SAME_LOWER"),
    case("GlobalAveragePool", x=IMAGES),
    case("GlobalMaxPool", x=SERIES),
    # Shapes and places
    case("Cast", to=TensorProto.INT64),
    case("Cast", to=TensorProto.DOUBLE),
    case("CastLike", ints(1)),
    case("Concat", normal(2, 2), axis=1),
    case("Concat", normal(1, 6), X, axis=-2),
    case("ConstantOfShape", kind="shape"),
    case(
        "ConstantOfShape",
        kind="shape",
        value=numpy_helper.from_array(ints(7)),
    ),
    case("Dropout"),
    case("Dropout", opset=9, ratio=0.5),
    case("Expand", ints(3, 1, 6)),
    case("Expand", ints(2, 1)),
    case("Flatten", x=IMAGES),
    case("Flatten", x=IMAGES, axis=-2),
    case("Flatten", x=IMAGES, axis=0),
    case("Gather", ints(0, -1, 2), axis=1),
    case("Gather", ints(1).reshape(()), axis=1),
    case("Gather", np.array([[1, 0], [1, 1]], np.int32)),
    case("Pad", ints(0, 1, 0, 2)),
    case("Pad", ints(0, 0, 1, 2, 0, 0, 3, 4), np.float32(0.5), x=IMAGES),
    case("Pad", ints(0, 0, 1, 2, 0, 0, 3, 0), x=IMAGES, mode="reflect"),
    case("Pad", ints(0, 0, 1, 2, 0, 0, 3, 0), x=IMAGES, mode="edge"),
    *(
        case("Pad", ints(0, 0, 0, 1, 0, 0, 0, 2), x=IMAGES, mode=mode, opset=19)
        for mode in ("reflect", "edge", "wrap")
    ),
    case("Pad", ints(0, 1, 0, 2), x=(2, 3), mode="edge"),
    case("Pad", ints(1, 2), None, ints(-1), x=IMAGES, opset=18),
    case("Pad", x=IMAGES, opset=9, pads=[0, 0, 1, 2, 0, 0, 3, -1], value=2.0),
    case("Range", ints(2).reshape(()), ints(9).reshape(()), X, kind="step"),
    case("Reshape", ints(3, -1)),
    case("Reshape", ints(0, 3, -1)),
    case("Reshape", ints(-1, 0), allowzero=0, x=(3, 4)),
    case("Shape", x=IMAGES),
    case("Shape", x=IMAGES, start=1, end=-1),
    case("Slice", ints(1), ints(5), ints(1), ints(2)),
    case("Slice", ints(-1, 5), ints(-9, -7), ints(0, 1), ints(-1, -2)),
    case("Slice", ints(0, 1), ints(1, 2**62)),
    case("Slice", ints(4), ints(2), ints(1)),
    case("Slice", opset=9, starts=[1], ends=[-1], axes=[1]),
    case("Split", axis=1),
    case("Split", opset=11, axis=1),
    case("Split", ints(2, 4), axis=1),
    case("Split", opset=11, split=[2, 4], axis=1),
    case("Split", opset=18, num_outputs=2, axis=1),
    case("Squeeze", x=(1, 3, 1, 2)),
    case("Squeeze", ints(0, -2), x=(1, 3, 1, 1)),
    case("Squeeze", opset=11, x=(2, 1, 3), axes=[1]),
    case("Tile", ints(2, 3)),
    case("Transpose", x=IMAGES),
    case("Transpose", x=IMAGES, perm=[0, 2, 3, 1]),
    case("Unsqueeze", ints(3, 0)),
    case("Unsqueeze", opset=11, axes=[-1, 1]),
    case("Constant", value=numpy_helper.from_array(normal(2, 2))),
    case("Constant", value_float=1.5),
    case("Constant", value_floats=[1.5, 2.0]),
    case("Constant", value_int=3),
    case("Constant", value_ints=[3, 4]),
]


def sample(shape, kind, seed):
    rng = np.random.default_rng(seed)
    if kind == "positive":
        return rng.uniform(0.5, 2.0, shape).astype(np.float32)
    if kind == "shape":
        return ints(2, 3)
    if kind == "step":
        return ints(3).reshape(())
    if kind is np.int64:
        return rng.integers(-9, 9, shape)
    if kind is bool:
        return rng.random(shape) < 0.5
    return rng.normal(size=shape).astype(np.float32)


def graph(operator, inputs, x, opset, settings, outputs=("y",)):
    """The network y = operator(x, constants)."""
    constants = {
        f"c{place}": value
        for place, value in enumerate(inputs)
        if isinstance(value, np.ndarray | np.generic)
    }
    names = [
        X if value is X else "" if value is None else f"c{place}"
        for place, value in enumerate(inputs)
    ]
    if operator == "Constant":
        names = []
    node = helper.make_node(operator, names, outputs, **settings)
    element = helper.np_dtype_to_tensor_dtype(x.dtype)
    made = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info(X, element, x.shape)],
        [helper.make_empty_tensor_value_info(outputs[0])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    versions = [helper.make_opsetid("", opset)]
    return helper.make_model(made, ir_version=10, opset_imports=versions)


def runtime(proto, x):
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(["y"], {X: x})[0]


def inferred(proto):
    """onnxruntime wants to know the type of what a network returns."""
    return onnx.shape_inference.infer_shapes(proto)


@pytest.mark.parametrize(
    ("operator", "inputs", "shape", "kind", "opset", "settings"), CASES
)
def test_operators_do_what_onnxruntime_does(
    operator, inputs, shape, kind, opset, settings
):
    x, other = sample(shape, kind, 1), sample(shape, kind, 2)
    outputs = ("y", "rest") if operator == "Split" else ("y",)
    proto = inferred(graph(operator, inputs, x, opset, settings, outputs))
    network = OnnxNetwork(proto, "y")
    out, expected = network.value(torch.from_numpy(x)).numpy(), runtime(proto, x)
    assert out.dtype == expected.dtype
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    # Files of a fixed batch size are asked about several of their batches at once.
    if kind not in ("shape", "step"):
        both = torch.from_numpy(np.stack([x, other]))
        pair = torch.vmap(network.value)(both).numpy()
        np.testing.assert_allclose(pair[0], expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(pair[1], runtime(proto, other), rtol=1e-5, atol=1e-5)


def test_the_slope_of_a_norm_at_zero_is_none():
    x = np.zeros(ROWS, np.float32)
    given = torch.from_numpy(x).requires_grad_()
    out = OnnxNetwork(graph("ReduceL2", (X,), x, 17, {"axes": [1]}), "y").value(given)
    (gradient,) = torch.autograd.grad(out.sum(), given)
    assert (gradient == 0).all()


def test_windows_of_padding_only_leave_gradients_alone():
    x = sample(IMAGES, np.float32, 1)
    windows = {"kernel_shape": [2, 3], "strides": [4, 7], "pads": [1, 1, 1, 1]}
    proto = graph("AveragePool", (X,), x, 17, {**windows, "ceil_mode": 1})
    given = torch.from_numpy(x).requires_grad_()
    (gradient,) = torch.autograd.grad(OnnxNetwork(proto, "y").value(given).sum(), given)
    assert gradient.isfinite().all()


def test_no_operator_goes_untested():
    tested = {param.values[0] for param in CASES}
    assert tested == OPERATORS.keys()


@pytest.mark.parametrize("operator", sorted(STEPS))
def test_no_gradient_passes_through_steps_unless_wanted(operator):
    x = sample(ROWS, np.float32, 1)
    proto = graph(operator, (X,), x, 17, {})
    given = torch.from_numpy(x).requires_grad_()
    assert not OnnxNetwork(proto, "y")(given).requires_grad
    out = OnnxNetwork(proto, "y", straight_through=True)(given)
    np.testing.assert_array_equal(out.detach().numpy(), runtime(inferred(proto), x))
    (gradient,) = torch.autograd.grad(out.sum(), given)
    assert (gradient == 1).all()


@pytest.mark.parametrize(
    ("operator", "constants", "settings", "named"),
    [
        ("Hardmax", (), {}, "'Hardmax'"),
        ("ThresholdedRelu", (), {"alpha": 2.0}, "'ThresholdedRelu'"),
        ("Relu", (), {"domain": "com.example"}, "'com.example.Relu'"),
        ("Tanh", (), {"slope": 2.0}, "'Tanh' with the setting 'slope'"),
        ("Elu", (), {"slope": 2.0}, "'Elu' with the setting 'slope'"),
    ],
)
def test_what_is_not_known_is_named(operator, constants, settings, named):
    x = sample(ROWS, np.float32, 1)
    with pytest.raises(NotDifferentiable, match=f"does not know its operator {named}"):
        OnnxNetwork(graph(operator, (X, *constants), x, 17, settings), "y")


def test_what_gives_no_such_value_is_told():
    x = sample(IMAGES, np.float32, 1)
    settings = {"kernel_shape": [2, 2]}
    proto = graph("MaxPool", (X,), x, 17, settings, ("pooled", "places"))
    proto.graph.node.append(helper.make_node("Neg", ["places"], ["y"]))
    with pytest.raises(NotDifferentiable, match="does not rebuild the value 'places'"):
        OnnxNetwork(proto, "y")(torch.from_numpy(x))


@pytest.mark.parametrize(
    ("operator", "inputs", "settings", "named"),
    [
        ("Dropout", (X, np.float32(0.5), np.array(True)), {}, "training_mode"),
        (
            "BatchNormalization",
            (X, *(positive(3) for _ in range(4))),
            {"training_mode": 1},
            "training_mode",
        ),
        (
            "AveragePool",
            (X,),
            {"kernel_shape": [2, 2], "dilations": [2, 2]},
            "dilations",
        ),
    ],
)
def test_settings_that_are_not_known_are_named(operator, inputs, settings, named):
    x = sample(IMAGES, np.float32, 1)
    network = OnnxNetwork(graph(operator, inputs, x, 17, settings), "y")
    with pytest.raises(
        NotDifferentiable, match=f"operator '{operator}' with the setting '{named}'"
    ):
        network(torch.from_numpy(x))
