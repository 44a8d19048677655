"""From what a user has to a `Model`: objects, files and names."""

import os
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robustkit import demo
from robustkit.errors import BadInput, suggestion
from robustkit.models.base import Model, native_name
from robustkit.models.functions import adapt_function
from robustkit.models.torch import TorchModel
from robustkit.models.torch_files import ExportedModule, load_exported, load_torchscript
from robustkit.models.user_code import (
    call_user,
    import_object,
    neighbours_importable,
    takes_nothing,
)
from robustkit.models.wrappers import Preprocessed, per_channel
from robustkit.numerics.bounds import Bounds, BoundsLike, as_bounds
from robustkit.numerics.tensors import Array

__all__ = ["ExampleNeeded", "as_model", "load_model", "register_adapter"]

Adapter = Callable[..., Model]

# A string is imported when first needed, so that nobody pays for what is not used.
_ADAPTERS: dict[str, Adapter | str] = {
    "foolbox": "robustkit.interop.foolbox:FoolboxModel",
}

_TORCHSCRIPT = (".pt", ".pth", ".ts", ".torchscript")

_FORMS = (
    "a demo name, file.onnx, file.pt2 (torch.export), a TorchScript file (.pt, .pth, "
    ".ts, .torchscript), path/to/file.py:name, package.module:name, or the address of "
    "a remote model (http:// or https://)"
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
    bounds: BoundsLike | None = None,
    *,
    example: Array | None = None,
    device: str | torch.device | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
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
            and return: one forward pass, or two. So is the model at an address.
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
    model = _adapted(native, _given(bounds), example, device, name)
    if device is not None and not isinstance(model, TorchModel):
        raise BadInput(
            f"device '{device}' was given, but only torch models can be moved; "
            f"'{model.name}' is a {type(model).__name__}"
        )
    mean, std = per_channel(mean, "mean"), per_channel(std, "std")
    if mean is None and std is None:
        return model
    mean = (0.0,) * len(std or ()) if mean is None else mean
    std = (1.0,) * len(mean) if std is None else std
    return Preprocessed(model, mean, std, axis=_channel_axis(example, len(mean)))


def load_model(
    spec: str | os.PathLike[str],
    bounds: BoundsLike | None = None,
    *,
    example: Array | None = None,
    device: str | torch.device | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    cache: str | os.PathLike[str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Model:
    """Load a model by name or from a file.

    Python files run code, and so may exported programs: load only what you trust.
    Pickled checkpoints are refused.

    Args:
        spec: A demo name; `file.onnx`; `file.pt2` (torch.export); TorchScript (`.pt`,
            `.pth`, `.ts`, `.torchscript`); `path/to/file.py:name` or
            `package.module:name`, where the name is anything that `as_model` accepts.
            Modules beside a Python file can be imported by it. An address (http:// or
            https://) is that of a remote model with the documented format; keys in
            it are the environment's (`filled_address`).
        bounds: Of valid inputs, in input units.
        example: See `as_model`; as are `device`, `mean` and `std`.
        device: Where torch models run.
        mean: Of the inputs that the model expects.
        std: Of the inputs that the model expects.
        cache: File that keeps the answers of a model at an address (`RemoteModel`).
        headers: Sent to that address, the environment's values in place of
            `ENV:VARIABLE` (`filled_headers`).

    Raises:
        BadInput: There is nothing of that name, it cannot be loaded, or it is no model;
            or it is at no address, and has no use for a cache or headers.

    >>> load_model("digits").name
    'digits'
    """
    spec, bounds = os.fspath(spec), _given(bounds)
    suffix = Path(spec).suffix.lower()
    native: Any
    name: str | None
    address = spec.startswith(("http://", "https://"))
    if (cache is not None or headers) and not address:
        raise BadInput(
            "a cache of answers and headers are for models at an address (http:// or "
            f"https://); got the model '{spec}'"
        )
    with neighbours_importable(spec):
        if spec in demo.MODELS:
            native, name = demo.load_model(spec), spec
        elif address:
            native, name = _remote(spec, bounds, example, cache, headers), None
        elif suffix == ".onnx":
            native, name = _load_onnx(_existing(spec), bounds), None
        elif suffix == ".pt2":
            native, name = load_exported(_existing(spec)), Path(spec).stem
        elif suffix in _TORCHSCRIPT:
            native, name = load_torchscript(_existing(spec)), Path(spec).stem
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


def _given(bounds: BoundsLike | None) -> Bounds | None:
    return None if bounds is None else as_bounds(bounds)


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
        native = ExportedModule(native)
    if isinstance(native, torch.nn.Module):
        # The mode of an exported module is fixed in its operations.
        fixed = isinstance(native, ExportedModule | torch.fx.GraphModule)
        return TorchModel(native, bounds, device=device, training=fixed, name=name)
    for ancestor in type(native).__mro__:
        adapter = _ADAPTERS.get(ancestor.__module__.partition(".")[0])
        if adapter is not None:
            if isinstance(adapter, str):
                adapter = pkgutil.resolve_name(adapter)
            return adapter(native, bounds, name=name)
    if not callable(native):
        raise BadInput(
            "expected a torch module, a function from a batch to logits, or a function "
            f"that returns one of these; got a {type(native).__name__}"
        )
    if example is None:
        raise ExampleNeeded(
            f"whether the function '{name or native_name(native)}' takes NumPy, torch "
            "or JAX batches is found out by trying; give an example batch, or use "
            "NumPyModel, TorchModel or JaxModel yourself"
        )
    example = np.asarray(example, np.float32)
    return adapt_function(native, bounds, example, device, name)


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


def _remote(
    url: str,
    bounds: Bounds | None,
    example: Array | None,
    cache: str | os.PathLike[str] | None,
    headers: Mapping[str, str] | None,
) -> Model:
    from robustkit.models.remote import RemoteModel, filled_address, filled_headers

    kept = None if cache is None else os.fspath(cache)
    filled = filled_headers(headers or {})
    model = RemoteModel(filled_address(url), bounds, cache=kept, headers=filled)
    if example is None:
        raise ExampleNeeded(
            f"whether {url} answers with labels or with scores is found out by asking; "
            "give an example batch, or use RemoteModel yourself"
        )
    model.look(np.asarray(example[:1], np.float32))
    return model


def _load_onnx(path: Path, bounds: Bounds | None) -> Model:
    from robustkit.models.onnx import OnnxModel

    return OnnxModel(path, bounds)


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
