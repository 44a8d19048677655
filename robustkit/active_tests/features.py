"""What readouts are laid upon: a layer, a function of your own, or the logits.

With a detector, its score is one more column after the features, so that one question
about a point shows both.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch

from robustkit.errors import BadInput
from robustkit.models.base import (
    Access,
    Model,
    NoGradient,
    PullBack,
    Wrapper,
    native_name,
)
from robustkit.models.foreign import Foreign
from robustkit.models.functions import adapt_function
from robustkit.models.isolated import isolated
from robustkit.models.torch import TorchModel
from robustkit.numerics.tensors import (
    Array,
    Batch,
    Tensor,
    native,
    stack_columns,
    to_numpy,
)

__all__ = ["Features", "WithDetector", "find_features"]

Features: TypeAlias = (
    str | Callable[..., Any] | Model | tuple[Callable[..., Any], Callable[..., Any]]
)
"""A layer's name, a function from inputs to features, or that and the head on it."""

_TOLERANCE = 1e-3


class WithDetector(Wrapper):
    """A model whose outputs have a detector's score behind them, as one more column.

    Args:
        model: Of outputs (n, m).
        detector: Of outputs (n, 1).
    """

    def __init__(self, model: Model, detector: Model) -> None:
        super().__init__(model, detector)
        self._detector = Foreign(detector)
        both = (model, detector)
        self.access = min(m.access for m in both)
        # The two are one model, that runs once.
        self.passes_per_question = max(m.passes_per_question for m in both)
        self.passes_per_gradient = max(m.passes_per_gradient for m in both)
        # Its last column is no class.
        self.abstains = False

    def _around(self, model: Model, *others: Model) -> Model:
        return WithDetector(model, *others)

    def logits(self, x: Batch) -> Tensor:
        return stack_columns([self._model.logits(x), self._detector.logits(x)])

    def linearise(self, x: Batch) -> tuple[Tensor, PullBack]:
        outputs, back = self._model.linearise(x)
        score, back_from_score = self._scored(x)

        def pull_back(slopes: Tensor) -> Batch:
            inner = back(slopes[:, :-1])
            if not to_numpy(slopes[:, -1:]).any():
                return inner
            return inner + back_from_score(slopes[:, -1:])

        return stack_columns([outputs, score]), pull_back

    def _scored(self, x: Batch) -> tuple[Tensor, PullBack]:
        """As `linearise`, of the detector; it may lack gradients until they are used.

        An attack that does not look at the detector must not fail for want of them.
        """
        try:
            return self._detector.linearise(x)
        except NoGradient as error:
            reason = error

        def none(_: Tensor) -> Batch:
            raise reason

        return self._detector.logits(x), none


def find_features(
    model: Model, features: Features | None, detector: Any, example: Array
) -> tuple[Model, str]:
    """The model cut short at its features, and what these are called.

    Args:
        model: The whole classifier.
        features: See `Features`; None: its logits.
        detector: A function or module from inputs to scores (n,), or None.
        example: (n, ...) a few valid inputs, for trying functions on.

    Raises:
        BadInput: There is no such layer; a function fails or does not return one row
            for each input; or the head on the features is not the model's.
    """
    if features is None:
        cut, name = model, "logits"
    elif isinstance(features, str):
        cut, name = model.at_layer(features), f"layer '{features}'"
    else:
        if isinstance(features, tuple) and len(features) == 2:
            _check_head(*features, model, example)
            features = features[0]
        cut = _adapted(features, model, example, _flat)
        name = f"function '{native_name(features)}'"
    cut = isolated(cut)
    _shape(cut, example)
    if detector is None:
        return cut, name
    scores = isolated(_adapted(detector, model, example, _column))
    if (shape := _shape(scores, example)) != (len(example), 1):
        raise BadInput(
            "the detector must return one score per input, (n,), above 0 where it "
            f"detects something; for {len(example)} inputs it returned {shape}"
        )
    return WithDetector(cut, scores), name


def _adapted(
    function: Any, model: Model, example: Array, shaped: Callable[[Any], Any]
) -> Model:
    """A function on tensors of the model's framework as a model of that framework."""
    if isinstance(function, Model):
        return function
    if not callable(function):
        raise BadInput(
            "features are the name of a layer, a function from inputs to features, or "
            f"a pair of such a function and the head on it; got {function!r}"
        )
    called = native_name(function)
    raw = model.to_tensor(example).raw
    if isinstance(function, torch.nn.Module):
        shaping = _Shaped(function, shaped)
        return TorchModel(shaping, model.bounds, name=called)
    if isinstance(raw, torch.Tensor):
        return TorchModel(lambda x: shaped(function(x)), model.bounds, name=called)
    return adapt_function(
        lambda x: shaped(function(x)), model.bounds, example, None, called
    )


class _Shaped(torch.nn.Module):
    """A module, and a function of its output."""

    def __init__(self, module: torch.nn.Module, shaped: Callable[[Any], Any]) -> None:
        super().__init__()
        self.module, self.shaped = module, shaped
        self.train(module.training)

    def forward(self, x: torch.Tensor) -> Any:
        return self.shaped(self.module(x))


def _flat(out: Any) -> Any:
    if not getattr(out, "ndim", 0):
        raise BadInput(
            "features must be an array (n, ...), a row for each input; the function "
            f"returned a {type(out).__name__} of no dimension"
        )
    return out.reshape((out.shape[0], -1))


def _column(out: Any) -> Any:
    if not getattr(out, "ndim", 0):
        raise BadInput(
            "the detector must return one score per input, (n,), above 0 where it "
            f"detects something; it returned a {type(out).__name__} of no dimension"
        )
    return out[:, None] if getattr(out, "ndim", 0) == 1 else _flat(out)


def _shape(model: Model, example: Array) -> tuple[int, ...]:
    shape = tuple(model.logits(model.to_tensor(example)).shape)
    if len(shape) != 2 or shape[0] != len(example) or shape[1] == 0:
        raise BadInput(
            f"expected features ({len(example)}, m) for {len(example)} inputs; "
            f"'{model.name}' returned the shape {shape}"
        )
    return shape


def _check_head(
    function: Callable[..., Any],
    head: Callable[..., Any],
    model: Model,
    example: Array,
) -> None:
    raw = native(model.to_tensor(example)).raw
    if model.access is Access.GRADIENT and isinstance(raw, torch.Tensor):
        with torch.no_grad():
            joined = head(function(raw)).cpu().numpy()
    else:
        joined = np.asarray(head(function(raw)))
    whole = to_numpy(model.logits(model.to_tensor(example)))
    scale = max(float(np.abs(whole).max()), 1.0)
    if joined.shape != whole.shape or np.abs(joined - whole).max() > _TOLERANCE * scale:
        raise BadInput(
            "the head applied to the features does not give the model's logits, so "
            "these are not the model's features; give the two halves of the model that "
            "is tested, or the features alone"
        )
