"""For attacks from elsewhere, which ask a model as if it were a module of torch."""

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["OtherRows", "answered"]


class OtherRows(Exception):
    """An attack asks about a number of points that is not the number of samples."""


def answered(
    x: torch.Tensor,
    ask: Callable[
        [torch.Tensor], tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]
    ],
) -> torch.Tensor:
    """The answer about a batch; torch differentiates it by the way back beside it.

    Args:
        x: (n, ...) what is asked about.
        ask: From that to an answer (n, k), and to what takes slopes (n, k) of it back
            to gradients (n, ...).

    >>> x = torch.tensor([[2.0]], requires_grad=True)
    >>> answer = answered(x, lambda x: (x**2, lambda slopes: 7 * slopes))
    >>> torch.autograd.grad(answer.sum(), x)
    (tensor([[7.]]),)
    """
    answer: torch.Tensor = _Question.apply(x, ask)  # type: ignore[no-untyped-call]
    return answer


class _Question(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, ask: Callable[..., Any]) -> torch.Tensor:
        answer: torch.Tensor
        answer, ctx.pull_back = ask(x)
        return answer

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.pull_back(slopes[0]), None
