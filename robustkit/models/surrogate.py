"""Answers of one model, gradients or features of another."""

from robustkit.errors import BadInput
from robustkit.models.base import Access, Model, PullBack, Wrapper
from robustkit.models.foreign import Foreign
from robustkit.numerics.tensors import Batch, Tensor, stack_columns

__all__ = ["Surrogate", "WithFeatures"]


class Surrogate(Wrapper):
    """A model whose gradients are those of another, differentiable one.

    Every answer, and so what is adversarial, is the model's own; the surrogate, such as
    a network trained on the model's answers, or the model without its defense, only
    shows the way. So an attack is one of the whole defense, end to end.

    A gradient is billed as a backward pass of the model; the surrogate's forward pass
    is the attacker's own and not billed.

    Args:
        model: To be attacked.
        surrogate: Of the same inputs and classes, with gradients; in any framework,
            on any device.

    Raises:
        BadInput: The surrogate has no gradients.

    >>> import numpy as np
    >>> from robustkit.models.numpy import NumPyModel
    >>> from robustkit.numerics.tensors import as_tensor
    >>> steps = NumPyModel(np.round)
    >>> smooth = NumPyModel(lambda x: x, gradient=lambda x, slopes: slopes)
    >>> logits, pull_back = Surrogate(steps, smooth).linearise(as_tensor(np.eye(2) / 3))
    >>> logits.raw.tolist(), pull_back(as_tensor(np.eye(2))).raw.tolist()
    ([[0.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]])
    """

    def __init__(self, model: Model, surrogate: Model) -> None:
        super().__init__(model, surrogate)
        if surrogate.access < Access.GRADIENT:
            raise BadInput(
                f"the surrogate '{surrogate.name}' has no gradients to lend; Estimated "
                "makes some from scores"
            )
        self._surrogate = Foreign(surrogate)
        self.access, self.passes_per_gradient = Access.GRADIENT, 0
        self.notes = (
            *model.notes,
            f"gradients of '{model.name}' are those of '{surrogate.name}'",
        )

    def logits(self, x: Batch) -> Tensor:
        return self._model.logits(x)

    def linearise(self, x: Batch) -> tuple[Tensor, PullBack]:
        logits = self._model.logits(x)
        others, back = self._surrogate.linearise(x)
        if others.shape != logits.shape:
            raise BadInput(
                f"the surrogate answers with the shape {others.shape}, the model with "
                f"{logits.shape}; both must have the same classes"
            )
        return logits, back

    def _around(self, model: Model, *others: Model) -> Model:
        return Surrogate(model, *others)


class WithFeatures(Wrapper):
    """A model whose outputs have those of a layer behind them, for `Matching`.

    Args:
        model: Of outputs (n, classes).
        layer: A name that `Model.at_layer` knows. Each question takes two passes, one
            for each.

    >>> import torch
    >>> from robustkit.models.torch import TorchModel
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Linear(5, 3)).eval()
    >>> model = WithFeatures(TorchModel(net), "0")
    >>> tuple(model.logits(model.to_tensor(torch.zeros(2, 4).numpy())).shape)
    (2, 8)
    """

    def __init__(self, model: Model, layer: str) -> None:
        super().__init__(model)
        self._features, self._layer = model.at_layer(layer), layer
        self.asked = (model, self._features)
        self.passes_per_question = 2 * model.passes_per_question
        self.passes_per_gradient = 2 * model.passes_per_gradient

    def logits(self, x: Batch) -> Tensor:
        return stack_columns([self._model.logits(x), self._features.logits(x)])

    def linearise(self, x: Batch) -> tuple[Tensor, PullBack]:
        logits, back = self._model.linearise(x)
        features, back_from_features = self._features.linearise(x)
        classes = logits.shape[1]

        def pull_back(slopes: Tensor) -> Batch:
            return back(slopes[:, :classes]) + back_from_features(slopes[:, classes:])

        return stack_columns([logits, features]), pull_back

    def _around(self, model: Model, *others: Model) -> Model:
        return WithFeatures(model, self._layer)
