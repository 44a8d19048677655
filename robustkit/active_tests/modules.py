"""Any model as a torch module, for attacks that take nothing else."""

from typing import Any

import torch

from robustkit.models.base import Access, Model
from robustkit.numerics.tensors import as_tensor, to_numpy

__all__ = ["ModelModule"]


class ModelModule(torch.nn.Module):
    """A model of any framework behind torch's interface, gradients included.

    Batches travel through the host's memory. The gradient is the model's own, for the
    input only, once per forward pass or more often; it cannot be differentiated again.

    Args:
        model: To be asked.

    >>> import numpy as np
    >>> from robustkit.models.numpy import NumPyModel
    >>> w = np.array([[1.0, 2.0], [3.0, 4.0]])
    >>> module = ModelModule(NumPyModel(lambda x: x @ w, gradient=lambda x, s: s @ w.T))
    >>> x = torch.zeros(1, 2, requires_grad=True)
    >>> module(x)[0, 1].backward()
    >>> x.grad
    tensor([[2., 4.]])
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        # There is nothing to train, and attacks warn of training mode.
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, ...) to logits (n, classes)."""
        if self.model.access < Access.GRADIENT or not torch.is_grad_enabled():
            point = self.model.to_tensor(x.detach().cpu().numpy())
            return _like(x, self.model.logits(point))
        logits: torch.Tensor = _Linearised.apply(x, self.model)  # type: ignore[no-untyped-call]
        return logits


class _Linearised(torch.autograd.Function):
    """One forward pass of a model, and its way back."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, model: Model) -> torch.Tensor:
        logits, ctx.pull_back = model.linearise(
            model.to_tensor(x.detach().cpu().numpy())
        )
        ctx.model = model
        return _like(x, logits)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slopes: torch.Tensor) -> tuple[torch.Tensor, None]:
        given = ctx.model.to_tensor(slopes.cpu().numpy())
        return _like(slopes, ctx.pull_back(given)), None


def _like(reference: torch.Tensor, values: Any) -> torch.Tensor:
    # A copy: what a caller writes into it is its own affair.
    host = to_numpy(as_tensor(values)).copy()
    return torch.from_numpy(host).to(reference.device, reference.dtype)
