"""Backward pass differentiable approximation: the same answers, another way back."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias

import numpy as np
import torch

from robustkit.errors import BadInput, suggestion
from robustkit.models.base import Model, PullBack, Wrapper, native_name
from robustkit.models.straight_through import Operations, through
from robustkit.models.torch import TorchModel
from robustkit.numerics.tensors import (
    Batch,
    Tensor,
    as_tensor,
    differentiate,
    flatten,
    framework_of,
    like,
    native,
    total,
)

__all__ = ["BPDA", "torch_module"]

_Approximation: TypeAlias = Callable[[Any], Any]


class BPDA(Wrapper):
    """A model that answers as before, and is differentiated as if a part were another.

    For parts whose derivative is zero, missing or wrong, such as rounding: forwards
    they do what they do, backwards they count as the identity, or as a differentiable
    function that is near them. Which part:

    - `BPDA(model, layer="quantise")`: a layer of a torch module, or several;
    - `BPDA(model, before="conv1")`: all that a torch module does to its input before
      that layer, whether it has a name or not, and even outside torch;
    - `BPDA(model, layer=function)`: a preprocessing step that the model lacks: what is
      attacked is the model behind the function, in any framework;
    - `BPDA(model)`: every operation in a torch model that cuts gradients or has none:
      rounding, integer division, conversions to integers, thresholds, signs, `detach`,
      `.data` and `no_grad`. Integers and truth values are followed through arithmetic,
      logic and `where` until they are floats again; not through tables that they index,
      nor where they multiply or select what has gradients of its own, as in a ReLU.
      Thresholds count as sigmoids as wide as the values' mean distance from them.

    Wrappers around the torch module (`Preprocessed`, `EOT`) are looked through.

    Args:
        model: To be attacked.
        layer: See above. Of a layer with several inputs, the first counts.
        before: See above.
        backward: "identity", for parts that keep the shape; or the function that they
            count as, on native tensors.

    Source:
        Athalye, Carlini, Wagner: Obfuscated Gradients Give a False Sense of Security,
        ICML 2018, section 4.1. The automatic form is this project's.

    Raises:
        BadInput: There is no such layer, or no torch module to look for it in; a part
            is neither named nor a function; or operations shall be replaced, and the
            model is not one of torch.

    >>> from robustkit.models.torch import TorchModel
    >>> quantise = lambda x: (8 * x).round() / 8
    >>> model = BPDA(TorchModel(lambda x: quantise(x) * torch.tensor([1.0, -1.0])))
    >>> logits, pull_back = model.linearise(as_tensor(torch.tensor([[0.3, 0.0]])))
    >>> logits.raw.tolist()
    [[0.25, -0.0]]
    >>> pull_back(as_tensor(torch.ones(1, 2))).raw.tolist()
    [[1.0, -1.0]]
    """

    def __init__(
        self,
        model: Model,
        layer: str | Sequence[str] | _Approximation | None = None,
        *,
        before: str | None = None,
        backward: str | _Approximation = "identity",
    ) -> None:
        super().__init__(model)
        if backward != "identity" and not callable(backward):
            raise BadInput(
                f"unknown backward pass {backward!r}; give 'identity' or a function"
            )
        if layer is not None and before is not None:
            raise BadInput("name either the layer, or the one before which to replace")
        self._step = layer if callable(layer) else None
        names: Sequence[str] = ()
        if isinstance(layer, str):
            names = (layer,)
        elif isinstance(layer, Sequence):
            names = layer
        elif layer is not None and not callable(layer):
            raise BadInput(
                f"expected the name of a layer, several, or a function; got {layer!r}"
            )
        # The layers themselves, since inside a model cut short names are others.
        self._layers = {name: _layer(model, name)[1] for name in names}
        self._before = before
        self._bridged = None if before is None else _layer(model, before)
        if layer is None and before is None:
            _check_torch(model)
        self._backward = None if isinstance(backward, str) else backward
        self._operations = Operations()
        self._say()

    @property
    def replaced(self) -> tuple[str, ...]:
        """Names of the operations replaced so far, where no part was named."""
        return tuple(sorted(self._operations.replaced))

    def logits(self, x: Batch) -> Tensor:
        return self._model.logits(self._stepped(x))

    def linearise(self, x: Batch) -> tuple[Tensor, PullBack]:
        if self._step is None:
            with self._replacing():
                return self._model.linearise(x)
        logits, pull_back = self._model.linearise(self._stepped(x))

        def further(slopes: Tensor) -> Batch:
            gradient = pull_back(slopes)
            if self._backward is None:
                return _same_shape(gradient, x, self._part())
            approximation = self._backward

            def along(rows: Tensor) -> Tensor:
                near = as_tensor(approximation(rows.reshape(x.shape).raw))
                return total(near * gradient)

            return differentiate(along, flatten(x))[1].reshape(x.shape)

        return logits, further

    def at_layer(self, layer: str) -> Model:
        return self._around(self._model.at_layer(layer))

    def _around(self, model: Model, *others: Model) -> Model:
        again = copy.copy(self)
        Wrapper.__init__(again, model)
        again._say()
        return again

    def _settings(self) -> str | None:
        if self._step is not None:
            return None
        by = native_name(self._backward) if self._backward else "identity"
        return f"{self._part()} {by}"

    def _say(self) -> None:
        self.notes = (*self.notes, f"the backward pass of {self._part()} is replaced")

    def _part(self) -> str:
        """What is replaced, in words."""
        if self._step is not None:
            return f"the function '{native_name(self._step)}'"
        if self._before is not None:
            return f"all before the layer '{self._before}'"
        if self._layers:
            return ", ".join(f"the layer '{name}'" for name in self._layers)
        return "every operation without a gradient"

    def _stepped(self, x: Batch) -> Batch:
        if self._step is None:
            return x
        with torch.no_grad():
            # Of its own, since steps may work in place.
            given = native(1.0 * x).raw
            out = self._step(given)
            if isinstance(out, type(given)):
                return as_tensor(out)
            # Such as of NumPy, in front of a torch module.
            return like(x, np.asarray(out)).astype(x.dtype)

    @contextmanager
    def _replacing(self) -> Iterator[None]:
        """While open, forward passes lay the other way back."""
        with ExitStack() as stack:
            if self._bridged is not None:
                self._bridge(stack, *self._bridged)
            elif self._layers:
                for layer in self._layers.values():
                    hook = layer.register_forward_hook(
                        self._replaced_output, with_kwargs=True
                    )
                    stack.callback(hook.remove)
            else:
                stack.enter_context(self._operations.replacing())
            yield

    def _replaced_output(
        self, _: Any, given: tuple[Any, ...], named: dict[str, Any], out: Any
    ) -> Any:
        with torch.enable_grad():
            return self._through(out, (*given, *named.values())[0])

    def _bridge(
        self, stack: ExitStack, module: torch.nn.Module, layer: torch.nn.Module
    ) -> None:
        """The way from the layer's input back to the whole module's."""
        first: list[torch.Tensor] = []

        def remember(_: Any, given: tuple[Any, ...]) -> None:
            first[:] = [given[0]]

        def replace(_: Any, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
            with torch.enable_grad():
                if given:
                    return (self._through(given[0], first[0]), *given[1:]), named
                name, value = next(iter(named.items()))
                return given, {**named, name: self._through(value, first[0])}

        stack.callback(module.register_forward_pre_hook(remember).remove)
        hook = layer.register_forward_pre_hook(replace, with_kwargs=True)
        stack.callback(hook.remove)

    def _through(self, value: Any, x: torch.Tensor) -> torch.Tensor:
        if not isinstance(value, torch.Tensor):
            raise BadInput(
                f"{self._part()} makes a {type(value).__name__}, and only one tensor "
                "can be replaced; name a layer inside it, or the next one as `before`"
            )
        way = x if self._backward is None else self._backward(x)
        if way.shape != value.shape:
            raise BadInput(
                f"{self._part()} makes {tuple(value.shape)} of {tuple(x.shape)}, and "
                f"what should stand for it backwards gives {tuple(way.shape)}; give a "
                "`backward` that returns the same shape"
            )
        return through(value, way)


def torch_module(model: Model) -> torch.nn.Module | None:
    """The torch module at the heart of a model and its wrappers; None: there is none.

    >>> torch_module(TorchModel(torch.nn.Linear(2, 2).eval()))
    Linear(in_features=2, out_features=2, bias=True)
    """
    inner: Model | None = model
    while inner is not None and not isinstance(inner, TorchModel):
        inner = inner.wraps
    module = None if inner is None else inner.module
    return module if isinstance(module, torch.nn.Module) else None


def _check_torch(model: Model) -> None:
    inner = model
    while inner.wraps is not None:
        inner = inner.wraps
    framework = framework_of(inner.to_tensor(np.zeros((1, 1), np.float32)))
    if framework != "torch":
        raise BadInput(
            f"operations of torch are replaced, and the model '{model.name}' works in "
            f"{framework}; give the part without a gradient as a function: "
            "BPDA(rest, layer=function)"
        )


def _layer(model: Model, name: str) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The whole torch module, and its layer of that name."""
    module = torch_module(model)
    if module is None:
        raise BadInput(
            f"the model '{model.name}' is no torch module, so it has no layer "
            f"'{name}'; give the part as a function: BPDA(rest, layer=function)"
        )
    layers = dict(module.named_modules())
    if name not in layers:
        raise BadInput(f"the model has no layer '{name}'; {suggestion(name, layers)}")
    return module, layers[name]


def _same_shape(gradient: Batch, x: Batch, part: str) -> Batch:
    if gradient.shape != x.shape:
        raise BadInput(
            f"{part} makes {gradient.shape} of {x.shape}, so it cannot count as the "
            "identity; give a `backward` function"
        )
    return gradient
