"""What a torch model calls while it answers: names for the culprits of a finding."""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

__all__ = ["Calls", "calls"]

_RANDOM = {
    "alpha_dropout",
    "bernoulli",
    "bernoulli_",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "feature_alpha_dropout",
    "multinomial",
    "normal",
    "normal_",
    "rand",
    "rand_like",
    "randint",
    "randint_like",
    "randn",
    "randn_like",
    "randperm",
    "rrelu",
    "uniform_",
}
_FLAT = {
    "argmax",
    "argmin",
    "argsort",
    "bucketize",
    "ceil",
    "dequantize",
    "detach",
    "floor",
    "heaviside",
    "int",
    "item",
    "long",
    "numpy",
    "one_hot",
    "quantize_per_channel",
    "quantize_per_tensor",
    "round",
    "sign",
    "tolist",
    "trunc",
}
# Calls from there are not the model's.
_OURS = ("robustkit.models.", "robustkit.numerics.", "robustkit.engine.", "eagerpy.")
# Where the argument that says whether they work as in training stands.
_TRAINING = {"batch_norm": 5, "instance_norm": 5} | {
    name: 2 for name in _RANDOM if "dropout" in name
}


@dataclass
class Calls:
    """Names of torch's functions that a model called, by what they may explain.

    Empty for models that are not torch's, and for what is compiled or scripted.

    Attributes:
        random: Draw random numbers.
        flat: Have a gradient of zero, or none; or run something without, or with a
            backward pass of its own.
        batch: Mix the samples of a batch: batch statistics, as in training.
    """

    random: set[str] = field(default_factory=set)
    flat: set[str] = field(default_factory=set)
    batch: set[str] = field(default_factory=set)

    def blamed(self, *names: str) -> str:
        """A half-sentence about the calls of some kinds; empty: there were none."""
        found = sorted({call for name in names for call in getattr(self, name)})
        return f" (it calls {', '.join(found)})" if found else ""

    def note(self, name: str, arguments: tuple[Any, ...], named: Any) -> None:
        """Note one call."""
        place = _TRAINING.get(name)
        if place is not None:
            given = arguments[place] if len(arguments) > place else None
            training = named.get("training", named.get("train", given))
            # Dropout's default is to drop.
            if training is False or (training is None and name.endswith("norm")):
                return
        if name == "batch_norm":
            self.batch.add(name)
        elif name in _RANDOM:
            self.random.add(name)
        elif name in _FLAT:
            self.flat.add(name)


@contextlib.contextmanager
def calls() -> Iterator[Calls]:
    """Notes what torch is asked for in the block, gradients being wanted."""
    noted = Calls()
    torch: Any = sys.modules.get("torch")
    if torch is None:
        yield noted
        return
    mode: Any = torch.overrides.TorchFunctionMode

    class Watching(mode):  # type: ignore[misc]
        def __torch_function__(
            self, function: Any, types: Any, arguments: Any = (), named: Any = None
        ) -> Any:
            theirs = not _module(sys._getframe(1)).startswith(_OURS)
            if theirs:
                name = getattr(function, "__name__", "")
                noted.note(name, arguments, named or {})
            result = function(*arguments, **(named or {}))
            tensor = isinstance(result, torch.Tensor) and result.is_floating_point()
            if theirs and tensor and not torch.is_grad_enabled():
                noted.flat.add(_without_gradients())
            return result

    with Watching():
        yield noted


def _without_gradients() -> str:
    """What keeps a call, now being made, from being differentiated."""
    frame: FrameType | None = sys._getframe(2)
    while frame and not _module(frame).startswith(_OURS):
        if _module(frame) == "torch.autograd.function":
            return "torch.autograd.Function"
        frame = frame.f_back
    return "torch.no_grad"


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))
