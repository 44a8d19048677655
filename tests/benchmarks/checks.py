"""False alarms of the checks on sound networks: python tests/benchmarks/checks.py

Needs the networks of `shared/data` beside the checkout. A row per network: what was
found. Then a row per check: on how many networks it was asked, and spoke up. `--write`
puts that table into docs/explanation/checks.md; `--quick` leaves out CIFAR-10, and
the second size for MNIST.
"""

import argparse
import importlib.util
import json
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch

import robustkit as rk
from robustkit import demo
from robustkit.checks.effort_checks import check_effort
from robustkit.checks.model_checks import check_model
from robustkit.checks.probe import probe
from robustkit.checks.run_checks import check_run
from robustkit.checks.trace_checks import check_traces
from robustkit.checks.transfer import ask_again, check_transfer
from robustkit.checks.trial_checks import check_trials
from robustkit.checks.trials import try_attack
from robustkit.models.load import as_model

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
DOCS = ROOT / "docs" / "explanation" / "checks.md"
START, END = "<!-- false alarms -->", "<!-- end of false alarms -->"

OF_MODELS = ("G1", "G2", "G3", "R1", "R2", "O1", "O2", "O3")
OF_TRIALS = ("C1", "C4", "C7", "C8")
OF_RUNS = ("S1", "S2", "S3", "S4", "C2", "C3", "C5", "C6", "C9", "C10", "C11")
_EXACT = ("linear", "mlp_std", "mlp_adv", "mlp14_std", "toy20")
_IN_JAX = ("linear", "mlp_adv")
ATTACKS = ["auto", "pgd", "square", "gaussian-noise", "fgsm"]


def main() -> None:
    """Print the tables."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--write", action="store_true")
    options.add_argument("--quick", action="store_true")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    asked: Counter[str] = Counter()
    alarms: dict[str, Counter[str]] = defaultdict(Counter)
    worst: Counter[str] = Counter()
    for name, model, x, y, epsilon, count in networks(chosen.quick):
        start = time.process_time()
        found, ids = look(model, x, y, epsilon, count)
        asked.update(ids)
        for finding in found:
            alarms[finding.id][finding.severity.name.lower()] += 1
        worst[max((f.severity.name.lower() for f in found), default="nothing")] += 1
        said = ", ".join(f"{f.id} {f.severity.name.lower()}" for f in found)
        seconds = time.process_time() - start
        print(f"{name:28} {epsilon:.3f} {seconds:6.1f} s  {said}", flush=True)
    table = as_table(asked, alarms)
    print(f"\n{table}")
    if chosen.write:
        before, _, rest = DOCS.read_text().partition(START)
        after = rest.partition(END)[2]
        DOCS.write_text(f"{before}{START}\n{table}\n{END}{after}")


def networks(quick: bool) -> Any:
    """Names, models, images, labels, epsilons, and how many images for the attacks."""
    spec = importlib.util.spec_from_file_location("load", SHARED / "load.py")
    assert spec is not None
    assert spec.loader is not None
    load = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(load)
    x, y = (np.asarray(values) for values in demo.load_data("digits"))
    for name in ("digits", "digits-robust"):
        yield name, demo.load_model(name), x, y, 8 / 255, 32
    for name in _EXACT:
        images = name if name in ("mlp14_std", "toy20") else "linear"
        exact = load.exact(images, "linf")
        module = load.exact_model(name)
        yield name, module, exact["x"], exact["y"], 8 / 255, 32
    for name in json.loads((SHARED / "models" / "models.json").read_text()):
        small = name.startswith("mnist")
        images = load.images("mnist" if small else "cifar10")
        if small:
            yield name, load.torch_model(name), *images, 0.1, 32
        if not quick:
            yield name, load.torch_model(name), *images, 8 / 255, 32 if small else 8
    # Last, since it takes the longest: compiled anew for each size of a batch.
    exact = load.exact("linear", "linf")
    for name in _IN_JAX:
        model = in_jax(load.exact_model(name))
        yield f"{name} in JAX", model, exact["x"], exact["y"], 8 / 255, 32


def in_jax(module: torch.nn.Module) -> Any:
    """A torch Sequential of linear layers and ReLUs as a JAX function."""
    layers: list[Any] = []
    for layer in module.modules():
        if isinstance(layer, torch.nn.Linear):
            weight, bias = (p.detach().numpy() for p in (layer.weight, layer.bias))
            layers.append((jnp.asarray(weight), jnp.asarray(bias)))
        elif isinstance(layer, torch.nn.ReLU):
            layers.append(None)

    def logits(x: Any) -> Any:
        z = x.reshape((x.shape[0], -1))
        for layer in layers:
            z = jnp.maximum(z, 0) if layer is None else z @ layer[0].T + layer[1]
        return z

    return logits


def look(model: Any, x: Any, y: Any, epsilon: float, count: int) -> Any:
    """Everything that is found about a network and a run on it, and what was asked."""
    adapted = as_model(model, None, example=x[:1])
    seen = probe(adapted, x[:64], y[:64], epsilon)
    found, ids = check_model(seen), list(OF_MODELS)
    # As a careful author would: the model without a defense is the model itself.
    trials = try_attack(
        adapted, x[:count], y[:count], epsilon, undefended=adapted, random=seen.random
    )
    assert trials is not None
    found += check_trials(trials)
    ids += OF_TRIALS
    with tempfile.TemporaryDirectory() as folder:
        results = rk.evaluate(
            adapted,
            (x[:count], y[:count]),
            attacks=ATTACKS,
            budget=300,
            out=Path(folder) / "run",
        )
        found += check_run(results) + check_traces(results) + check_effort(results)
        for transfer in ask_again(adapted, results, count):
            found += check_transfer(transfer)
    return found, ids + list(OF_RUNS)


def as_table(asked: Counter[str], alarms: dict[str, Counter[str]]) -> str:
    """A row per check, in Markdown."""
    rows = [
        "| Check | Networks and sizes | Notes | Suspicious | Invalidates |",
        "| --- | --- | --- | --- | --- |",
    ]
    for id in (*OF_MODELS, *OF_TRIALS, *OF_RUNS):
        counts = [alarms[id][s] for s in ("note", "suspicious", "invalidates")]
        rows.append(f"| {id} | {asked[id]} | {' | '.join(map(str, counts))} |")
    total, loud = sum(asked.values()), sum(c["suspicious"] for c in alarms.values())
    bad = sum(c["invalidates"] for c in alarms.values())
    rows.append(
        f"\nOf {total} looks, {loud} ({100 * loud / total:.1f} %) raise a suspicion, "
        f"and {bad} invalidate."
    )
    return "\n".join(rows)


if __name__ == "__main__":
    main()
