"""How near attacks come to exactly known distances: `python tests/benchmarks/exact.py`.

One line per network and norm; found distances are divided by the exact ones (for l0 the
exact ones are subtracted).
"""

import argparse
import time

import numpy as np
import torch
from speed import load_data

from robustkit.attacks.gradient.fmn import FMN
from robustkit.combine import minimum_norm_pgd
from robustkit.engine.criteria import Misclassification
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.models.torch import TorchModel
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor


def main() -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passes", type=int, default=1000)
    passes = parser.parse_args().passes
    torch.set_num_threads(1)
    data = load_data()
    print(
        "attack  norm  network     n  found  median    90 %    most    least - 1   time"
    )
    for attack in (FMN(), minimum_norm_pgd()):
        for norm in ("linf", "l2", "l1", "l0"):
            for net in ("linear", "toy20", "mlp14_std"):
                if norm not in attack.norms or (norm == "l0" and net != "linear"):
                    continue
                known = data.exact(net, norm)
                model = TorchModel(data.exact_model(net).double())
                x = as_tensor(torch.tensor(known["x"].astype(np.float64)))
                labels = as_tensor(torch.tensor(known["y"]).long())
                start = time.perf_counter()
                problem = Problem(model, x, Misclassification(labels), get_norm(norm))
                distance = run(attack.within(passes), problem).distance.numpy()
                seconds = time.perf_counter() - start
                exact = known["distance"]
                excess = distance - exact if norm == "l0" else distance / exact
                print(
                    f"{type(attack).__name__:8}{norm:5} {net:9}{len(x):4}"
                    f"{np.isfinite(distance).mean():7.2f}{np.median(excess):8.4f}"
                    f"{np.quantile(excess, 0.9):8.4f}{excess.max():8.4f}"
                    f"{excess.min() - 1:13.1e}{seconds:6.1f}s",
                    flush=True,
                )


if __name__ == "__main__":
    main()
