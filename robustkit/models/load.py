"""From what a user has to a `Model`: objects, files and names."""

import importlib
import importlib.util
import inspect
import io
import json
import os
import sys
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
import torch

from robustkit import demo
from robustkit.errors import BadInput, suggestion
from robustkit.models.base import Model, native_name
from robustkit.models.batching import AnyBatch
from robustkit.models.numpy import NumPyModel
from robustkit.models.torch import TorchModel
from robustkit.models.wrappers import Preprocessed
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.tensors import Array

__all__ = [
    "ExampleNeeded",
    "as_model",
    "call_user",
    "import_object",
    "load_model",
    "neighbours_importable",
    "register_adapter",
    "takes_nothing",
]

Adapter = Callable[..., Model]

# A string is imported when first needed, so that nobody pays for what is not used.
_ADAPTERS: dict[str, Adapter | str] = {
    "foolbox": "robustkit.interop.foolbox:FoolboxModel",
}

_TORCHSCRIPT = (".pt", ".pth", ".ts", ".torchscript")

_FORMS = (
    "a demo name, file.onnx, file.pt2 (torch.export), a TorchScript file (.pt, .pth, "
    ".ts, .torchscript), path/to/file.py:name or package.module:name"
)


class ExampleNeeded(BadInput):
    """The model can only be adapted with an example batch at hand."""


def register_adapter(package: str, adapter: Adapter | str) -> None:
    """Say what makes a `Model` of the objects of another package.

    Args:
        package: The top-level package that an object's class, or a base class of it,
            comes from.
        adapter: Called as adapter(native, bounds, name=name), where bounds and name
            may be None; or where to find it, as "package.module:name".
    """
    _ADAPTERS[package] = adapter


def as_model(
    native: Any,
    bounds: Bounds | None = None,
    *,
    example: Array | None = None,
    device: str | torch.device | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    name: str | None = None,
) -> Model:
    """Adapt a model of any framework.

    Args:
        native: A robustkit `Model` (returned as it is), a torch module or exported
            program, a model of a registered package (foolbox), a function on NumPy,
            torch or JAX batches, or a class or function that needs no arguments and
            returns one of these.
        bounds: Of valid inputs, in input units. None: the model's own, else [0, 1].
        example: (n, ...) inputs. Functions are tried on it, to learn what they take
            and return: one forward pass, or two.
        device: Where torch models run.
        mean: The model is shown (x - mean) / std: one number, or one per channel,
            which are found on axis 1 or the last one of the example.
        std: See `mean`. Either may be given alone.
        name: For people.

    Raises:
        ExampleNeeded: It is a function, or has several channels, and there is none.
        BadInput: It is none of these, or what it returns is not (n, classes).

    >>> as_model(lambda x: x[:, :2], example=np.zeros((3, 4), np.float32)).access.name
    'SCORE'
    """
    if isinstance(native, type) or takes_nothing(native):
        made = call_user(native)
        if isinstance(made, type) or takes_nothing(made):
            raise BadInput(
                f"'{native_name(native)}' was called to make a model, and returned "
                f"'{native_name(made)}', which again has to be called; return the model"
            )
        native, name = made, name or native_name(native)
    model = _adapted(native, bounds, example, device, name)
    if device is not None and not isinstance(model, TorchModel):
        raise BadInput(
            f"device '{device}' was given, but only torch models can be moved; "
            f"'{model.name}' is a {type(model).__name__}"
        )
    if mean is None and std is None:
        return model
    mean = [0.0] * len(std or ()) if mean is None else mean
    std = [1.0] * len(mean) if std is None else std
    return Preprocessed(model, mean, std, axis=_channel_axis(example, len(mean)))


def load_model(
    spec: str | os.PathLike[str],
    bounds: Bounds | None = None,
    *,
    example: Array | None = None,
    device: str | torch.device | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Model:
    """Load a model by name or from a file.

    Python files run code, and so may exported programs: load only what you trust.
    Pickled checkpoints are refused.

    Args:
        spec: A demo name; `file.onnx`; `file.pt2` (torch.export); TorchScript (`.pt`,
            `.pth`, `.ts`, `.torchscript`); `path/to/file.py:name` or
            `package.module:name`, where the name is anything that `as_model` accepts.
            Modules beside a Python file can be imported by it.
        bounds: Of valid inputs, in input units.
        example: See `as_model`; as are `device`, `mean` and `std`.
        device: Where torch models run.
        mean: Of the inputs that the model expects.
        std: Of the inputs that the model expects.

    Raises:
        BadInput: There is nothing of that name, it cannot be loaded, or it is no model.

    >>> load_model("digits").name
    'digits'
    """
    spec = os.fspath(spec)
    suffix = Path(spec).suffix.lower()
    native: Any
    name: str | None
    with neighbours_importable(spec):
        if spec in demo.MODELS:
            native, name = demo.load_model(spec), spec
        elif suffix == ".onnx":
            native, name = _load_onnx(_existing(spec), bounds), None
        elif suffix == ".pt2":
            native, name = _load_exported(_existing(spec)), Path(spec).stem
        elif suffix in _TORCHSCRIPT:
            native, name = _load_torchscript(_existing(spec)), Path(spec).stem
        elif ":" in spec:
            native, name = import_object(spec), _name_of(spec)
        else:
            raise BadInput(_unknown(spec))
        return as_model(
            native,
            bounds,
            example=example,
            device=device,
            mean=mean,
            std=std,
            name=name,
        )


def import_object(spec: str) -> Any:
    """The object that `path/to/file.py:name` or `package.module:name` names.

    A file is run anew each time; a module is imported as usual, also from the current
    folder.

    Raises:
        BadInput: No such file, module or name in it, or its own code fails.

    >>> import_object("math:pi") > 3
    True
    """
    place, _, name = spec.rpartition(":")
    if not place or not name:
        raise BadInput(
            f"expected 'path/to/file.py:name' or 'package.module:name'; got '{spec}'"
        )
    is_file = place.endswith(".py")
    with neighbours_importable(spec):
        owner: Any = _run_file(Path(place)) if is_file else _import_module(place)
    for part in name.split("."):
        if not hasattr(owner, part):
            known = [entry for entry in vars(owner) if not entry.startswith("_")]
            raise BadInput(f"'{place}' has no '{part}'; {suggestion(part, known)}")
        owner = getattr(owner, part)
    return owner


@contextmanager
def neighbours_importable(spec: str) -> Iterator[None]:
    """Let the code of `spec` import what lies in its folder, and forget it afterwards.

    Two files in different folders may each have a neighbour of the same name.
    """
    place = spec.rpartition(":")[0]
    if not place:
        yield
        return
    is_file = place.endswith(".py")
    folder = Path(place).resolve().parent if is_file else Path.cwd()
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove(str(folder))
        for name in set(sys.modules) - before if is_file else ():
            top = name.partition(".")[0]
            if top not in before and _is_neighbour(top, sys.modules[name], folder):
                del sys.modules[name]


def takes_nothing(native: Any) -> bool:
    """Whether `native` is a function that can be called without arguments."""
    if not inspect.isroutine(native) and not isinstance(native, partial):
        return False
    try:
        parameters = inspect.signature(native).parameters.values()
    except (TypeError, ValueError):
        return False
    return all(
        entry.kind is entry.VAR_KEYWORD
        or (entry.kind is not entry.VAR_POSITIONAL and entry.default is not entry.empty)
        for entry in parameters
    )


def call_user(function: Callable[[], Any]) -> Any:
    """The result of a user's function or class that needs no arguments.

    Raises:
        BadInput: It needs some, or its own code fails: with file and line.
    """
    name = native_name(function)
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise BadInput(
            f"'{name}' needs arguments ({error}); write a function without arguments "
            "that returns the finished object, and name that"
        ) from error
    except ValueError:
        pass
    with _user_code(f"calling '{name}'"):
        return function()


def _adapted(
    native: Any,
    bounds: Bounds | None,
    example: Array | None,
    device: str | torch.device | None,
    name: str | None,
) -> Model:
    if isinstance(native, Model):
        if bounds is not None and bounds != native.bounds:
            raise BadInput(
                f"the model '{native.name}' says that its inputs lie in "
                f"{native.bounds}; {bounds} was asked for. Leave the bounds out, or "
                "build the model with those"
            )
        return native
    if isinstance(native, torch.export.ExportedProgram):
        native = _AnyBatchModule(native)
    if isinstance(native, torch.nn.Module):
        # The mode of an exported module is fixed in its operations.
        fixed = isinstance(native, _AnyBatchModule | torch.fx.GraphModule)
        return TorchModel(native, bounds, device=device, training=fixed, name=name)
    for ancestor in type(native).__mro__:
        adapter = _ADAPTERS.get(ancestor.__module__.partition(".")[0])
        if adapter is not None:
            if isinstance(adapter, str):
                place, _, attribute = adapter.partition(":")
                adapter = cast(
                    Adapter, getattr(importlib.import_module(place), attribute)
                )
            return adapter(native, bounds, name=name)
    if not callable(native):
        raise BadInput(
            "expected a torch module, a function from a batch to logits, or a function "
            f"that returns one of these; got a {type(native).__name__}"
        )
    return _adapted_function(native, bounds, example, device, name)


def _adapted_function(
    function: Callable[[Any], Any],
    bounds: Bounds | None,
    example: Array | None,
    device: str | torch.device | None,
    name: str | None,
) -> Model:
    called = name or native_name(function)
    if example is None:
        raise ExampleNeeded(
            f"whether the function '{called}' takes NumPy, torch or JAX batches is "
            "found out by trying; give an example batch, or use NumPyModel, "
            "TorchModel or JaxModel yourself"
        )
    framework, out = _tried(function, np.asarray(example, np.float32), device, called)
    shape, count = tuple(np.shape(out)), len(example)
    if len(shape) != 2 or shape[0] != count:
        raise BadInput(
            f"expected logits of shape ({count}, classes) for {count} inputs of shape "
            f"{np.shape(example)[1:]}; '{called}' returned the shape {shape}"
        )
    if framework == "torch":
        return TorchModel(function, bounds, device=device, name=name)
    if framework == "jax":
        from robustkit.models.jax import JaxModel

        return JaxModel(function, bounds, name=name)
    return NumPyModel(function, bounds, name=name)


def _tried(
    function: Callable[[Any], Any],
    example: Array,
    device: str | torch.device | None,
    called: str,
) -> tuple[str, Any]:
    """The framework of what `function` returns for the example, and the output."""
    makers: dict[str, Callable[[], Any]] = {
        "NumPy": example.copy,
        "torch": lambda: torch.from_numpy(example.copy()).to(device or "cpu"),
    }
    if "jax" in sys.modules:
        makers["JAX"] = lambda: sys.modules["jax"].numpy.array(example)
    failures = []
    for kind, maker in makers.items():
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")
                out = function(maker())
        except Exception as error:
            failures.append(f"on a {kind} batch {_what_and_where(error)}")
            continue
        out = getattr(out, "logits", out)
        if isinstance(out, torch.Tensor):
            return "torch", out.detach().cpu()
        if "jax" in sys.modules and isinstance(out, sys.modules["jax"].Array):
            return "jax", out
        if isinstance(out, np.ndarray | np.generic | list | tuple | float | int):
            return "numpy", out
        raise BadInput(
            f"expected logits (n, classes) as an array of NumPy, torch or JAX; "
            f"'{called}' returned a {type(out).__name__}"
        )
    raise BadInput(
        f"'{called}' fails on an example batch of shape {example.shape}, float32: "
        + "; ".join(failures)
    )


def _channel_axis(example: Array | None, channels: int) -> int:
    if channels == 1:
        return 1
    if example is None:
        raise ExampleNeeded(
            "which axis holds the channels of mean and std is found out from an "
            "example batch; give one, or use Preprocessed(model, mean, std, axis=...)"
        )
    shape = np.shape(example)
    axes = [axis for axis in {1, len(shape) - 1} if shape[axis] == channels]
    if len(axes) == 1:
        return axes[0]
    problem = "both axis 1 and the last axis have" if axes else "no axis has"
    raise BadInput(
        f"mean and std were given for {channels} channels; of inputs of shape {shape}, "
        f"{problem} that size. Give one number for all channels, or wrap the model in "
        "Preprocessed(model, mean, std, axis=...)"
    )


class _AnyBatchModule(torch.nn.Module):
    """An exported program, asked at any batch size."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        super().__init__()
        self.module = program.module()
        self._ask = AnyBatch(self._logits, torch.cat, _exported_batch_size(program))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, ...) to logits (n, classes)."""
        return cast(torch.Tensor, self._ask(x))

    def _logits(self, x: torch.Tensor) -> Any:
        out = self.module(x)
        return getattr(out, "logits", out)


def _exported_batch_size(program: torch.export.ExportedProgram) -> int | None:
    inputs = set(program.graph_signature.user_inputs)
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in inputs:
            size = node.meta["val"].shape[0]
            return size if isinstance(size, int) else None
    return None


def _load_onnx(path: Path, bounds: Bounds | None) -> Model:
    from robustkit.models.onnx import OnnxModel

    return OnnxModel(path, bounds)


def _load_exported(path: Path) -> torch.export.ExportedProgram:
    _refuse_code_in_exported(path)
    try:
        return torch.export.load(path)
    except Exception as error:
        raise BadInput(
            f"torch {torch.__version__} cannot load '{path}' as an exported program "
            f"(torch.export.save writes one): {error}"
        ) from error


def _refuse_code_in_exported(path: Path) -> None:
    """torch.export.load unpickles parts of some files; these are not let near it."""
    if not zipfile.is_zipfile(path):
        raise BadInput(
            f"expected a file that torch.export.save wrote; '{path}' is not a zip "
            "archive, as those are"
        )
    with zipfile.ZipFile(path) as archive:
        for entry in archive.namelist():
            file = entry.rpartition("/")[2]
            if file.endswith("_config.json"):
                config = json.loads(archive.read(entry)).get("config", {})
                safe = all(
                    not payload.get("use_pickle")
                    and payload["path_name"].startswith(("weight_", "tensor_"))
                    for payload in config.values()
                )
            elif file.endswith(".pt") or file.startswith("serialized_"):
                safe = file.endswith("program.json") or _holds_tensors_only(
                    archive.read(entry)
                )
            else:
                safe = "/aotinductor/" not in entry
            if not safe:
                raise BadInput(
                    f"'{path}' contains pickled objects or compiled code ('{entry}'), "
                    "which could run anything; export the model with plain tensors only"
                )


def _holds_tensors_only(content: bytes) -> bool:
    try:
        torch.load(io.BytesIO(content), weights_only=True)
    except Exception:
        return False
    return True


def _load_torchscript(path: Path) -> torch.nn.Module:
    entries = []
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            entries = [entry.rpartition("/")[2] for entry in archive.namelist()]
    pickled = "data.pkl" in entries or path.read_bytes()[:1] == b"\x80"
    if "constants.pkl" not in entries and pickled:
        raise BadInput(
            f"'{path}' is a checkpoint: it holds weights (or a pickled object, which "
            "could run any code when loaded), not a network. Write a Python file with "
            "a function that builds the module, loads "
            f"torch.load('{path.name}', weights_only=True) into it and returns it; "
            "then pass file.py:function"
        )
    try:
        with warnings.catch_warnings():
            # TorchScript is deprecated, but files of it will be around for long.
            warnings.simplefilter("ignore", DeprecationWarning)
            load: Any = torch.jit.load
            return cast(torch.nn.Module, load(path, map_location="cpu"))
    except Exception as error:
        raise BadInput(f"'{path}' is not a TorchScript file: {error}") from error


def _existing(spec: str) -> Path:
    path = Path(spec)
    if not path.is_file():
        raise BadInput(f"expected a model file; there is no file '{path}'")
    return path


def _name_of(spec: str) -> str:
    place, _, name = spec.rpartition(":")
    return f"{Path(place).stem if place.endswith('.py') else place}.{name}"


def _unknown(spec: str) -> str:
    if spec.endswith(".py"):
        return f"expected '{spec}:NAME', with the name of a model in that file"
    if Path(spec).exists():
        return f"cannot tell from its name what '{spec}' holds; expected {_FORMS}"
    return f"unknown model '{spec}'; {suggestion(spec, demo.MODELS)}. Expected {_FORMS}"


def _run_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise BadInput(f"expected a Python file; there is no file '{path}'")
    digest = sha256(str(path.resolve()).encode()).hexdigest()[:8]
    place = importlib.util.spec_from_file_location(f"{path.stem}_{digest}", path)
    assert place is not None
    assert place.loader is not None
    module = importlib.util.module_from_spec(place)
    # Dataclasses, among others, look their module up by its name.
    sys.modules[place.name] = module
    with _user_code(f"running '{path}'"):
        place.loader.exec_module(module)
    return module


def _import_module(name: str) -> ModuleType:
    try:
        with _user_code(f"importing '{name}'"):
            return importlib.import_module(name)
    except BadInput as error:
        cause = error.__cause__
        if isinstance(cause, ModuleNotFoundError) and f"{name}.".startswith(
            f"{cause.name}."
        ):
            raise BadInput(
                f"there is no module '{cause.name}' in the current folder or among the "
                "installed packages; for a file, write path/to/file.py:name"
            ) from cause
        raise


@contextmanager
def _user_code(doing: str) -> Iterator[None]:
    try:
        yield
    except BadInput:
        raise
    except (Exception, SystemExit) as error:
        hint = ""
        if isinstance(error, SystemExit):
            hint = "; put what a script does under: if __name__ == '__main__'"
        raise BadInput(f"{doing} {_what_and_where(error)}{hint}") from error


def _what_and_where(error: BaseException) -> str:
    """The error and the last line outside libraries that led to it."""
    message = f"failed with {type(error).__name__}: {error}"
    if isinstance(error, SyntaxError):
        return f"{message} ({error.filename}, line {error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        frame
        for frame in frames
        if frame.filename != __file__
        and not frame.filename.startswith("<")
        and "site-packages" not in frame.filename
    ]
    if not own:
        return message
    return f"{message} ({own[-1].filename}, line {own[-1].lineno})"


def _is_neighbour(top: str, module: ModuleType, folder: Path) -> bool:
    """Not merely inside: the folder may also hold the installed packages."""
    file = Path(getattr(module, "__file__", None) or ".")
    return file.parent == folder or file.is_relative_to(folder / top)
