"""How tight certificates are, and what they take: `python tests/benchmarks/certify.py`.

Small networks: the certified radius as a share of the exact smallest distance. Real
convolutional networks: certified radius as a share of the distance that `auto` finds.
Medians over samples, and processor seconds per sample on one thread.
"""

import argparse
import time

import numpy as np
import torch
from speed import load_data

import robustkit as rk
from robustkit.certify.bounds import METHODS
from robustkit.certify.distances import Certifier
from robustkit.models.torch import TorchModel

NORMS = ("linf", "l2", "l1")


def main() -> None:
    """Print a row per network and norm."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--images", type=int, default=5)
    settings = parser.parse_args()
    torch.set_num_threads(1)
    data = load_data()
    print("| Network | Norm | interval | CROWN | seconds | seconds |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for name in ("toy20", "mlp14_std"):
        for norm in NORMS:
            exact = data.exact(name, norm)
            x, y, upper = (exact[k][: settings.samples] for k in ("x", "y", "distance"))
            _row(name, norm, TorchModel(data.exact_model(name)), x, y, upper)
    for name in ("cifar_small_8px_kw", "mnist_small_kw_0.3", "cifar_cnn_a_adv"):
        x, y = data.images(name.split("_")[0].replace("cifar", "cifar10"))
        model = TorchModel(data.torch_model(name))
        for norm in NORMS[: 1 if name == "cifar_cnn_a_adv" else 3]:
            x, y = x[: 4 * settings.images], y[: 4 * settings.images]
            found = rk.run("auto", model, x, y, norm=norm).distance
            rows = np.flatnonzero(found > 0)[: settings.images]
            _row(name, norm, model, x[rows], y[rows], found[rows])


def _row(
    name: str,
    norm: str,
    model: TorchModel,
    x: np.ndarray,
    y: np.ndarray,
    upper: np.ndarray,
) -> None:
    shares, seconds = [], []
    for method in METHODS:
        certifier = Certifier(model, x[:1], method)
        began = time.process_time()
        radii = np.array(
            [
                certifier.radius(a, int(b), norm, most=float(u))
                for a, b, u in zip(x, y, upper, strict=True)
            ]
        )
        seconds.append((time.process_time() - began) / len(x))
        shares.append(float(np.median(np.minimum(radii / upper, 1))))
    cells = [*(f"{s:.2f}" for s in shares), *(f"{s:.2f}" for s in seconds)]
    print(f"| {name} | {norm} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
