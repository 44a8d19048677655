"""What `auto` finds where gradients lie: `python tests/benchmarks/masked.py`.

The gradients of trained networks are hidden behind masks (`robustkit.active_tests`):
zeros, their negative, or noise as long as they are; the answers stay as they are. Or
the input is rounded to 16 levels, by which gradients vanish and answers change a
little. Printed is the median distance over that of `auto` with the true gradients of
the plain network and as many passes, and in brackets the share found. Beside `auto`
stand FMN and, since that is what helps against lies, the attack that `auto` takes where
only decisions are shown, with as many queries.
"""

import argparse
from typing import Any

import numpy as np
import torch
from speed import batch, load_data

import robustkit as rk
from robustkit.active_tests.masks import MASKS
from robustkit.models.base import Access, Model
from robustkit.models.torch import TorchModel
from robustkit.presets import auto

LIES = ("zero-gradient", "reversed-gradient", "noisy-gradient")


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
    print(f"{'network':18} norm passes {'gradients':18}{'auto':>14}{'fmn':>14}")
    for name in options.models:
        network = load_data().torch_model(name)
        dataset = "cifar10" if "cifar" in name else "mnist"
        data = batch(dataset, network, options.images)
        for norm in options.norms:
            for passes in options.passes:
                _compare(name, network, data, norm, passes)


def _compare(name: str, network: torch.nn.Module, data: Any, norm: str, n: int) -> None:
    """Print a row for each lie, and one for decisions, which no lie changes."""
    plain, rounded = TorchModel(network), TorchModel(Rounded(network))
    hidden = {lie: MASKS[lie](plain) for lie in LIES} | {"rounded": rounded}
    gradients, decisions = auto(norm, n), auto(norm, n, Access.DECISION)
    true = _distances(gradients, plain, data, norm, n)

    def row(label: str, model: Model, *attacks: Any) -> None:
        ratios = [_distances(a, model, data, norm, n) / true for a in attacks]
        words = [f"{np.median(r):.2f} ({np.isfinite(r).mean():.0%})" for r in ratios]
        print(f"{name:18} {norm:4} {n:6} {label:18}", *(f"{w:>13}" for w in words))

    for lie, model in hidden.items():
        row(lie, model, gradients, rk.FMN(steps=n))
    row("decisions", plain, decisions)
    row("decisions, rounded", rounded, decisions)


def _distances(attack: Any, model: Model, data: Any, norm: str, n: int) -> np.ndarray:
    return np.asarray(rk.run(attack, model, *data, norm=norm, budget=n).distance)


if __name__ == "__main__":
    main()
