"""What attacks cost beside the passes they make: `python tests/benchmarks/speed.py`.

Each attack is timed beside the bare forward and backward passes of the same number and
batch (parameters frozen), one round after the other, so that whatever else the machine
does slows both. The table shows the median over the rounds of each ratio.
"""

import argparse
import importlib.util
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from robustkit.attacks.gradient.fmn import FMN
from robustkit.attacks.gradient.pgd import PGD
from robustkit.engine.criteria import Misclassification
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.models.torch import TorchModel
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def load_data() -> Any:
    """The loader of the shared data, a module."""
    if not (DATA / "load.py").exists():
        sys.exit(f"needs the trained networks in {DATA}, which is not there")
    spec = importlib.util.spec_from_file_location("load", DATA / "load.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def batch(
    dataset: str, module: torch.nn.Module, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Correctly classified images and labels, repeated if there are too few.

    Misclassified ones would leave the batch of our attacks and make them look faster.
    """
    x, y = (torch.tensor(values) for values in load_data().images(dataset))
    right = torch.nonzero(module(x).argmax(dim=1) == y).flatten()
    rows = right[torch.arange(size) % len(right)]
    return x[rows], y[rows]


def bare(
    module: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, passes: int
) -> None:
    """Forward and backward passes to the input, and nothing else."""
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    rows = torch.arange(len(x))
    for _ in range(passes):
        point = x.detach().requires_grad_()
        logits = module(point)
        torch.autograd.grad(logits[rows, y].sum(), point)


def attack(
    chosen: FMN | PGD,
    norm: str,
    module: torch.nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
) -> None:
    """One run of an attack of this package."""
    problem = Problem(
        TorchModel(module),
        as_tensor(x),
        Misclassification(as_tensor(y)),
        get_norm(norm),
    )
    run(chosen, problem)


def foolbox_fmn(
    module: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, passes: int
) -> None:
    """The same attack of foolbox."""
    import foolbox

    model = foolbox.PyTorchModel(module, bounds=(0, 1), device="cpu")
    foolbox.attacks.LInfFMNAttack(steps=passes).run(model, x, y)


def tasks(
    module: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, passes: int
) -> dict[str, Callable[[], None]]:
    """What is timed, the bare passes first."""

    def ours(chosen: FMN | PGD, norm: str) -> Callable[[], None]:
        return lambda: attack(chosen, norm, module, x, y)

    fmn = FMN(steps=passes)
    # Without stopping, so that every step is of the whole batch; one step fewer,
    # because its last question is asked after the last step.
    pgd = PGD(epsilon=8 / 255, steps=passes - 1, stop=False)
    work = {"bare passes": lambda: bare(module, x, y, passes)}
    work |= {f"FMN {norm}": ours(fmn, norm) for norm in ("linf", "l2", "l1", "l0")}
    work |= {f"PGD {norm}": ours(pgd, norm) for norm in ("linf", "l2", "l1")}
    if importlib.util.find_spec("foolbox"):
        work["foolbox FMN"] = lambda: foolbox_fmn(module, x, y, passes)
    return work


def speed(name: str, passes: int, rounds: int, sizes: list[int]) -> None:
    """Print the table of ratios."""
    module = load_data().torch_model(name)
    dataset = "cifar10" if "cifar" in name else "mnist"
    print(f"{name}, {passes} passes, median of {rounds} rounds, 1 thread")
    print(f"{'batch':>5}  {'':14} {'ms per pass':>11} {'to the bare passes':>19}")
    for size in sizes:
        x, y = batch(dataset, module, size)
        count = passes if size > 1 else 10 * passes
        work = tasks(module, x, y, count)
        seconds: dict[str, list[float]] = {label: [] for label in work}
        for _ in range(rounds + 1):
            for label, task in work.items():
                start = time.perf_counter()
                task()
                seconds[label].append(time.perf_counter() - start)
        base = seconds["bare passes"]
        for label, values in seconds.items():
            # The first round is for warming up.
            pairs = list(zip(values, base, strict=True))[1:]
            ratio = statistics.median(v / b for v, b in pairs)
            each = 1000 * statistics.median(values[1:]) / count
            print(f"{size:5d}  {label:14} {each:11.3f} {ratio:19.3f}", flush=True)


def memory(name: str) -> None:
    """Print the peak memory after batch upon batch: it must stay where it is.

    What may grow within one run is the record of improvements, some bytes for each.
    """
    module = load_data().torch_model(name)
    x, y = batch("cifar10" if "cifar" in name else "mnist", module, 32)
    print("batch  steps  peak memory in MB (the first one also loads code)")
    for number, steps in enumerate((100, 100, 100, 100, 100, 100, 500)):
        attack(FMN(steps=steps), "linf", module, x, y)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{number:5d}  {steps:5d}  {peak:10.1f}")


def main() -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model", default="cifar_cnn_a_adv", help="name in models.json"
    )
    parser.add_argument(
        "--passes", type=int, default=20, help="10 times more at batch 1"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[128, 1])
    parser.add_argument("--memory", action="store_true", help="peak memory instead")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory:
        memory(options.model)
    else:
        speed(options.model, options.passes, options.rounds, options.batch_sizes)


if __name__ == "__main__":
    main()
