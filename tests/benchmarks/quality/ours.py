"""Our attacks, chosen by name and run at an exact number of passes."""

import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from cells import verify
from data import EXACT, least_likely, loader, network
from torch import Tensor, nn

from robustkit.engine.criteria import Criterion, Misclassification, Targeted
from robustkit.engine.ledger import Ledger
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.models.base import Access
from robustkit.models.torch import TorchModel
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor
from robustkit.registry import choose_attacks, get_attack


@dataclass(frozen=True)
class Ours:
    """What one of our attacks found on one network.

    Attributes:
        distance: (n,) float64, verified; infinite where nothing was found.
        overhead: Its time over that of as many bare passes.
    """

    distance: np.ndarray
    overhead: float


def minimises(name: str, norm: str) -> bool:
    """Whether the attack of that name can minimise the norm."""
    return name == "auto" or norm in get_attack(name).norms


def run_ours(
    data: Path,
    name: str,
    net: str,
    norm: str,
    passes: int,
    n: int,
    *,
    targeted: bool = False,
) -> Ours:
    """Run the attack `name` on the first `n` images of a network, with one thread."""
    torch.set_num_threads(1)
    model, x, y = network(data, net, n)
    if targeted:
        y = least_likely(data, net, n)
    aim = Targeted if targeted else Misclassification
    _warm_up(name, norm)
    before = _bare(model, x)
    start = time.process_time()
    ledger = _attack(name, model, x, aim(as_tensor(y)), norm, passes)
    seconds = time.process_time() - start
    # What else the machine does changes; the bare passes are timed on both sides.
    bare = (before + _bare(model, x)) / 2
    taken = float(np.maximum(ledger.forwards, ledger.backwards).mean())
    found = verify(model, x, y, ledger.best.raw, norm, targeted=targeted)
    return Ours(found, seconds / (taken * bare))


def over_exact(data: Path, name: str, net: str, norm: str, passes: int) -> np.ndarray:
    """(n,) distances found over the exact minimum ones, in double precision."""
    known = loader(data).exact(net, norm)
    model = loader(data).exact_model(net).double().requires_grad_(False)
    x, y = torch.tensor(known["x"]).double(), torch.tensor(known["y"]).long()
    ledger = _attack(name, model, x, Misclassification(as_tensor(y)), norm, passes)
    return verify(model, x, y, ledger.best.raw, norm) / known["distance"]


def has_exact(data: Path, norm: str) -> list[str]:
    """The networks whose exact distances are known in this norm."""
    return [net for net in EXACT if (data / "exact" / f"{net}_{norm}.npz").exists()]


@cache
def _warm_up(name: str, norm: str) -> None:
    """Whatever is loaded or built at first use is not to be timed."""
    x = torch.tensor([[0.8, 0.4], [0.3, 0.6]])
    labels = Misclassification(as_tensor(torch.tensor([0, 1])))
    _attack(name, nn.Identity().eval(), x, labels, norm, 30)


def _attack(
    name: str,
    model: nn.Module,
    x: Tensor,
    criterion: Criterion,
    norm: str,
    passes: int,
) -> Ledger:
    problem = Problem(TorchModel(model), as_tensor(x), criterion, get_norm(norm))
    chosen = choose_attacks([name], problem.norm, Access.GRADIENT, passes)
    return run(chosen[name], problem, budget=passes)


def _bare(model: nn.Module, x: Tensor, passes: int = 20) -> float:
    """Seconds of one forward and backward pass and nothing else."""
    start = time.process_time()
    for _ in range(passes):
        point = x.detach().requires_grad_()
        torch.autograd.grad(model(point)[:, 0].sum(), point)
    return (time.process_time() - start) / passes
