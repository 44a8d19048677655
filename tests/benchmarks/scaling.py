"""What a second worker brings, and what large data sets take.

`python tests/benchmarks/scaling.py` evaluates 256 CIFAR-10 images on a small
convolutional network (auto, linf) with one worker of Ray and with two, in turn, so that
whatever else the machine does slows both. Times are by the clock and include the start
of the workers and the loading of the model. Then a table for sets of the size of
ImageNet's validation set and of LAION-400M, from the passes per second of one worker.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import ray

import robustkit as rk

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
MODEL = f"""
import importlib.util
spec = importlib.util.spec_from_file_location("load", {str(SHARED / "load.py")!r})
load = importlib.util.module_from_spec(spec)
spec.loader.exec_module(load)

def build():
    return load.torch_model("cifar_cnn_a_adv")
"""
SETS = {"ImageNet-50k": 50_000, "LAION-400M": 400_000_000}
CREWS = (1, 8, 64, 1000)


def main() -> None:
    """Measure, and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--budget", type=int, help="passes per sample")
    settings = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    (folder / "model.py").write_text(MODEL)
    with np.load(SHARED / "models" / "cifar10_images.npz") as file:
        x, y = (file[k][: settings.samples] for k in ("x_uint8", "y"))
    np.savez(folder / "data.npz", x=x, y=y.astype(np.int64))
    os.chdir(folder)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    passes, alone = 0.0, []
    for turn in range(settings.rounds):
        for workers in (1, 2) if turn % 2 == 0 else (2, 1):
            began = time.perf_counter()
            results = rk.evaluate(
                "model.py:build",
                "data.npz",
                batch_size=settings.batch_size,
                budget=settings.budget,
                engine=rk.RayEngine(workers=workers),
            )
            seconds[workers].append(time.perf_counter() - began)
            (attack,) = results.summary()["norms"]["linf"]["attacks"].values()
            passes = attack["forward_passes"]
            if workers == 1:
                alone.append(passes / attack["seconds"])
            print(f"{workers} worker(s): {seconds[workers][-1]:.1f} s", flush=True)
    ratios = [one / two for one, two in zip(seconds[1], seconds[2], strict=True)]
    print(
        f"median of {settings.rounds} rounds: {statistics.median(seconds[1]):.1f} s "
        f"and {statistics.median(seconds[2]):.1f} s; speed-up by the second worker "
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    )
    print_sizes(passes / settings.samples, statistics.median(alone))


def print_sizes(passes: float, pace: float) -> None:
    """The table for large sets.

    Args:
        passes: Of one sample.
        pace: Passes per second of one worker.
    """
    print(
        f"\n{passes:.0f} passes per sample, {pace:.0f} passes per second and worker\n"
    )
    crews = (f"{n} worker{'s' if n > 1 else ''}" for n in CREWS)
    print("| Data | " + " | ".join(crews) + " |")
    print("| --- |" + " ---: |" * len(CREWS))
    for name, samples in SETS.items():
        cells = [_duration(samples * passes / pace / workers) for workers in CREWS]
        print(f"| {name} | " + " | ".join(cells) + " |")


def _duration(seconds: float) -> str:
    for unit, size in (("years", 365.25 * 86400), ("days", 86400), ("hours", 3600)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    if seconds >= 120:
        return f"{seconds / 60:,.0f} minutes"
    return f"{seconds:,.0f} seconds"


if __name__ == "__main__":
    main()
