"""Problems of the verification competitions: `python tests/benchmarks/vnncomp.py`.

For each attack and category: how many of the problems that have a witnessed adversarial
within their distance fall, how many that are proven to have none (always 0, or there is
a bug), and which resist. A problem has fallen where onnxruntime confirms a point within
its box, in the units of the network.
"""

import argparse
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from speed import load_data

import robustkit as rk
from robustkit.engine.attack import Attack
from robustkit.engine.criteria import Criterion
from robustkit.evaluation.verify import confirm
from robustkit.models.base import Access
from robustkit.models.onnx import OnnxModel
from robustkit.models.wrappers import Preprocessed
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import Array, take, to_numpy
from robustkit.registry import choose_attacks

CATEGORIES = (
    "cifar10_resnet",
    "eran_mnist",
    "marabou_cifar10",
    "mnistfc",
    "oval21",
    "sri_resnet_a",
    "traffic_bnn_30",
    "verivital_mnist",
)


def main() -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--attacks", nargs="+", default=["fmn", "pgd"])
    parser.add_argument("--categories", nargs="+", default=list(CATEGORIES))
    parser.add_argument("--passes", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--straight-through", action="store_true")
    parser.add_argument("--missed", help="file for the problems that resist")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = load_data()
    print("attack        category           sat fallen  unsat fallen     time  resist")
    lines = []
    for name in options.attacks:
        attack = _attack(name, options.passes)
        total = np.zeros(4, dtype=int)
        for category in options.categories:
            problems, folder = data.vnncomp(category)
            start = time.perf_counter()
            networks = {
                file: OnnxModel(
                    folder / file, straight_through=options.straight_through
                )
                for file in map(str, np.unique(problems["model"]))
            }
            fallen, reason = solve(attack, problems, networks, category, options.seed)
            seconds = time.perf_counter() - start
            if reason:
                print(f"{name:14}{category:17}  {reason}", flush=True)
                continue
            sat = (problems["verdict"] == "sat") & problems["witnessed"]
            unsat = problems["verdict"] == "unsat"
            counts = [(sat & fallen).sum(), sat.sum()]
            counts += [(unsat & fallen).sum(), unsat.sum()]
            total += counts
            missed = np.flatnonzero(sat & ~fallen)
            lines += [f"{name} {category} {index}\n" for index in missed]
            print(
                f"{name:14}{category:17}{counts[0]:6} / {counts[1]:<5}"
                f"{counts[2]:7} / {counts[3]:<4}{seconds:7.1f}s  "
                f"{' '.join(map(str, missed))}",
                flush=True,
            )
        print(
            f"{name:14}{'all':17}{total[0]:6} / {total[1]:<5}{total[2]:7} / {total[3]}",
            flush=True,
        )
    if options.missed:
        Path(options.missed).write_text("".join(lines))


def _attack(name: str, passes: int) -> Attack[Any]:
    norm = get_norm("linf")
    return choose_attacks([name], norm, Access.GRADIENT, passes)[name]


def solve(
    attack: Attack[Any],
    problems: Any,
    networks: dict[str, OnnxModel],
    category: str,
    seed: int,
) -> tuple[Array, str]:
    """Which problems (n,) fall, and why the attack cannot be run (empty: it can)."""
    groups = defaultdict(list)
    for row, (file, target) in enumerate(
        zip(problems["model"], problems["target"], strict=True)
    ):
        groups[str(file), bool(target >= 0)].append(row)
    fallen = np.zeros(len(problems["x"]), dtype=bool)
    for (file, targeted), places in groups.items():
        rows = np.array(places)
        network = networks[file]
        if attack.access > network.access:
            return fallen, network.notes[0]
        model = Preprocessed(network, *normalisation(problems, category))
        x = problems["x"][rows].astype(np.float32)
        labels = problems["target" if targeted else "y"][rows].astype(np.int64)
        make = rk.Targeted if targeted else rk.Misclassification
        criterion: Criterion = make(network.to_tensor(labels))
        result = rk.run(attack, model, x, criterion, norm="linf", seed=seed)
        found = np.flatnonzero(result.found)
        if len(found) == 0:
            continue
        points, distance, flaws = confirm(
            model,
            take(criterion, found),
            x[found],
            result.x_adversarial[found],
            get_norm("linf"),
        )
        sound = np.array([not flaw for flaw in flaws])
        # The distance is that of rounded numbers; what counts is the box.
        near = sound & (distance <= problems["eps"][rows[found]] * (1 + 1e-5))
        inside = witnesses(network, problems, category, rows[found], points)
        margin = to_numpy(take(criterion, found).margin(network.logits(inside)))
        fallen[rows[found]] = near & (margin < 0)
    return fallen, ""


def normalisation(problems: Any, category: str) -> tuple[list[float], list[float]]:
    """The mean and the standard deviation of each channel of a category."""
    if category.startswith("traffic"):
        return [0.0], [1 / 255]
    return list(np.atleast_1d(problems["mean"])), list(np.atleast_1d(problems["std"]))


def witnesses(
    network: OnnxModel, problems: Any, category: str, rows: Array, points: Array
) -> Any:
    """The points in the units of the network, clipped to the problems' own boxes."""
    mean, std = normalisation(problems, category)
    shape = [1] * points.ndim
    shape[1] = len(mean)
    # In single precision, as the attacked model does it: another rounding can undo an
    # adversarial of a network with steps.
    means, stds = (np.reshape(v, shape).astype(np.float32) for v in (mean, std))
    shown = (points - means) / stds
    boxes = (problems[k][rows].reshape(shown.shape) for k in ("lower", "upper"))
    return network.to_tensor(shown.clip(*boxes).astype(np.float32))


if __name__ == "__main__":
    main()
