"""What recording traces costs: python tests/benchmarks/traces.py

Attacks with and without a recorder, one round after the other, so that whatever else
the machine does slows both. Time is that of the processor on one thread. Shown are the
quickest rounds, and the median over rounds of the ratio. Nothing may be above 3 %.
"""

import argparse
import statistics
import time

import torch
from speed import batch, load_data

from robustkit.attacks.decision.compass import Compass
from robustkit.attacks.gradient.fmn import FMN
from robustkit.attacks.gradient.pgd import PGD
from robustkit.engine.criteria import Misclassification
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.engine.trace import Recorder
from robustkit.models.torch import TorchModel
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor
from robustkit.presets import auto

ATTACKS = {
    "fmn linf": (FMN(steps=100), "linf"),
    "fmn l2": (FMN(steps=100), "l2"),
    "pgd linf": (PGD(epsilon=0.1, steps=100, stop=False), "linf"),
    "auto linf": (auto("linf", 200), "linf"),
    "compass l2": (Compass().within(300), "l2"),
}


def seconds(model, x, y, attack, norm, recorded):
    """Of the processor, for one run."""
    goal = Misclassification(as_tensor(y))
    problem = Problem(model, as_tensor(x), goal, get_norm(norm))
    observers = [Recorder(len(x))] if recorded else []
    start = time.process_time()
    run(attack, problem, observers=observers)
    return time.process_time() - start


def main() -> None:
    """Print a row per network and attack."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--model", default="mnist_cnn_a_adv")
    options.add_argument("--size", type=int, default=64)
    chosen = options.parse_args()
    torch.set_num_threads(1)
    module = load_data().torch_model(chosen.model)
    name = "mnist" if chosen.model.startswith("mnist") else "cifar10"
    x, y = batch(name, module, chosen.size)
    model = TorchModel(module)
    print(f"{chosen.model}, {chosen.size} images, {chosen.rounds} rounds")
    for label, (attack, norm) in ATTACKS.items():
        rounds = []
        for turn in range(chosen.rounds):
            # Whoever is first has the caches of the other.
            order = (False, True) if turn % 2 else (True, False)
            took = {r: seconds(model, x, y, attack, norm, r) for r in order}
            rounds.append((took[False], took[True]))
        without, with_ = (min(column) for column in zip(*rounds, strict=True))
        ratio = statistics.median(b / a for a, b in rounds)
        quickest, middle = 100 * (with_ / without - 1), 100 * (ratio - 1)
        print(
            f"{label:12} {without:7.3f} s without, {with_:7.3f} s with: "
            f"{quickest:+5.1f} %, median {middle:+5.1f} %",
            flush=True,
        )


if __name__ == "__main__":
    main()
