"""ONNX files, asked through onnxruntime."""

import hashlib
import os
from pathlib import Path

import numpy as np

from robustkit.errors import BadInput, MissingPackage
from robustkit.models.base import Access, Model
from robustkit.models.batching import AnyBatch
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.tensors import Array, Batch, Tensor, as_tensor, to_numpy

try:
    import onnxruntime
except ImportError as error:
    raise MissingPackage("onnxruntime", "onnx", "an ONNX model") from error

__all__ = ["OnnxModel"]

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
}
_FATAL_ONLY = 4


class OnnxModel(Model):
    """An ONNX network of one input, on the CPU: scores, no gradients.

    Files saved for one batch size are asked in chunks of it. Of several outputs the
    one called 'logits' is used, else the first of floats.

    Args:
        source: A file, or its content.
        bounds: Of valid inputs, in input units.
        name: For people; None: the file's.
        threads: For one question.

    Raises:
        BadInput: There is no such file, it is not an ONNX network, or it does not have
            exactly one input of floats and an output of floats.
    """

    access = Access.SCORE

    def __init__(
        self,
        source: str | os.PathLike[str] | bytes,
        bounds: Bounds | None = None,
        *,
        name: str | None = None,
        threads: int = 1,
    ) -> None:
        self.bounds = bounds or Bounds()
        content, path = source, None
        if not isinstance(content, bytes):
            path = Path(content)
            if not path.is_file():
                raise BadInput(f"expected an ONNX file; there is no file '{path}'")
            content = path.read_bytes()
        self.name = name or (path.stem if path else "onnx")
        self._digest = hashlib.sha256(content).hexdigest()
        self._session = self._open(str(path) if path else content, threads)
        self._input = self._only_input()
        self._dtype = _DTYPES[self._input.type]
        self._output = self._logits_output()
        self._shape = list(self._input.shape)
        declared = self._shape[0] if self._shape else None
        self._ask = AnyBatch(
            self._run, np.concatenate, declared if isinstance(declared, int) else None
        )

    def logits(self, x: Batch) -> Tensor:
        values = to_numpy(x)
        self._check_shape(values.shape)
        try:
            out = self._ask(values.astype(self._dtype))
        except BadInput:
            raise
        except Exception as error:
            raise BadInput(
                f"the ONNX model '{self.name}' cannot be asked about inputs of shape "
                f"{values.shape}: {error}"
            ) from error
        return as_tensor(out.astype(values.dtype))

    def to_tensor(self, x: Array) -> Batch:
        return as_tensor(np.array(x))

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
        (out,) = self._session.run([self._output], {self._input.name: values})
        out = np.asarray(out)
        while out.ndim > 2 and out.shape[-1] == 1:
            out = out[..., 0]
        return out
