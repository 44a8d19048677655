"""What a second worker brings, and what large data sets take.

`python tests/benchmarks/scaling.py` evaluates 256 samples of CIFAR-10 (150 images, and
the mirror images of the first 106) on a small convolutional network (auto, linf) with
one worker of Ray and with two, in turn, so that whatever else the machine does slows
both. Ray itself is started before. For each run it says what the workers did when;
then what the second worker brings: to the whole call, in which workers are started and
load the model; from the first attack's start to the last one's end; and to the whole
call on a machine with nothing else to do, predicted from processor times. Last, a table
for sets of the size of ImageNet's validation set and of LAION-400M, from the passes per
second of one worker. Linux only.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ray
from timeline import NOTES, Timeline, recorded

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
        x, y = file["x_uint8"], file["y"].astype(np.int64)
    # There are 150 images; their mirror images are as good.
    x, y = np.concatenate([x, x[..., ::-1]]), np.concatenate([y, y])
    if settings.samples > len(x):
        parser.error(f"there are {len(x)} samples")
    np.savez(folder / "data.npz", x=x[: settings.samples], y=y[: settings.samples])
    os.chdir(folder)
    (folder / "notes").mkdir()
    os.environ[NOTES] = str(folder / "notes")
    # Workers need the notes' module, too.
    here = (str(Path(__file__).parent), os.environ.get("PYTHONPATH", ""))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, here))
    began = time.perf_counter()
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    print(f"Ray started in {time.perf_counter() - began:.1f} s, which counts nowhere")

    def evaluate(engine: rk.RayEngine, progress: Any) -> rk.Results:
        return rk.evaluate(
            "model.py:build",
            "data.npz",
            batch_size=settings.batch_size,
            budget=settings.budget,
            engine=engine,
            progress=progress,
        )

    lines: dict[int, list[Timeline]] = {1: [], 2: []}
    passes, pace = 0.0, []
    for turn in range(settings.rounds):
        for workers in (1, 2) if turn % 2 == 0 else (2, 1):
            results, line = recorded(evaluate, workers)
            lines[workers].append(line)
            (attack,) = results.summary()["norms"]["linf"]["attacks"].values()
            passes = attack["forward_passes"]
            if workers == 1:
                pace.append(passes / attack["seconds"])
            print(f"\n{workers} worker(s): {line.whole:.2f} s; {line.said()}")
            print(line.chart(), flush=True)
    print_speed_up(lines)
    print_sizes(passes / settings.samples, statistics.median(pace))


def print_speed_up(lines: dict[int, list[Timeline]]) -> None:
    """What the second worker brings, by three measures."""
    measures: dict[str, Callable[[Timeline, int], float]] = {
        "whole call, start of the workers included": lambda line, _: line.whole,
        "first part's start to last part's end": lambda line, _: line.attacking,
        "whole call on a quiet machine, predicted": lambda line, workers: sum(
            line.predicted(workers).values()
        ),
    }
    print("\n| Seconds, median | 1 worker | 2 workers | speed-up | from | to |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, measure in measures.items():
        one, two = ([measure(at, n) for at in lines[n]] for n in (1, 2))
        ratios = [a / b for a, b in zip(one, two, strict=True)]
        values = (one, two, ratios, [min(ratios)], [max(ratios)])
        cells = (f"{statistics.median(value):.2f}" for value in values)
        print(f"| {name} | {' | '.join(cells)} |")
    for workers in lines:
        parts = [line.predicted(workers) for line in lines[workers]]
        said = (f"{k} {statistics.median(p[k] for p in parts):.2f}" for k in parts[0])
        print(f"predicted for {workers} worker(s): {', '.join(said)}")


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
