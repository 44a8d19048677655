"""foolbox models as ours."""

import hashlib
import inspect
from contextlib import AbstractContextManager
from typing import Any

import torch
from eagerpy.tensor.jax import JAXTensor
from eagerpy.tensor.pytorch import PyTorchTensor
from foolbox.models.base import Model as GuestModel
from foolbox.models.numpy import NumPyModel as GuestNumPyModel

from robustkit.errors import BadInput
from robustkit.models.base import Model, PullBack, native_name
from robustkit.models.numpy import NumPyModel
from robustkit.models.torch import TorchModel
from robustkit.numerics.bounds import Bounds, BoundsLike, as_bounds
from robustkit.numerics.tensors import Array, Batch, Tensor, to_numpy

__all__ = ["FoolboxModel"]


class FoolboxModel(Model):
    """A foolbox model, with its bounds, preprocessing and wrappers.

    Args:
        model: A foolbox PyTorchModel, JAXModel or NumPyModel, or one of its wrappers
            around such a model.
        bounds: None, or the model's own once more.
        name: For people.

    Raises:
        BadInput: The bounds differ from the model's own, or it is written in
            TensorFlow or an unknown framework.

    >>> import foolbox
    >>> module = torch.nn.Linear(4, 3).eval()
    >>> native = foolbox.PyTorchModel(module, bounds=(0, 255), device="cpu")
    >>> FoolboxModel(native).bounds
    Bounds(lower=0.0, upper=255.0)
    """

    def __init__(
        self,
        model: GuestModel,
        bounds: BoundsLike | None = None,
        *,
        name: str | None = None,
    ) -> None:
        self.bounds = Bounds(*model.bounds)
        if bounds is not None and as_bounds(bounds) != self.bounds:
            raise BadInput(
                f"the foolbox model has the bounds {self.bounds}; {bounds} was asked "
                "for. Leave the bounds out, or give model.transform_bounds((lower, "
                "upper))"
            )
        self._layers = _layers(model)
        self._inner = _adapted(model, self._layers[-1], self.bounds, name)
        self.access, self.name = self._inner.access, self._inner.name
        self.data_format: str | None = getattr(model, "data_format", None)

    def logits(self, x: Batch) -> Tensor:
        return self._inner.logits(x)

    def linearise(self, x: Batch) -> tuple[Tensor, PullBack]:
        return self._inner.linearise(x)

    def to_tensor(self, x: Array) -> Batch:
        return self._inner.to_tensor(x)

    def session(self) -> AbstractContextManager[None]:
        return self._inner.session()

    def fingerprint(self) -> str | None:
        inner = self._inner.fingerprint()
        if inner is None:
            return None
        settings = [_settings(layer) for layer in self._layers]
        return hashlib.sha256(f"{inner} {settings}".encode()).hexdigest()


def _layers(model: GuestModel) -> list[GuestModel]:
    """The model, the one it wraps, and so on."""
    layers = [model]
    while isinstance(inner := getattr(layers[-1], "_model", None), GuestModel):
        layers.append(inner)
    return layers


def _adapted(
    model: GuestModel, core: GuestModel, bounds: Bounds, name: str | None
) -> Model:
    native = _native(core)
    name = name or native_name(native)
    dummy = getattr(core, "dummy", None)
    if isinstance(dummy, PyTorchTensor):
        if isinstance(native, torch.nn.Module):
            return TorchModel(_WithFoolbox(native, model), bounds, name=name)
        return TorchModel(model, bounds, device=dummy.raw.device, name=name)
    if isinstance(dummy, JAXTensor):
        from robustkit.models.jax import JaxModel

        return JaxModel(model, bounds, name=name)
    if isinstance(core, GuestNumPyModel):
        return NumPyModel(model, bounds, name=name)
    raise BadInput(
        f"a foolbox {type(core).__name__} cannot be used: expected a PyTorchModel, "
        "JAXModel or NumPyModel, or a wrapper around one. Wrap the native model in "
        "NumPyModel(function, bounds), for score- and decision-based attacks"
    )


def _native(core: GuestModel) -> Any:
    """What the foolbox model was built around."""
    native = getattr(core, "_model", core)
    if inspect.isfunction(native):
        # PyTorchModel keeps its module in a closure only.
        return inspect.getclosurevars(native).nonlocals.get("model", native)
    return native


def _settings(layer: GuestModel) -> str:
    """What tells two models around the same module apart."""
    left_out = ("_model", "_dummy", "device")
    settings = {
        key: _plain(value) for key, value in vars(layer).items() if key not in left_out
    }
    return f"{type(layer).__name__} {settings}"


def _plain(value: Any) -> Any:
    """A setting whose `repr` is complete."""
    if isinstance(value, Tensor):
        return to_numpy(value).tolist()
    return [_plain(part) for part in value] if isinstance(value, tuple) else value


class _WithFoolbox(torch.nn.Module):
    """A module asked through its foolbox model, so that its parameters are seen."""

    def __init__(self, module: torch.nn.Module, model: GuestModel) -> None:
        super().__init__()
        self.training = module.training
        self.module = module
        self._ask = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._ask(x)
