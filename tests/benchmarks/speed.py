"""What attacks cost beside the passes they make: `python tests/benchmarks/speed.py`.

Each attack, and its likes of other packages where those are installed, is timed beside
the bare forward and backward passes of the same number and batch (parameters frozen),
one round after the other, so that whatever else the machine does slows all. Time is
that of the processor, on one thread, since waiting for others is nobody's cost. Two
ratios are shown per pass: the median over the rounds, and the quickest round over the
quickest of the bare passes. An attack that makes more than one forward and one backward
pass per step pays for it here. "compiled" is with the attack's arithmetic compiled; the
first round is left out, and what it took longer than the others is printed beside it.

`--device cuda`: on a GPU; then time is what passes until it has done everything.

`--parts`: what the time of our attacks by gradients goes into, in shares of all the
processor's time, by Python's profiler, which makes what consists of many small calls
look larger than it is.

`--decisions`: what attacks by decisions spend outside the network, as a share of all
the processor's time, and what the network takes for a query. The quickest round counts.
Beside them the least that probes can cost: signs from random bits, added to a point,
clipped, shown in batches of 256, and summed up by their answers, by nothing but torch
and NumPy; and the same with a cosine transform of all signs.
"""

import argparse
import cProfile
import functools
import importlib.util
import itertools
import math
import resource
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import efficientnet
import numpy as np
import torch
from scipy import fft

from robustkit.attacks.gradient.apgd import APGD
from robustkit.attacks.gradient.ddn import DDN
from robustkit.attacks.gradient.fmn import FMN
from robustkit.attacks.gradient.pgd import PGD
from robustkit.attacks.gradient.relay import Relay
from robustkit.engine.attack import Attack
from robustkit.engine.criteria import Misclassification
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.models.base import Access
from robustkit.models.torch import TorchModel
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor
from robustkit.presets import auto

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
PEERS = Path(__file__).resolve().parents[1] / "peers" / "conftest.py"


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
    if dataset == "imagenet":
        _, x, y = efficientnet.load()
    else:
        x, y = (torch.tensor(values) for values in load_data().images(dataset))
    device = next(module.parameters()).device
    x, y = x.to(device), y.to(device)
    with torch.no_grad():
        guesses = module(x).argmax(dim=1)
    # Nothing is right about a network of random weights.
    y = guesses if isinstance(module, Residual) else y
    right = torch.nonzero(guesses == y).flatten()
    rows = right[torch.arange(size, device=device) % len(right)]
    return x[rows], y[rows]


def bare(
    module: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, passes: int
) -> None:
    """Forward and backward passes to the input, and nothing else."""
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    rows = torch.arange(len(x), device=x.device)
    for _ in range(passes):
        point = x.detach().requires_grad_()
        logits = module(point)
        torch.autograd.grad(logits[rows, y].sum(), point)


class Residual(torch.nn.Module):
    """A mid-size network of random weights for inputs (n, 3, 32, 32)."""

    def __init__(self) -> None:
        super().__init__()

        def convolution(inputs: int, outputs: int, stride: int) -> torch.nn.Module:
            return torch.nn.Sequential(
                torch.nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
                torch.nn.BatchNorm2d(outputs),
                torch.nn.ReLU(),
            )

        widths = (32, 64, 128)
        self.first = convolution(3, widths[0], 1)
        self.down = torch.nn.ModuleList(
            convolution(a, b, 2) for a, b in itertools.pairwise(widths)
        )
        self.beside = torch.nn.ModuleList(convolution(w, w, 1) for w in widths[1:])
        self.last = torch.nn.Linear(widths[-1], 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 3, 32, 32) to (n, 10)."""
        x = self.first(x)
        for down, beside in zip(self.down, self.beside, strict=True):
            x = down(x)
            x = x + beside(x)
        return self.last(x.mean(dim=(2, 3)))


def network(name: str) -> tuple[torch.nn.Module, str]:
    """A network of models.json, "residual" or "efficientnet"; and its data set."""
    if name == "residual":
        return Residual().eval(), "cifar10"
    if name == "efficientnet":
        return efficientnet.load()[0], "imagenet"
    return load_data().torch_model(name), "cifar10" if "cifar" in name else "mnist"


def ours(
    chosen: Attack[Any],
    norm: str,
    module: torch.nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    budget: int | None = None,
    compiled: bool = False,
) -> None:
    """One run of an attack of this package."""
    criterion = Misclassification(as_tensor(y))
    problem = Problem(TorchModel(module), as_tensor(x), criterion, get_norm(norm))
    run(chosen, problem, budget=budget, compiled=compiled)


def attacks(passes: int) -> dict[str, tuple[Attack[Any], str]]:
    """Attacks of this package of that many passes, and the norm of each.

    Without stopping, so that every step is of the whole batch; one step fewer where a
    last question is asked after the last step.
    """
    epsilon = {"linf": 8 / 255, "l2": 0.5, "l1": 10.0}
    chosen: dict[str, tuple[Attack[Any], str]] = {}
    for norm in ("linf", "l2", "l1", "l0"):
        chosen[f"FMN {norm}"] = FMN(steps=passes), norm
    for norm in ("linf", "l2", "l1", "l0"):
        chosen[f"Relay {norm}"] = Relay(steps=passes - 1), norm
    for norm, size in epsilon.items():
        chosen[f"PGD {norm}"] = PGD(size, steps=passes - 1, stop=False), norm
    chosen["DDN l2"] = DDN(steps=passes), "l2"
    chosen["APGD linf"] = APGD(8 / 255, steps=passes - 1, stop=False), "linf"
    return chosen


def peers(
    module: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, passes: int
) -> dict[str, Callable[[], object]]:
    """Those of other packages, as far as these are installed."""
    work: dict[str, Callable[[], object]] = {}
    if importlib.util.find_spec("foolbox"):
        import foolbox

        its: Any
        model = foolbox.PyTorchModel(module, bounds=(0, 1), device=x.device)
        its = foolbox.attacks
        for label, attack, size in (
            ("FMN linf", its.LInfFMNAttack(steps=passes), None),
            ("FMN l2", its.L2FMNAttack(steps=passes), None),
            ("DDN l2", its.DDNAttack(steps=passes), None),
            ("PGD linf", its.LinfPGD(steps=passes), 8 / 255),
        ):
            work[f"{label} foolbox"] = partial(attack, model, x, y, epsilons=size)
    if importlib.util.find_spec("adv_lib"):
        its = _shim().import_peer("adv_lib.attacks")
        work["FMN linf adv-lib"] = partial(
            its.fmn, module, x, y, math.inf, steps=passes
        )
        work["FMN l2 adv-lib"] = partial(its.fmn, module, x, y, 2, steps=passes)
        work["DDN l2 adv-lib"] = partial(its.ddn, module, x, y, steps=passes)
        work["APGD linf adv-lib"] = partial(
            its.apgd, module, x, y, 8 / 255, math.inf, n_iter=passes
        )
    if importlib.util.find_spec("torchattacks"):
        its = _shim().import_peer("torchattacks")
        for name in ("PGD", "APGD"):
            attack = getattr(its, name)(module, eps=8 / 255, steps=passes)
            work[f"{name} linf torchattacks"] = partial(attack, x, y)
    return work


@functools.cache
def _shim() -> Any:
    spec = importlib.util.spec_from_file_location("shim", PEERS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def seconds_of(task: Callable[[], object], device: torch.device) -> float:
    """What a task takes: the processor's time, or on a GPU that of the clock."""
    if device.type == "cpu":
        start = time.process_time()
        task()
        return time.process_time() - start
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    task()
    torch.cuda.synchronize(device)
    return time.perf_counter() - start


def speed(
    name: str,
    passes: int,
    rounds: int,
    sizes: list[int],
    only: list[str],
    device: torch.device,
) -> None:
    """Print the table of ratios."""
    module, dataset = network(name)
    module = module.to(device)
    print(f"{name} on {device.type}, {passes} passes, {rounds} rounds, 1 thread")
    print(f"batch  {'':24} ms per pass  median ratio  quickest  first round, s more")
    for size in sizes:
        x, y = batch(dataset, module, size)
        count = passes if size > 1 else 10 * passes
        work: dict[str, Callable[[], object]] = {
            "bare passes": partial(bare, module, x, y, count)
        }
        for label, (chosen, norm) in attacks(count).items():
            work[label] = partial(ours, chosen, norm, module, x, y)
            work[f"{label} compiled"] = partial(work[label], compiled=True)
        work |= peers(module, x, y, count)
        if only:
            kept = ["bare passes", *only]
            work = {k: v for k, v in work.items() if any(part in k for part in kept)}
        seconds: dict[str, list[float]] = {label: [] for label in work}
        for _ in range(rounds + 1):
            for label, task in work.items():
                seconds[label].append(seconds_of(task, device))
        # The first round is for warming up.
        base = seconds["bare passes"][1:]
        for label in sorted(work):
            values = seconds[label][1:]
            pairs = zip(values, base, strict=True)
            ratio = statistics.median(v / b for v, b in pairs)
            each = 1000 * statistics.median(values) / count
            quickest = min(values) / min(base)
            first = seconds[label][0] - statistics.median(values)
            print(
                f"{size:5d}  {label:24} {each:11.3f} {ratio:13.3f} {quickest:9.3f}"
                f"  {first:19.1f}",
                flush=True,
            )


PARTS = {
    "network": ("torch.py:linearise", "torch.py:pull_back"),
    "questions": ("problem.py:gradient", "problem.py:linearise", "problem.py:billed"),
    "descents": ("problem.py:descend", "relay.py:_descend"),
    "boundary": ("relay.py:_follow",),
    "features": ("relay.py:_exchange",),
    "starts": ("relay.py:_start", "relay.py:_seek"),
    "doubts": ("trust.py:judged", "trust.py:foretelling"),
}
"""What each part of an attack's time is spent in; questions hold the network's."""


def parts(name: str, passes: int, sizes: list[int], only: list[str]) -> None:
    """Print what the time goes into."""
    module, dataset = network(name)
    print(f"{name}, {passes} passes, 1 thread")
    print(f"batch  {'':14}" + "".join(f"{part:>10}" for part in [*PARTS, "rest"]))
    for size in sizes:
        x, y = batch(dataset, module, size)
        for label, (chosen, norm) in attacks(passes).items():
            if only and not any(part in label for part in only):
                continue
            ours(chosen, norm, module, x, y)
            profiler = cProfile.Profile(time.process_time)
            profiler.runcall(ours, chosen, norm, module, x, y)
            shares = _shares(profiler)
            print(f"{size:5d}  {label:14}" + "".join(f"{s:10.1%}" for s in shares))


def _shares(profiler: cProfile.Profile) -> list[float]:
    seconds, whole = dict.fromkeys(PARTS, 0.0), 0.0
    for entry in profiler.getstats():
        whole = max(whole, entry.totaltime)
        # What is built in has a name only.
        file = Path(getattr(entry.code, "co_filename", ""))
        place = f"{file.name}:{getattr(entry.code, 'co_name', '')}"
        for part, places in PARTS.items():
            if "robustkit" in file.parts and place in places:
                seconds[part] += entry.totaltime
    seconds["questions"] -= seconds["network"]
    known = [part / whole for part in seconds.values()]
    return [*known, 1 - sum(known)]


class Clocked(torch.nn.Module):
    """A network, and the processor's time that its answers take.

    Attributes:
        seconds: Of all answers so far.
        inputs: How many these were.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module, self.seconds, self.inputs = module, 0.0, 0
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The module's logits."""
        start = time.process_time()
        out: torch.Tensor = self.module(x)
        self.seconds += time.process_time() - start
        self.inputs += len(x)
        return out


def probes(module: torch.nn.Module, x: torch.Tensor, queries: int, dct: bool) -> None:
    """Ask the network about probes around each image, and do nothing else."""
    bits = np.random.Philox(key=0)
    bytes_to_signs = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
    table = bytes_to_signs.astype(np.float32) * 0.02 - 0.01
    shape, features = x.shape[1:], math.prod(x.shape[1:])
    matrix = torch.tensor(fft.dct(np.eye(shape[-1]), norm="ortho").astype(np.float32))
    drawn = np.empty((256 * features // 8, 8), np.float32)
    for image in x:
        for start in range(0, queries, 256):
            number = min(256, queries - start)
            words = bits.random_raw(number * features // 64).view(np.uint8)
            signs = np.take(table, words, axis=0, out=drawn[: len(words)], mode="clip")
            points = torch.from_numpy(signs).view(number, *shape)
            if dct:
                rows = torch.matmul(points.view(-1, shape[-1]), matrix)
                count = number * shape[0]
                rows = rows.view(count, *shape[1:])
                points = torch.bmm(matrix.T.expand(count, -1, -1), rows)
            points = points.view(number, *shape).add_(image).clamp_(0, 1)
            with torch.no_grad():
                logits = module(points)
            passed = (logits.argmax(dim=1) > 0).float()
            torch.matmul(passed - passed.mean(), points.view(number, -1))


def decisions(name: str, queries: int, rounds: int, sizes: list[int]) -> None:
    """Print the share of the time that attacks by decisions spend outside the model."""
    module, dataset = network(name)
    print(f"{name}, {queries} queries, {rounds} rounds, 1 thread")
    print("batch  attack        outside  us per query in the network")
    for size in sizes:
        x, y = batch(dataset, module, size)
        work: dict[str, Callable[[torch.nn.Module], None]] = {}
        for norm in ("l2", "linf"):
            attack = auto(norm, queries, Access.DECISION)
            label = f"{type(attack).__name__} {norm}"
            work[label] = partial(_asked, attack, norm, x, y, queries)
        for label, dct in {"bare signs": False, "bare cosines": True}.items():
            work[label] = partial(probes, x=x, queries=queries, dct=dct)
        taken: dict[str, list[tuple[float, float, float]]] = {k: [] for k in work}
        for _ in range(rounds):
            for label, task in work.items():
                clocked = Clocked(module)
                start = time.process_time()
                task(clocked)
                seconds = time.process_time() - start
                each = 1e6 * clocked.seconds / clocked.inputs
                taken[label].append((seconds, 1 - clocked.seconds / seconds, each))
        for label, values in taken.items():
            _, share, each = min(values)
            print(f"{size:5d}  {label:13} {share:7.1%} {each:9.1f}", flush=True)


def _asked(
    attack: Attack[Any],
    norm: str,
    x: torch.Tensor,
    y: torch.Tensor,
    queries: int,
    module: torch.nn.Module,
) -> None:
    ours(attack, norm, module, x, y, budget=queries)


def memory(name: str) -> None:
    """Print the peak memory after batch upon batch: it must stay where it is.

    What may grow within one run is the record of improvements, some bytes for each.
    """
    module, dataset = network(name)
    x, y = batch(dataset, module, 32)
    print("batch  steps  peak memory in MB (the first one also loads code)")
    for number, steps in enumerate((100, 100, 100, 100, 100, 100, 500)):
        ours(FMN(steps=steps), "linf", module, x, y)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{number:5d}  {steps:5d}  {peak:10.1f}")


def main() -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--models",
        nargs="+",
        default=["mnist_toy_2_20", "cifar_cnn_a_adv", "residual"],
        help='names in models.json, or "residual"',
    )
    parser.add_argument(
        "--passes", type=int, default=20, help="10 times more at batch 1"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[128, 16, 1])
    parser.add_argument("--only", nargs="+", default=[], help="parts of attacks' names")
    parser.add_argument("--device", default="cpu", help="torch's name of it")
    parser.add_argument("--memory", action="store_true", help="peak memory instead")
    parser.add_argument("--parts", action="store_true", help="shares of time instead")
    parser.add_argument("--decisions", action="store_true", help="by decisions instead")
    parser.add_argument("--queries", type=int, default=2000, help="with --decisions")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.models:
        if options.memory:
            memory(name)
        elif options.parts:
            parts(name, options.passes, options.batch_sizes, options.only)
        elif options.decisions:
            decisions(name, options.queries, options.rounds, options.batch_sizes)
        else:
            sizes, only = options.batch_sizes, options.only
            device = torch.device(options.device)
            speed(name, options.passes, options.rounds, sizes, only, device)


if __name__ == "__main__":
    main()
