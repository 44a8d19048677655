"""PyTorch modules."""

import copy
import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch._functorch import config as functorch
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.parameter import is_lazy

from robustkit.arguments import as_function
from robustkit.errors import BadInput, suggestion
from robustkit.models.base import Access, Model, NoGradient, PullBack, native_name
from robustkit.models.straight_through import inside_module
from robustkit.numerics.bounds import BoundsLike, as_bounds
from robustkit.numerics.tensors import Array, Batch, Tensor, as_tensor

__all__ = ["TorchModel"]


class TorchModel(Model):
    """A torch module, or any function from a torch batch to torch logits.

    Parameters are frozen while questions are asked, so a question costs one forward
    pass and one backward pass to the input, nothing else, and leaves no `.grad`; their
    `requires_grad` is restored afterwards. A module in training mode is evaluated in
    evaluation mode, with a warning, unless `training` says otherwise.

    Attacks may work faster and less precisely: with `autocast`, `channels_last` or
    `compiled`. What they find is then verified by the plain module (`precise`), and
    moved outwards where it does not hold there.

    Args:
        module: (n, ...) to logits (n, classes), or to an object with such `.logits`.
        bounds: Of valid inputs, in input units.
        device: Where questions are asked; the module is moved there. None: where the
            module's first parameter is.
        training: Leave the module's mode as it is.
        autocast: Compute in this precision what torch deems safe to (`torch.autocast`),
            such as `torch.bfloat16`, on devices made for it.
        channels_last: Lay images (n, channels, height, width), and the weights of the
            module, out with the channels innermost, which many devices prefer.
        compiled: Compile the module (`torch.compile`), for any batch size; takes from
            seconds to minutes, and on a CPU a C++ compiler.
        name: For people.

    Raises:
        BadInput: It cannot be called, has parameters yet to be made, was made under
            `torch.inference_mode`, or cannot be moved or computed with as asked for. In
            questions: it is asked under that mode, writes into its input, or returns no
            logits.

    >>> module = torch.nn.Linear(4, 3).eval()
    >>> model = TorchModel(module)
    >>> tuple(model.logits(as_tensor(torch.zeros(2, 4))).shape)
    (2, 3)
    """

    access = Access.GRADIENT

    def __init__(
        self,
        module: Callable[..., Any],
        bounds: BoundsLike | None = None,
        *,
        device: str | torch.device | None = None,
        training: bool = False,
        autocast: torch.dtype | None = None,
        channels_last: bool = False,
        compiled: bool = False,
        name: str | None = None,
    ) -> None:
        self.bounds = as_bounds(bounds)
        self.name = name or native_name(module)
        self._module = as_function(module, "the model")
        self._autocast, self._channels_last = autocast, channels_last
        self._open, self._untouched = False, False
        self._layers: list[torch.nn.Module] = []
        self._parameters: list[torch.nn.Parameter] = []
        if isinstance(module, torch.nn.Module):
            if device is not None:
                _move(module, device)
            # Frozen TorchScript has no modes.
            layers = [part for part in module.modules() if hasattr(part, "training")]
            self._layers = [] if training else layers
            self._parameters = list(module.parameters())
            self._check_tensors((*self._parameters, *module.buffers()))
        first = next(iter(self._parameters), None)
        found = "cpu" if first is None else first.device
        self._device = torch.device(device or found)
        # Tables of integers, and complex weights, are beside the inputs' precision.
        floats = (p.dtype for p in self._parameters if p.is_floating_point())
        self._dtype = next(floats, None)
        self._fast: Callable[..., Any] = module
        if autocast is not None:
            _check_autocast(autocast, self._device)
        if channels_last and isinstance(module, torch.nn.Module):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if compiled:
            self._fast = torch.compile(module, dynamic=True)
        self._shortcuts = autocast is not None or channels_last or compiled
        if self._shortcuts:
            what = [autocast and str(autocast), channels_last and "channels last"]
            names = ", ".join(w for w in [*what, compiled and "compiled"] if w)
            self.notes = (f"attacked faster ({names}), verified by the plain module",)
        if any(layer.training for layer in self._layers):
            warnings.warn(
                f"the module '{self.name}', or a layer of it, is in training mode; "
                "robustkit evaluates it in evaluation mode. Call .eval() on it first, "
                "or build TorchModel(module, training=True) to attack it as it is",
                stacklevel=2,
            )

    @property
    def module(self) -> Callable[..., Any]:
        """What answers."""
        return self._module

    def logits(self, x: Batch) -> Tensor:
        raw = x.raw
        before = self._state(raw)
        with self.session(), torch.no_grad():
            out = self._call(raw)
        self._check_untouched(raw, *before)
        return as_tensor(out.to(raw.dtype))

    def linearise(self, x: Batch) -> tuple[Tensor, PullBack]:
        before = self._state(x.raw)
        raw = x.raw.detach().requires_grad_()
        with self.session(), torch.enable_grad():
            try:
                out = self._call(raw)
            except RuntimeError as error:
                # What torch says of a layer that writes into our input.
                if "leaf Variable that requires grad" in str(error):
                    raise self._works_in_place() from error
                raise
        self._check_untouched(raw, *before)
        if not out.requires_grad:
            raise NoGradient(self._no_gradient())

        def pull_back(slopes: Tensor) -> Batch:
            outer = slopes.raw.to(out.dtype)
            with self.session():
                (gradient,) = torch.autograd.grad(
                    out, raw, outer, retain_graph=True, allow_unused=True
                )
            if gradient is None:
                raise NoGradient(self._no_gradient())
            return type(x)(gradient.contiguous())

        return type(x)(out.detach().to(raw.dtype)), pull_back

    def precise(self) -> "TorchModel":
        if not self._shortcuts:
            return self
        plain = copy.copy(self)
        plain._shortcuts, plain._open = False, False
        return plain

    def at_layer(self, layer: str) -> "TorchModel":
        if not isinstance(self._module, torch.nn.Module):
            return super().at_layer(layer)  # type: ignore[return-value]
        # As if in training mode, since what that means was said of this model already.
        tapped = TorchModel(
            _Tap(self._module, layer),
            self.bounds,
            training=True,
            name=f"{self.name} at {layer}",
        )
        tapped._layers = self._layers
        return tapped

    def to_tensor(self, x: Array) -> Batch:
        # Modules may take views of it, which other layouts do not have.
        return as_tensor(torch.from_numpy(np.array(x, order="C")).to(self._device))

    def session(self) -> AbstractContextManager[None]:
        return nullcontext() if self._open else self._frozen()

    def fingerprint(self) -> str | None:
        if not isinstance(self._module, torch.nn.Module):
            return None
        tensors = dict(_named(self._module.state_dict()))
        digest = hashlib.sha256()
        for key, value in sorted(tensors.items()):
            digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
            for part in _parts(value.detach().cpu()):
                flat = part.resolve_conj().contiguous().reshape(-1)
                digest.update(flat.view(torch.uint8).numpy().tobytes())
        return digest.hexdigest() if tensors else None

    @contextmanager
    def _frozen(self) -> Iterator[None]:
        trained = [p for p in self._parameters if p.requires_grad]
        training = [layer for layer in self._layers if layer.training]
        donated = functorch.donated_buffer
        self._open = True
        try:
            # Else what is compiled can be gone back through only once.
            functorch.donated_buffer = False
            for parameter in trained:
                parameter.requires_grad_(False)
            for layer in training:
                layer.training = False
            yield
        finally:
            for parameter in trained:
                parameter.requires_grad_(True)
            for layer in training:
                layer.training = True
            functorch.donated_buffer = donated
            self._open = False

    def _fast_call(self, raw: torch.Tensor) -> Any:
        if self._channels_last and raw.ndim == 4:
            raw = raw.contiguous(memory_format=torch.channels_last)
        if self._autocast is None:
            return self._fast(raw)
        with torch.autocast(self._device.type, self._autocast):
            return self._fast(raw)

    def _no_gradient(self) -> str:
        return (
            f"the output of the model '{self.name}' does not depend on its input in a "
            "differentiable way (detach, no_grad or argmax inside); use a score- or "
            "decision-based attack"
        )

    def _call(self, raw: torch.Tensor) -> torch.Tensor:
        if self._dtype is not None and raw.dtype != self._dtype:
            raw = raw.to(self._dtype)
        with inside_module():
            out = self._fast_call(raw) if self._shortcuts else self._module(raw)
        out = getattr(out, "logits", out)
        if not isinstance(out, torch.Tensor):
            raise BadInput(
                f"the model '{self.name}' returned a {type(out).__name__}; expected a "
                "torch tensor of logits (n, classes)"
            )
        if out.is_complex():
            raise BadInput(
                f"the model '{self.name}' returned values of dtype {out.dtype}; "
                "expected numbers, one per class"
            )
        return out

    def _check_tensors(self, tensors: Sequence[torch.Tensor]) -> None:
        if any(map(is_lazy, tensors)):
            raise BadInput(
                f"the module '{self.name}' has parameters that are made when it is "
                "first called (lazy modules); call it once, or load its weights"
            )
        if any(tensor.is_inference() for tensor in tensors):
            raise BadInput(
                f"the module '{self.name}' was made under torch.inference_mode(), "
                "which keeps gradients from passing through it; make it outside"
            )

    def _state(self, raw: torch.Tensor) -> tuple[int, torch.Tensor | None]:
        """How often torch wrote into an input, and at the first question a copy of it.

        Raises:
            BadInput: torch is told to keep no such count.
        """
        if torch.is_inference_mode_enabled():
            raise BadInput(
                f"the model '{self.name}' is asked under torch.inference_mode(), in "
                "which torch takes no gradients; leave that out, or use torch.no_grad()"
            )
        # Inputs without values, by which models are followed, cannot be compared.
        known = self._untouched or isinstance(raw, FakeTensor)
        return raw._version, None if known else raw.detach().clone()

    def _check_untouched(
        self, raw: torch.Tensor, version: int, copy: torch.Tensor | None
    ) -> None:
        # NumPy, and what goes by `.data`, write without being counted.
        if raw._version != version or (copy is not None and not _equal(raw, copy)):
            raise self._works_in_place()
        self._untouched = self._untouched or copy is not None

    def _works_in_place(self) -> BadInput:
        return BadInput(
            f"the model '{self.name}' modifies its input in place, so no answer about "
            "an input can be trusted; let it work on a copy (x = x.clone())"
        )


class _Tap(torch.nn.Module):
    """A module that returns what a layer inside another one returned last, flattened.

    Args:
        module: The whole network, all of which is run.
        layer: A name of `module.named_modules()`.
    """

    def __init__(self, module: torch.nn.Module, layer: str) -> None:
        super().__init__()
        layers = {name: child for name, child in module.named_modules() if name}
        if layer not in layers:
            raise BadInput(
                f"the model has no layer '{layer}'; {suggestion(layer, layers)}"
            )
        self._whole, self._name = module, layer
        self._layer = [layers[layer]]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen: list[Any] = []

        def note(_: torch.nn.Module, __: Any, out: Any) -> None:
            # A copy, since the next layer may work in place.
            seen.append(out.clone() if isinstance(out, torch.Tensor) else out)

        keep = self._layer[0].register_forward_hook(note)
        try:
            self._whole(x)
        finally:
            keep.remove()
        if not seen or not isinstance(seen[-1], torch.Tensor):
            what = f"returned a {type(seen[-1]).__name__}" if seen else "was not called"
            raise BadInput(
                f"the layer '{self._name}' {what}; expected one that returns a tensor "
                "(n, ...) in every forward pass"
            )
        return seen[-1].flatten(1)


def _named(state: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors in a state, also those packed up with others, and their names."""
    if isinstance(state, torch.Tensor):
        yield name, state
    elif isinstance(state, Mapping):
        for key, value in state.items():
            yield from _named(value, f"{name}.{key}" if name else str(key))
    elif isinstance(state, list | tuple):
        yield from _named(dict(enumerate(state)), name)


def _parts(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The dense tensors that a sparse one is made of; of a dense one, itself."""
    if tensor.is_quantized:
        # With its scale, which is not among the integers.
        tensor = tensor.dequantize()
    if tensor.layout is torch.sparse_coo:
        tensor = tensor.coalesce()
        return tensor.indices(), tensor.values()
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return tensor.ccol_indices(), tensor.row_indices(), tensor.values()
    return (tensor,)


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    # The first takes a quarter of the time, and is wrong about what is no number.
    return torch.equal(one, other) or torch.allclose(
        one, other, rtol=0.0, atol=0.0, equal_nan=True
    )


def _move(module: torch.nn.Module, device: str | torch.device) -> None:
    try:
        module.to(device)
    except (RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split())
        raise BadInput(
            f"cannot move the model to the device '{device}' ({reason}); `robustkit "
            "doctor` lists the devices there are"
        ) from error


def _check_autocast(dtype: torch.dtype, device: torch.device) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            torch.autocast(device.type, dtype)
    except (RuntimeError, UserWarning) as error:
        raise BadInput(
            f"{dtype} is no precision that torch.autocast knows on '{device}'; "
            "try torch.bfloat16"
        ) from error


def _keep_freed_memory() -> None:
    """Let the C library keep what is freed, up to some 60 MB.

    glibc hands freed memory back to the system and takes it anew in every step of an
    attack: up to a third of the time on a small network. It raises that limit to twice
    the largest block ever freed (mallopt(3), M_MMAP_THRESHOLD; at most 32 MiB count).
    The block is never touched, so it takes neither time nor memory.
    """
    np.empty(31 << 20, dtype=np.uint8)


_keep_freed_memory()
