"""Models in JAX: seconds that the first and the next `auto` of a process take.

    python tests/benchmarks/jax_runs.py

Attacks work by NumPy on what JAX holds on a processor. Beside it: by JAX itself, as
where its arrays lie on a device, but with those of the processor.
"""

import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import robustkit as rk
from robustkit.numerics import tensors

CASES = (
    ("linf", "gradient", 100),
    ("l2", "gradient", 100),
    ("l1", "gradient", 100),
    ("l0", "gradient", 100),
    ("linf", "decision", 300),
    ("l2", "decision", 300),
)
# Images, and their sides.
SIZES = {"small": (24, 8), "large": (128, 32)}


def network(side: int) -> tuple[Any, Any]:
    """Two convolutions with random weights, and their way to ten classes."""
    rng = np.random.default_rng(0)
    shapes = (16, 3, 5, 5), (32, 16, 5, 5), (2 * side**2, 10)
    first, second, last = (
        rng.normal(size=shape).astype(np.float32) / np.sqrt(np.prod(shape[1:] or 1))
        for shape in shapes
    )
    last = last / np.float32(side)

    def logits(x: Any) -> Any:
        for kernel in (first, second):
            x = jax.lax.conv_general_dilated(x - 0.5, kernel, (2, 2), "SAME")
            x = jnp.maximum(x, 0)
        return x.reshape(x.shape[0], -1) @ last

    return logits


def time_them(by: str, size: str, norm: str, access: str, budget: str) -> None:
    """Print the seconds of two runs in this process."""
    if by == "jax":
        tensors._is_hosted = lambda _: False
    count, side = SIZES[size]
    logits = network(side)
    x = np.random.default_rng(1).random((count, 3, side, side), dtype=np.float32)
    y = np.asarray(logits(x)).argmax(axis=1)
    for _ in range(2):
        start = time.perf_counter()
        rk.evaluate(
            rk.JaxModel(logits), (x, y), norm=norm, access=access, budget=int(budget)
        )
        print(f"{time.perf_counter() - start:.1f}", end=" ")


def main() -> None:
    """One process for each cell."""
    print("| images | norm | access | budget | by NumPy: first, next | by JAX |")
    print("| --- | --- | --- | --- | --- | --- |")
    for size, (count, side) in SIZES.items():
        for norm, access, budget in CASES:
            case = [size, norm, access, str(budget)]
            found = [
                subprocess.run(
                    [sys.executable, __file__, by, *case],
                    check=True,
                    capture_output=True,
                    text=True,
                ).stdout.split()
                for by in ("numpy", "jax")
            ]
            cells = " | ".join(", ".join(seconds) for seconds in found)
            print(
                f"| {count} of {side} x {side} | {norm} | {access} | {budget} | "
                f"{cells} |",
                flush=True,
            )


if __name__ == "__main__":
    time_them(*sys.argv[1:]) if sys.argv[1:] else main()
