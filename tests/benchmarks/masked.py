"""What `auto` finds where gradients lie: `python tests/benchmarks/masked.py`.

The gradients of trained networks are replaced: by zeros, by their negative, by noise as
long as they are, or by those of an input rounded to 16 levels, which vanish; the
answers stay as they are (but for the rounding). Printed is the median distance over
that of `auto` with the true gradients and as many passes, and in brackets the share
found. Beside `auto` stand FMN and, since that is what helps against lies, the attack
that `auto` takes where only decisions are shown, with as many queries.
"""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from speed import batch, load_data

import robustkit as rk
from robustkit.models.base import Access
from robustkit.models.torch import TorchModel
from robustkit.presets import auto


class _Lie(torch.autograd.Function):
    """Passes its input on; changes the gradient that comes back."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, change: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        ctx.change = change
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.change(slopes[0]), None


class Masked(torch.nn.Module):
    """A network whose gradients to the input are changed.

    Args:
        network: It.
        change: What becomes of the gradient.
    """

    def __init__(
        self, network: torch.nn.Module, change: Callable[[torch.Tensor], torch.Tensor]
    ) -> None:
        super().__init__()
        self.network, self.change = network, change
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The network's logits."""
        logits: torch.Tensor = self.network(_Lie.apply(x, self.change))
        return logits


class Rounded(torch.nn.Module):
    """A network that sees its input rounded to 16 levels.

    Args:
        network: It.
    """

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The network's logits."""
        logits: torch.Tensor = self.network(torch.round(x * 15) / 15)
        return logits


def _noise(slopes: torch.Tensor) -> torch.Tensor:
    drawn = torch.empty_like(slopes).normal_(generator=_DRAWN)
    sizes = slopes.flatten(1).norm(dim=1) / drawn.flatten(1).norm(dim=1)
    return drawn * sizes.reshape(-1, *[1] * (slopes.ndim - 1))


_DRAWN = torch.Generator().manual_seed(0)
LIES: dict[str, Callable[[torch.nn.Module], torch.nn.Module]] = {
    "zeros": lambda network: Masked(network, torch.zeros_like),
    "negative": lambda network: Masked(network, torch.neg),
    "noise": lambda network: Masked(network, _noise),
    "rounded": Rounded,
}


def main() -> None:
    """Read the options and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--models", nargs="+", default=["mnist_cnn_a_adv", "cifar_cnn_a_adv"]
    )
    parser.add_argument("--norms", nargs="+", default=["linf", "l2"])
    parser.add_argument("--passes", nargs="+", type=int, default=[300, 1000])
    parser.add_argument("--images", type=int, default=16)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"{'network':18} norm passes gradient  {'auto':>14}{'fmn':>14}{'decisions':>14}"
    )
    for name in options.models:
        network = load_data().torch_model(name)
        dataset = "cifar10" if "cifar" in name else "mnist"
        x, y = batch(dataset, network, options.images)
        for norm in options.norms:
            for passes in options.passes:
                gradients = auto(norm, passes)
                true = _distances(gradients, network, x, y, norm, passes)
                for lie, build in LIES.items():
                    attacks = (
                        gradients,
                        rk.FMN(steps=passes),
                        auto(norm, passes, Access.DECISION),
                    )
                    words = [
                        _words(_distances(a, build(network), x, y, norm, passes), true)
                        for a in attacks
                    ]
                    row = "".join(f"{word:>14}" for word in words)
                    print(f"{name:18} {norm:4} {passes:6} {lie:9} {row}", flush=True)


def _distances(
    attack: Any,
    network: torch.nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    norm: str,
    passes: int,
) -> np.ndarray:
    _DRAWN.manual_seed(0)
    result = rk.run(attack, TorchModel(network), x, y, norm=norm, budget=passes)
    return np.asarray(result.distance)


def _words(found: np.ndarray, true: np.ndarray) -> str:
    return f"{np.median(found / true):.2f} ({np.isfinite(found).mean():.0%})"


if __name__ == "__main__":
    main()
