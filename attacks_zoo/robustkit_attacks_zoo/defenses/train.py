"""Train the defenses again: ``python -m robustkit_attacks_zoo.defenses.train [NAME]``.

Writes ``weights/NAME.npz``. Needs scikit-learn, which brings the images. NAME: a part
of a defense's; without one, all are trained, one after another.
"""

import sys
import time
from importlib import import_module
from pathlib import Path

import torch
from robustkit.numerics.random import seeded

from robustkit_attacks_zoo.defenses.networks import save

__all__ = ["TRAINED", "main"]

TRAINED = (
    "adp",
    "asymmetric",
    "brittle",
    "distillation",
    "ecoc",
    "empir",
    "generative",
    "k_wta",
    "me_net",
    "mixup",
    "mmc",
    "odds",
    "resizing",
    "sparse_fourier",
    "temporal",
    "thermometer",
    "weakness",
)
"""Modules of defenses that have weights of their own."""


def main(words: list[str]) -> None:
    """Train those whose names contain one of the words."""
    torch.set_num_threads(1)
    for name in TRAINED:
        if words and not any(word.replace("-", "_") in name for word in words):
            continue
        start = time.perf_counter()
        with seeded(0):
            net = import_module(f"robustkit_attacks_zoo.defenses.{name}").train()
        path = Path(__file__).parent / "weights" / f"{name}.npz"
        save(net, path)
        size = path.stat().st_size / 1000
        print(f"{name}: {time.perf_counter() - start:.0f} s, {size:.0f} kB", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
