"""False alarms of the model checks on sound networks: python tests/benchmarks/checks.py

Needs the networks of `shared/data` beside the checkout. A row per network: what was
found, and how near each measured value came to its threshold.
"""

import importlib.util
import json
import warnings
from pathlib import Path

import numpy as np
import torch

from robustkit import demo
from robustkit.checks.model_checks import check_model
from robustkit.checks.probe import probe
from robustkit.models.torch import TorchModel

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    spec = importlib.util.spec_from_file_location("load", SHARED / "load.py")
    load = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(load)
    print(f"{'network':26} {'zero':>5} {'ratio':>6} {'against':>8} {'noise':>6}  found")
    for name in json.loads((SHARED / "models" / "models.json").read_text()):
        data = "cifar10" if name.startswith("cifar") else "mnist"
        sizes = (8 / 255, 0.3) if data == "mnist" else (8 / 255,)
        for epsilon in sizes:
            row(name, load.torch_model(name), *load.images(data), epsilon)
    x, y = demo.load_data("digits")
    for name in ("digits", "digits-robust"):
        row(name, demo.load_model(name), np.asarray(x), np.asarray(y), 8 / 255)
    for name in ("linear", "mlp_std", "mlp_adv", "mlp14_std", "toy20"):
        images = name if name in ("mlp14_std", "toy20") else "linear"
        exact = load.exact(images, "linf")
        row(name, load.exact_model(name), exact["x"], exact["y"], 8 / 255)


def row(name, module, x, y, epsilon) -> None:
    """Probe one network at its first 64 images."""
    seen = probe(TorchModel(module), x[:64], y[:64], epsilon)
    found = [f"{f.id} {f.severity.name.lower()}" for f in check_model(seen)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ratio, against = np.nanmedian(seen.ratio[:, -1]), (seen.ratio[:, -1] < 0).mean()
    print(
        f"{name + (' at 0.3' if epsilon > 0.1 else ''):26} {seen.zero.mean():5.2f} "
        f"{ratio:6.2f} {against:8.2f} {np.median(seen.noise):6.3f}  {', '.join(found)}"
    )


if __name__ == "__main__":
    main()
