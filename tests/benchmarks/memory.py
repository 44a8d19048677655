"""Peak memory of an evaluation at 1x and 20x the samples.

    python tests/benchmarks/memory.py

Each measurement is a process of its own. Two numbers: what the process had for itself
at most, looked at with each step of progress (RssAnon), and the highest resident set
(which counts what the system keeps of files that are mapped). With workers, both are
those of the process that calls. Linux only.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import robustkit as rk

FEW, TIMES = 400, 20
SHAPE = (3, 32, 32)
KINDS = ("iterator", "npy files", "memory maps", "npy files, 2 workers of Ray")


def weights():
    """(values, 10) of a linear classifier."""
    values = int(np.prod(SHAPE))
    return np.random.default_rng(0).normal(size=(values, 10)).astype(np.float32)


def batches(samples, w):
    """Inputs in batches of 100, made as they are asked for."""
    rng = np.random.default_rng(1)
    for _ in range(samples // 100):
        x = rng.random((100, *SHAPE), dtype=np.float32)
        yield x, (x.reshape(100, -1) @ w).argmax(axis=1)


def write(samples, w, folder):
    """The same as x.npy and y.npy."""
    shape = (samples, *SHAPE)
    x = np.lib.format.open_memmap(folder / "x.npy", "w+", np.float32, shape)
    y = np.empty(samples, dtype=np.int64)
    for place, (some, labels) in enumerate(batches(samples, w)):
        x[100 * place : 100 * place + 100] = some
        y[100 * place : 100 * place + 100] = labels
    x.flush()
    np.save(folder / "y.npy", y)


def data(kind, samples, w, folder):
    """The data as that kind."""
    if kind == "iterator":
        return batches(samples, w)
    if kind.startswith("npy files"):
        return folder
    return tuple(np.load(folder / f"{name}.npy", mmap_mode="r") for name in "xy")


def own():
    """Bytes of memory that are the process's own now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return 1024 * int(line.split()[1])
    sys.exit("needs /proc/self/status with RssAnon")


def measure(kind, samples, folder):
    """Evaluate, in this process."""
    w = weights()
    model = rk.NumPyModel(
        lambda x: x.reshape(len(x), -1) @ w,
        gradient=lambda x, slopes: (slopes @ w.T).reshape(x.shape),
    )
    most = 0

    def look(_):
        nonlocal most
        most = max(most, own())

    results = rk.evaluate(
        model,
        data(kind, samples, w, folder),
        attacks=["fmn"],
        budget=4,
        batch_size=100,
        engine=rk.RayEngine(workers=2) if "Ray" in kind else "local",
        progress=look,
    )
    assert len(results.index) == samples
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"own": max(most, own()), "resident": peak}))


def main():
    """Measure all kinds at both sizes, each in a process of its own."""
    one = FEW * int(np.prod(SHAPE)) * 4 / 1e6
    print(f"inputs: {one:.1f} MB at 1x, {TIMES * one:.1f} MB at {TIMES}x")
    for kind in KINDS:
        found = []
        for samples in (FEW, TIMES * FEW):
            with tempfile.TemporaryDirectory() as folder:
                write(samples, weights(), Path(folder))
                done = subprocess.run(
                    [sys.executable, __file__, kind, str(samples), folder],
                    check=True,
                    stdout=subprocess.PIPE,
                    text=True,
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                )
            found.append(json.loads(done.stdout))
        for name in ("own", "resident"):
            few, many = (entry[name] / 1e6 for entry in found)
            print(f"{kind:28} {name:9} {few:7.1f} MB at 1x {many:7.1f} MB at {TIMES}x")


if __name__ == "__main__":
    if len(sys.argv) == 4:
        measure(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
    else:
        main()
