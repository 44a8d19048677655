"""VNN-LIB problems with known verdicts: `python tests/benchmarks/vnnlib.py`.

The problems of several categories of the verification competitions, written as spec
files: how many of those with a known witness are answered sat, and that none of those
that are proven is.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from speed import load_data

from robustkit.interop.vnnlib import falsify

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
    """Print a row per category."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--timeout", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--unsat", type=int, default=2, help="proven ones to try")
    settings = parser.parse_args()
    torch.set_num_threads(1)
    data = load_data()
    spec = Path(tempfile.mkdtemp()) / "spec.vnnlib"
    print("| Category | answered sat | of | median seconds | proven ones broken | of |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for category in CATEGORIES:
        problems, folder = data.vnncomp(category)
        sat = np.flatnonzero((problems["verdict"] == "sat") & problems["witnessed"])
        unsat = np.flatnonzero(problems["verdict"] == "unsat")[: settings.unsat]
        answers, seconds = {}, []
        for row in (*sat, *unsat):
            spec.write_text(spec_text(problems, row))
            began = time.perf_counter()
            answers[row] = falsify(
                folder / str(problems["model"][row]),
                spec,
                timeout=settings.timeout,
                rounds=settings.rounds,
            ).verdict
            if answers[row] == "sat":
                seconds.append(time.perf_counter() - began)
        found = sum(answers[row] == "sat" for row in sat)
        broken = sum(answers[row] == "sat" for row in unsat)
        print(
            f"| {category} | {found} | {len(sat)} | "
            f"{np.median(seconds) if seconds else np.nan:.1f} | {broken} | "
            f"{len(unsat)} |",
            flush=True,
        )


def spec_text(problems: dict[str, np.ndarray], row: int) -> str:
    """One problem as the competitions write it."""
    classes = int(problems["n_classes"][row])
    label, target = int(problems["y"][row]), int(problems["target"][row])
    lower, upper = (problems[k][row].tolist() for k in ("lower", "upper"))
    lines = [f"(declare-const X_{i} Real)" for i in range(len(lower))]
    lines += [f"(declare-const Y_{j} Real)" for j in range(classes)]
    for i, (low, high) in enumerate(zip(lower, upper, strict=True)):
        lines += [f"(assert (<= X_{i} {high!r}))", f"(assert (>= X_{i} {low!r}))"]
    if target >= 0:
        rest = (j for j in range(classes) if j != target)
        lines += [f"(assert (<= Y_{j} Y_{target}))" for j in rest]
    else:
        cases = (f"(and (>= Y_{j} Y_{label}))" for j in range(classes) if j != label)
        lines.append(f"(assert (or {' '.join(cases)}))")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
