"""ONNX files: scores by onnxruntime, gradients by torch."""

import hashlib
import os
from pathlib import Path

import numpy as np
import torch

from robustkit.errors import BadInput, MissingPackage
from robustkit.models.base import Access, Model, NoGradient, PullBack
from robustkit.models.batching import AnyBatch
from robustkit.models.onnx_torch import (
    NotDifferentiable,
    before_softmax,
    differentiable,
)
from robustkit.models.torch import TorchModel
from robustkit.numerics.bounds import BoundsLike, as_bounds
from robustkit.numerics.tensors import Array, Batch, Tensor, as_tensor, like, to_numpy

try:
    import onnx
    import onnxruntime
    from onnx.external_data_helper import uses_external_data
except ImportError as error:
    raise MissingPackage(str(error.name), "onnx", "an ONNX model") from error

__all__ = ["OnnxModel"]

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
}
_FATAL_ONLY = 4
_FREE_SIZES = (32, 224, 28, 64, 8)


class OnnxModel(Model):
    """An ONNX network of one input, on the CPU.

    Scores come from onnxruntime. For gradients the network is rebuilt from torch
    operations (`robustkit.models.onnx_torch`) and compared with onnxruntime when it is
    loaded. Where that fails, and where no gradient passes through it (networks with
    Sign activations, for example), it shows scores only, and `notes` says why.

    What `linearise` returns are torch's scores, which differ from onnxruntime's by
    rounding; adversarials found by it are confirmed by `logits` before an evaluation
    reports them.

    Files saved for one batch size are asked in chunks of it. Of several outputs the
    one called 'logits' is used, else the first of floats. A softmax at the end is left
    out: decisions are the same, and its gradients would vanish where it is confident.

    Args:
        source: A file, or its content.
        bounds: Of valid inputs, in input units.
        name: For people; None: the file's.
        threads: For one question.
        straight_through: Let gradients pass through Sign, Floor, Ceil and Round as if
            these returned what they are given (Bengio, Leonard, Courville: Estimating
            or Propagating Gradients Through Stochastic Neurons, 2013). What comes back
            is a direction to try, not the gradient of the network.

    Raises:
        BadInput: There is no such file, it is not an ONNX network, or it does not have
            exactly one input of floats and an output of floats.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | bytes,
        bounds: BoundsLike | None = None,
        *,
        name: str | None = None,
        threads: int = 1,
        straight_through: bool = False,
    ) -> None:
        self.bounds = as_bounds(bounds)
        content, path = source, None
        if not isinstance(content, bytes):
            path = Path(content)
            if not path.is_file():
                raise BadInput(f"expected an ONNX file; there is no file '{path}'")
            content = path.read_bytes()
        self.name = name or (path.stem if path else "onnx")
        self._session = self._open(str(path) if path else content, threads)
        self._input = self._only_input()
        self._dtype = _DTYPES[self._input.type]
        proto = onnx.load(path) if path else onnx.load_model_from_string(content)
        self._digest = _digest(content, proto)
        self._output = self._logits_output()
        inner = before_softmax(proto, self._output, self._rank(self._output))
        if inner != self._output:
            _show(proto, inner, beside=self._output)
            self._output = inner
            self._session = self._open(proto.SerializeToString(), threads)
        self._shape = list(self._input.shape)
        declared = self._shape[0] if self._shape else None
        self._ask = AnyBatch(
            self._run, np.concatenate, declared if isinstance(declared, int) else None
        )
        self._rebuilt, self.notes = self._with_gradients(proto, straight_through)
        self.access = Access.GRADIENT if self._rebuilt else Access.SCORE

    def logits(self, x: Batch) -> Tensor:
        values = to_numpy(x)
        self._check_shape(values.shape)
        try:
            out = self._ask(values)
        except BadInput:
            raise
        except Exception as error:
            raise BadInput(
                f"the ONNX model '{self.name}' cannot be asked about inputs of shape "
                f"{values.shape}: {error}"
            ) from error
        return like(x, out.astype(values.dtype))

    def linearise(self, x: Batch) -> tuple[Tensor, PullBack]:
        if self._rebuilt is None:
            raise NoGradient(f"{self.notes[0]}; use a score- or decision-based attack")
        self._check_shape(x.shape)
        return self._rebuilt.linearise(x)

    def to_tensor(self, x: Array) -> Batch:
        return as_tensor(torch.from_numpy(np.array(x, order="C")))

    def fingerprint(self) -> str | None:
        return self._digest

    def _open(self, source: str | bytes, threads: int) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Trying batch sizes fails on purpose; failures come as exceptions anyway.
        options.log_severity_level = _FATAL_ONLY
        try:
            return onnxruntime.InferenceSession(
                source, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise BadInput(
                f"'{self.name}' is not an ONNX network that onnxruntime "
                f"{onnxruntime.__version__} can load: {error}"
            ) from error

    def _only_input(self) -> onnxruntime.NodeArg:
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            names = ", ".join(f"'{entry.name}'" for entry in inputs)
            raise BadInput(
                f"expected an ONNX network of one input; '{self.name}' has "
                f"{len(inputs)}: {names}. Export it with the others fixed"
            )
        if inputs[0].type not in _DTYPES:
            raise BadInput(
                f"expected an ONNX network that takes floats; the input of "
                f"'{self.name}' is a {inputs[0].type}. Export it without the "
                "conversion, or with it inside"
            )
        return inputs[0]

    def _logits_output(self) -> str:
        outputs = self._session.get_outputs()
        floats = [entry.name for entry in outputs if entry.type in _DTYPES]
        if not floats:
            kinds = ", ".join(f"'{entry.name}' {entry.type}" for entry in outputs)
            raise BadInput(
                f"expected an ONNX network that returns float scores; '{self.name}' "
                f"returns {kinds}. Export its logits"
            )
        return "logits" if "logits" in floats else floats[0]

    def _rank(self, output: str) -> int:
        """How many axes an output has; two where its file does not say."""
        shapes = {entry.name: entry.shape for entry in self._session.get_outputs()}
        return len(shapes[output]) or 2

    def _with_gradients(
        self, proto: onnx.ModelProto, straight_through: bool
    ) -> tuple[TorchModel | None, tuple[str, ...]]:
        """The network in torch, or the reason why there is none."""
        try:
            function = differentiable(
                proto,
                self._output,
                self._ask,
                self._example_shape(),
                straight_through=straight_through,
            )
        except NotDifferentiable as error:
            note = f"the ONNX model '{self.name}' gives no gradients: {error}"
            return None, (note,)
        return TorchModel(function, self.bounds, name=self.name), ()

    def _example_shape(self) -> list[int]:
        """Of one input that the network takes, found by trying where it is free."""
        rows = self._shape[0] if self._shape else None
        for free in _FREE_SIZES:
            shape = [n if isinstance(n, int) else free for n in self._shape[1:]]
            if shape == self._shape[1:]:
                return shape
            start = rows if isinstance(rows, int) else 1
            try:
                self._run(np.zeros((start, *shape), np.float32))
            except Exception:
                continue
            return shape
        raise NotDifferentiable(
            "its file leaves open how long the axes of its input are, and it takes "
            f"none of the lengths {', '.join(map(str, _FREE_SIZES))} that were tried"
        )

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        wanted = self._shape
        if wanted and (
            len(wanted) != len(shape)
            or any(
                isinstance(size, int) and size != given
                for size, given in zip(wanted[1:], shape[1:], strict=True)
            )
        ):
            sizes = ", ".join(["n", *(str(size) for size in wanted[1:])])
            raise BadInput(
                f"the ONNX model '{self.name}' takes inputs of shape ({sizes}); got "
                f"{shape}. Reshape or transpose the data (channel order, height and "
                "width)"
            )

    def _run(self, values: Array) -> Array:
        values = values.astype(self._dtype)
        (out,) = self._session.run([self._output], {self._input.name: values})
        out = np.asarray(out)
        while out.ndim > 2 and out.shape[-1] == 1:
            out = out[..., 0]
        return out


def _digest(content: bytes, loaded: onnx.ModelProto) -> str:
    """A hash of a file, and of the weights that it keeps in files beside it."""
    digest = hashlib.sha256(content)
    pairs = zip(
        _stored(onnx.load_model_from_string(content)), _stored(loaded), strict=True
    )
    for stored, whole in pairs:
        if uses_external_data(stored):
            digest.update(whole.raw_data)
    return digest.hexdigest()


def _stored(proto: onnx.ModelProto) -> list[onnx.TensorProto]:
    constants = [entry for node in proto.graph.node for entry in node.attribute]
    return [*proto.graph.initializer, *(entry.t for entry in constants)]


def _show(proto: onnx.ModelProto, name: str, beside: str) -> None:
    """Make a value inside the network an output, of the type of another."""
    (kind,) = (entry.type for entry in proto.graph.output if entry.name == beside)
    entry = onnx.helper.make_tensor_value_info(name, kind.tensor_type.elem_type, None)
    proto.graph.output.append(entry)
