"""Where a model's gradients end or mislead, found by measuring."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from robustkit.engine.criteria import Criterion
from robustkit.evaluation.goals import misclassified
from robustkit.models.base import Access, Model, NoGradient
from robustkit.models.bpda import BPDA, torch_module
from robustkit.models.eot import EOT
from robustkit.numerics.tensors import Array, like, take, to_numpy

__all__ = ["approximations", "last_layer", "progress"]

# Draws that stand for a random model.
_DRAWS = 10
# Of a layer: so many pairs of directions are compared with differences of its outputs,
# and below this correlation its backward pass is of something else.
_PAIRS, _AGREES = 12, 0.5


def progress(
    model: Model, x: Array, label: Array, step: float, *, random: bool = False
) -> float:
    """How far one step down its gradient lowers the margin; one is all the way.

    The mean over the samples of the margin's fall as a share of the margin, for a step
    of the gradient's sign. Whatever a model does backwards, this tells what it is good
    for. Zero where there is no gradient.

    Args:
        model: With gradients of any kind.
        x: (n, ...) originals.
        label: (n,) their classes.
        step: Change of every feature, in input units.
        random: Whether to ask about the mean of several draws.
    """
    if model.access < Access.GRADIENT:
        return 0.0
    if random:
        model = EOT(model, _DRAWS, batched=True)
    try:
        with model.session():
            point = model.to_tensor(x)
            logits, pull_back = model.linearise(point)
            criterion = misclassified(model, like(logits, label))
            margin, slopes = criterion.slopes(logits)
            gradient = to_numpy(pull_back(slopes))
            moved = x - step * np.sign(np.nan_to_num(gradient))
            moved = moved.clip(model.bounds.lower, model.bounds.upper).astype(x.dtype)
            after = _margin(model, criterion, moved)
    except (NoGradient, RuntimeError):
        return 0.0
    before = to_numpy(margin).astype(np.float64)
    scale = np.maximum(np.abs(before), 1e-9 + 0.1 * np.median(np.abs(before)))
    # Infinity less infinity is no number, and no fall.
    with np.errstate(invalid="ignore"):
        share = (before - after) / scale
    return float(np.clip(np.nan_to_num(share), -2, 2).mean())


def _margin(model: Model, criterion: Criterion, x: Array) -> Array:
    logits = model.logits(model.to_tensor(x))
    rows = np.arange(len(x))
    return to_numpy(take(criterion, rows).margin(logits)).astype(np.float64)


def approximations(model: Model, x: Array) -> Iterator[tuple[str, Model]]:
    """Ways to replace what has no useful gradient in a torch model, and their names.

    All operations that cut gradients; each layer whose backward pass is zero, cut or at
    odds with what it does, and all of them; all that is done to the input before the
    first layers that see it changed.

    Args:
        model: Wrappers around a torch module or function.
        x: (n, ...) a few inputs.
    """
    inner: Model | None = model
    while inner is not None and inner.wraps is not None:
        inner = inner.wraps
    if not hasattr(inner, "module"):
        return
    everything = BPDA(model)
    yield "every operation without a gradient", everything
    module = torch_module(model)
    if module is None:
        return
    seen = _watched(model, module, x)
    bad = tuple(name for name, layer in seen.items() if layer.misleads())
    for name in bad:
        yield f"the layer '{name}'", BPDA(model, name)
    if len(bad) > 1:
        yield f"the layers {', '.join(bad)}", BPDA(model, bad)
    if bad:
        yield f"{', '.join(bad)} and every operation", BPDA(everything, bad)
    entries = [name for name, layer in seen.items() if layer.sees_changed_input]
    for name in dict.fromkeys(entries[:1] + entries[-1:]):
        yield f"all before the layer '{name}'", BPDA(model, before=name)
        yield (
            f"all before the layer '{name}', and every operation",
            BPDA(everything, before=name),
        )


def last_layer(model: Model, x: Array) -> str | None:
    """The layer of a torch module whose output its last linear layer is given.

    None where there is no such layer with a name.
    """
    module = torch_module(model)
    if module is None:
        return None
    seen = list(_watched(model, module, x).items())
    linear = [
        i for i, (_, s) in enumerate(seen) if isinstance(s.layer, torch.nn.Linear)
    ]
    if not linear:
        return None
    given = seen[linear[-1]][1].given
    for name, before in reversed(seen[: linear[-1]]):
        if before.out is given:
            return name
    return None


@dataclass
class _Seen:
    """What one layer did in one pass.

    Attributes:
        layer: Itself.
        given: Its first input.
        out: Its output.
        sees_changed_input: Whether the input has the shape of the model's, but is
            another.
        slopes: What came back to its output and its input, once there was a pass back.
    """

    layer: torch.nn.Module
    given: torch.Tensor
    out: torch.Tensor
    sees_changed_input: bool
    slopes: dict[str, torch.Tensor] = field(default_factory=dict)

    def misleads(self) -> bool:
        """Whether the identity might be a better way back through this layer."""
        if self.given.shape != self.out.shape:
            return False
        after, before = self.slopes.get("out"), self.slopes.get("given")
        came_back = after is not None and bool(after.any())
        if came_back and (before is None or not bool(before.any())):
            return True
        return self._agreement() < _AGREES

    def _agreement(self) -> float:
        """The correlation of slopes with what the layer does over a small distance."""
        generator = torch.Generator().manual_seed(0)
        given = self.given.detach()
        size = 0.1 * float(given.std()) + 1e-6
        told, came = [], []
        try:
            with torch.enable_grad():
                point = given.clone().requires_grad_()
                out = self.layer(point)
                if not out.requires_grad:
                    return 0.0
                for _ in range(_PAIRS):
                    way, weight = (
                        torch.randn(given.shape, generator=generator).to(given)
                        for _ in range(2)
                    )
                    (slopes,) = torch.autograd.grad(
                        out, point, weight, retain_graph=True
                    )
                    change = self.layer(given + size * way) - out.detach()
                    told.append(float((slopes * way).sum() * size))
                    came.append(float((change.detach() * weight).sum()))
        except (RuntimeError, TypeError):
            return 1.0
        if np.std(told) == 0 or np.std(came) == 0:
            return float(np.std(told) == np.std(came))
        return float(np.corrcoef(told, came)[0, 1])


def _watched(model: Model, module: torch.nn.Module, x: Array) -> dict[str, _Seen]:
    """What each innermost layer of one input and output did, in the order of calls."""
    seen: dict[str, _Seen] = {}
    first: list[torch.Tensor] = []
    names = {id(child): name for name, child in module.named_modules() if name}

    def start(_: Any, given: tuple[Any, ...]) -> None:
        first[:] = [given[0]]

    def note(layer: torch.nn.Module, given: tuple[Any, ...], out: Any) -> None:
        tensors = all(isinstance(t, torch.Tensor) for t in (*given[:1], out))
        if not given or not tensors or not out.is_floating_point():
            return
        one = given[0]
        like_input = bool(first) and one.shape == first[0].shape
        changed = like_input and not torch.equal(one, first[0])
        what = seen[names[id(layer)]] = _Seen(layer, one, out, changed)
        for kind, tensor in (("given", one), ("out", out)):
            if tensor.requires_grad:
                tensor.register_hook(
                    lambda slopes, kind=kind: what.slopes.update({kind: slopes})
                )

    innermost = [
        child
        for name, child in module.named_modules()
        if name and not any(True for _ in child.children())
    ]
    containers = [
        child
        for name, child in module.named_modules()
        if name and any(True for _ in child.children())
    ]
    hooks = [module.register_forward_pre_hook(start)]
    hooks += [layer.register_forward_hook(note) for layer in (*innermost, *containers)]
    try:
        with model.session():
            logits, pull_back = model.linearise(model.to_tensor(x))
            pull_back(
                like(logits, np.eye(logits.shape[1], dtype=x.dtype)[_top(logits)])
            )
    except (NoGradient, RuntimeError):
        # What was seen on the way is enough.
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _top(logits: Any) -> Array:
    return np.asarray(to_numpy(logits.argmax(axis=1)))
