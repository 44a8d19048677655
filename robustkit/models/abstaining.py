"""Models that may refuse to answer: with a detector, or by themselves."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from robustkit.arguments import as_number
from robustkit.errors import BadInput
from robustkit.models.base import Model, PullBack, Wrapper
from robustkit.models.foreign import Foreign
from robustkit.models.numpy import NumPyModel
from robustkit.models.torch import TorchModel
from robustkit.numerics.logits import one_hot
from robustkit.numerics.tensors import (
    Batch,
    Tensor,
    just_below,
    maximum,
    minimum,
    stack_columns,
    where,
)

__all__ = ["Abstaining"]

_ROUNDING = 1e-6


class Abstaining(Wrapper):
    """A classifier with a detector: its last class is the refusal to answer.

    The refusal's logit is the highest logit plus the detector's score, and above or
    below it by rounding at least, so the model refuses exactly where the score is above
    zero, and every attack sees a classifier of one more class. `evaluate` counts an
    input as adversarial only if it is misclassified *and* not refused (`Undetected`); a
    refused original counts as an error. Gradients pass through both, where both have
    some.

    Args:
        model: The classifier; or, without a detector, one whose last output is already
            the refusal's.
        detector: From inputs (n, ...) to scores (n,) or (n, 1), above 0 where it
            detects something: a robustkit model of any framework, a torch module, or a
            function; on torch batches if the model is a torch module, else on NumPy's.
        scale: What the score is multiplied with, so that neither logits nor scores
            drown the other in a gradient.

    Raises:
        BadInput: The scale is not above zero, or the detector no function, or its
            bounds are narrower than the model's.

    >>> from robustkit.models.torch import TorchModel
    >>> from robustkit.numerics.tensors import as_tensor
    >>> module = TorchModel(torch.nn.Identity().eval())
    >>> model = Abstaining(module, lambda x: x.sum(dim=1) - 1)
    >>> x = as_tensor(torch.tensor([[0.2, 0.5], [0.8, 0.7]]))
    >>> model.logits(x).raw.argmax(dim=1).tolist()
    [1, 2]
    """

    def __init__(
        self,
        model: Model,
        detector: Model | Callable[[Any], Any] | None = None,
        *,
        scale: float = 1.0,
    ) -> None:
        super().__init__(model)
        scale = as_number(scale, "the detector's scale", above=0)
        self._detector, self._scale = None, scale
        if detector is not None:
            self._detector = Foreign(_adapted(detector, model))
            self.asked = (model, self._detector.wraps)
        both, self.abstains = self.asked, True
        self.notes = tuple(dict.fromkeys(note for m in both for note in m.notes))
        self.access = min(m.access for m in both)
        # The two are one model, that runs once.
        self.passes_per_question = max(m.passes_per_question for m in both)
        self.passes_per_gradient = max(m.passes_per_gradient for m in both)

    @property
    def unlabelled(self) -> int:
        if self._detector is None:
            return super().unlabelled
        return self._model.unlabelled + 1

    @property
    def classifier(self) -> Model:
        """The model without its detector."""
        return self._model

    @property
    def detector(self) -> Model | None:
        """What detects, with outputs (n,) or (n, 1); None: the model by itself."""
        return self._detector and self._detector.wraps

    def scaled(self, scale: float) -> "Abstaining":
        """The same decisions, with the detector's score times so much."""
        return Abstaining(self._model, self.detector, scale=scale)

    def logits(self, x: Batch) -> Tensor:
        logits = self._model.logits(x)
        if self._detector is None:
            return logits
        return self._with_refusal(logits, self._detector.logits(x))

    def linearise(self, x: Batch) -> tuple[Tensor, PullBack]:
        logits, back = self._model.linearise(x)
        if self._detector is None:
            return logits, back
        score, back_from_score = self._detector.linearise(x)
        highest = one_hot(logits.argmax(axis=1), logits.shape[1]).astype(logits.dtype)

        def pull_back(slopes: Tensor) -> Batch:
            refusal = slopes[:, -1:]
            inner = back(slopes[:, :-1] + refusal * highest)
            return inner + back_from_score((refusal * self._scale).reshape(score.shape))

        return self._with_refusal(logits, score), pull_back

    def at_layer(self, layer: str) -> Model:
        return self._model.at_layer(layer)

    def _around(self, model: Model, *others: Model) -> Model:
        return Abstaining(model, *others, scale=self._scale)

    def _settings(self) -> str:
        return f"scale {self._scale}"

    def _with_refusal(self, logits: Tensor, score: Tensor) -> Tensor:
        count = logits.shape[0]
        if score.shape not in ((count,), (count, 1)):
            raise BadInput(
                f"the detector must return one score per input; for {count} inputs it "
                f"returned the shape {tuple(score.shape)}"
            )
        score = score.reshape((count, 1))
        highest = logits.max(axis=1, keepdims=True)
        refusal = highest + self._scale * score
        # Where the score drowns in the logit, and at zero, its sign decides still.
        above = maximum(refusal, -just_below(-highest))
        below = minimum(refusal, just_below(highest))
        return stack_columns([logits, where(score > 0, above, below)])


class _Column(torch.nn.Module):
    """A torch detector whose scores are a column."""

    def __init__(self, detector: torch.nn.Module) -> None:
        super().__init__()
        self.detector = detector
        self.train(detector.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = _column(self.detector(x))
        return scores


def _adapted(detector: Model | Callable[[Any], Any], model: Model) -> Model:
    if isinstance(detector, Model):
        _check_bounds(detector, model)
        return detector
    if not callable(detector):
        raise BadInput(
            "expected a detector, a model or function from inputs to scores (n,); got "
            f"{detector!r}"
        )
    if isinstance(detector, torch.nn.Module):
        return TorchModel(_Column(detector), model.bounds, name=f"{model.name}'s")
    if _torch(model):
        return TorchModel(lambda x: _column(detector(x)), model.bounds)
    return NumPyModel(lambda x: _column(np.asarray(detector(x))), model.bounds)


def _check_bounds(detector: Model, model: Model) -> None:
    """Other units, such as levels to 255, would detect all inputs or none."""
    takes, gets = detector.bounds, model.bounds
    rounding = _ROUNDING * gets.width
    if takes.lower > gets.lower + rounding or takes.upper < gets.upper - rounding:
        raise BadInput(
            f"the detector takes inputs from {takes.lower} to {takes.upper}, but the "
            f"model's go from {gets.lower} to {gets.upper}; give it the model's bounds "
            "(and scale inside of it)"
        )


def _torch(model: Model) -> bool:
    inner: Model | None = model
    while inner is not None and not isinstance(inner, TorchModel):
        inner = inner.wraps
    return inner is not None


def _column(scores: Any) -> Any:
    return scores[:, None] if getattr(scores, "ndim", None) == 1 else scores
