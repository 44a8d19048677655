"""The evaluator: data through attacks into verified rows."""

import platform
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from robustkit.arguments import as_seed, as_whole
from robustkit.engine.attack import Attack
from robustkit.engine.criteria import Criterion
from robustkit.errors import BadInput, suggestion
from robustkit.evaluation.arrays import checked_inputs
from robustkit.evaluation.batch import Progress, Work
from robustkit.evaluation.data import DataSet
from robustkit.evaluation.deadline import check_time_limit
from robustkit.evaluation.engines import Engine, choose_engine
from robustkit.evaluation.goals import make_criterion
from robustkit.evaluation.monitor import Monitor, in_part
from robustkit.evaluation.opening import model_and_data, open_data
from robustkit.evaluation.preflight import check_labels, examine, no_compiler
from robustkit.evaluation.recipe import Recipe
from robustkit.evaluation.results import Results
from robustkit.evaluation.selection import selected
from robustkit.evaluation.store import SCHEMA, RunFolder
from robustkit.models.base import Access, Model, as_access
from robustkit.models.wrappers import per_channel
from robustkit.numerics.bounds import Bounds, BoundsLike, as_bounds
from robustkit.numerics.norms import Norm, get_norm
from robustkit.numerics.tensors import Array, Tensor, as_array
from robustkit.registry import choose_attacks

__all__ = ["default_epsilons", "evaluate", "package_versions"]

Sizes: TypeAlias = float | Sequence[float]

_EPSILONS = {
    "linf": (1 / 255, 2 / 255, 4 / 255, 8 / 255, 16 / 255, 0.1, 0.2, 0.3),
    "l2": (0.1, 0.25, 0.5, 1.0, 2.0, 3.0),
    "l1": (1.0, 2.0, 5.0, 10.0, 20.0, 40.0),
    "l0": (1.0, 2.0, 5.0, 10.0, 20.0, 50.0),
}
_PACKAGES = ("numpy", "scipy", "torch", "eagerpy", "jax", "onnxruntime", "foolbox")


def default_epsilons(norm: Norm, bounds: Bounds) -> tuple[float, ...]:
    """Customary sizes to state robust accuracy at, scaled to the width of the box."""
    scale = 1.0 if norm.name == "l0" else bounds.width
    return tuple(epsilon * scale for epsilon in _EPSILONS[norm.name])


def evaluate(
    model: Any,
    data: Any,
    *,
    norm: str | Norm | Sequence[str | Norm] = "linf",
    attacks: str | Sequence[str] | Mapping[str, Attack[Any]] = "auto",
    epsilons: Sizes | Mapping[str, Sizes] | None = None,
    target: int | str | None = None,
    criterion: Callable[[Tensor], Criterion] | None = None,
    samples: int | None = None,
    budget: int | None = None,
    access: str | Access = Access.GRADIENT,
    batch_size: int = 128,
    seed: int = 0,
    bounds: BoundsLike | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    device: str | None = None,
    pool: Any = None,
    cache: str | Path | None = None,
    headers: Mapping[str, str] | None = None,
    shard: tuple[int, int] | None = None,
    time_limit: float | None = None,
    compiled: bool = False,
    engine: str | Engine = "local",
    out: str | Path | None = None,
    progress: Callable[[Progress], None] | None = None,
    trackers: Sequence[Any] = (),
) -> Results:
    """Find the smallest adversarial perturbation of every sample, and verify it.

    Every attack starts afresh on every sample, and the nearest adversarial of all
    attacks counts. Each is asked about once more before it is reported
    (`evaluation.verify`). A sample's result depends on the model, the sample, the
    settings and the seed, and on nothing else; with a pool, also on the pool, and with
    foolbox's attacks also on the batch.

    Args:
        model: Anything `load_model` or `as_model` accepts: a name or path, a torch
            module, a function on NumPy or JAX arrays, a foolbox or robustkit model.
        data: Anything `load_data` or `as_data` accepts: a name or path, arrays (x, y),
            an iterator of batches. x: (n, ...) within the bounds; y: (n,) integers.
        norm: One or several of "l0", "l0-pixels", "l1", "l2", "linf".
        attacks: "auto", "standard", names (`robustkit attacks`), or attacks by name.
        epsilons: Sizes at which to state robust accuracy, in norm units; by norm where
            they differ. None: customary ones. `auto` with scores only searches the
            largest one given first.
        target: The class to be reached (samples of that class are left out), "random"
            or "least-likely"; None: any class but the label.
        criterion: From labels (n,) to your own criterion, instead of `target`.
        samples: Evaluate so many of the data.
        budget: Model passes per sample and attack (one forward pass, with or without
            its backward pass). Attacks named plan for it; attacks given as objects are
            cut off at it. None: each attack's own.
        access: Use no more of the model than "decision", "score" or "gradient".
        batch_size: How many samples to work on at once.
        seed: Of all randomness.
        bounds: (lower, upper) of valid inputs; None: the model's own, else (0, 1).
        mean: With `std`: the model is shown (x - mean) / std; one number, or one per
            channel.
        std: See `mean`.
        device: For torch models, such as "cuda:0".
        pool: Other inputs (m, ...) that attacks may start from or walk towards, or
            data as for `data`. None: none, so that samples do not influence each other.
        cache: File that keeps the answers of a model at an address, so that a run that
            was cut off asks nothing twice (`RemoteModel`).
        headers: Sent to that address. Their values hold `ENV:VARIABLE`, which stands
            for that of the environment, so that no key is kept in the run folder:
            {"Authorization": "Bearer ENV:API_KEY"}.
        shard: (3, 16): evaluate only the third of sixteen parts of the data, for as
            many processes with a run folder each, which `merge` joins. Batches are
            dealt out in turn.
        time_limit: Seconds for each attack on a batch. What was found by then counts;
            samples without an adversarial by then are errors.
        compiled: Compile the attacks' arithmetic, of models in torch (needs a C++
            compiler on a CPU) and JAX. Seconds for each attack and norm; in long runs
            less time for each step. What is found is the same but for rounding.
        engine: Who does the work: "local", this process; a `robustkit.PoolEngine`,
            several on this machine; "ray" or a `robustkit.RayEngine`, workers of Ray.
            What comes out is the same.
        out: Run folder to write; None: a temporary one, removed with the results
            (`Results.save` keeps them). If it holds an unfinished run with the same
            model, data, settings and versions, that run goes on.
        progress: Called now and then, at most ten times a second.
        trackers: A TensorBoard `SummaryWriter`, the module `mlflow`, a `wandb` run, or
            several: told the settings, the numbers after each attack on a batch, and
            those of the whole run.

    Returns:
        The results; `.distance` (n,) in the order of the data.

    Raises:
        BadInput: Something given is not as described. What has been computed by then
            is kept in `out`, as it is at every other exception.

    >>> import robustkit as rk
    >>> results = rk.evaluate("digits", "digits", samples=20, attacks=["fmn"])
    >>> results.robust_accuracy(0.1).estimate <= results.clean_accuracy.estimate
    True
    """
    norms, worker = _norms(norm), choose_engine(engine)
    if target is not None and not isinstance(target, str):
        target = as_whole(target, "the target")
    asked = None if bounds is None else as_bounds(bounds)
    mean, std = per_channel(mean, "mean"), per_channel(std, "std")
    adapted, dataset = model_and_data(
        model,
        data,
        asked,
        samples,
        device=device,
        mean=mean,
        std=std,
        cache=cache,
        headers=headers,
    )
    shown = min(as_access(access), adapted.access)
    if budget is not None:
        budget = as_whole(budget, "the budget", least=1)
    batch_size = as_whole(batch_size, "the batch size", least=1)
    seed = as_seed(seed)
    check_time_limit(time_limit)
    shard = _shard(shard)
    sizes = _epsilons(epsilons, norms, adapted.bounds)
    wanted = _asked_for(epsilons, sizes)
    chosen = {
        n: choose_attacks(
            attacks, n, shown, budget, adapted, max(wanted.get(n, ()), default=None)
        )
        for n in norms
    }
    monitor = Monitor(
        in_part(dataset.count, batch_size, *(shard or (1, 1))),
        {(repr(n), k): a.steps for n, some in chosen.items() for k, a in some.items()},
        progress,
        trackers,
        {
            "model": adapted.name,
            "data": dataset.name,
            "seed": str(seed),
            "budget": str(budget),
            **{
                f"{n}/{k}": repr(a)
                for n, some in chosen.items()
                for k, a in some.items()
            },
        },
    )
    progress = monitor.listener
    examined = examine(adapted, dataset.example)
    hindrance = no_compiler(adapted, dataset.example) if compiled else None
    # Here too, so that what is wrong with it is said before there is a run folder.
    make_criterion(adapted, target, criterion, examined.classes, seed)
    recipe = Recipe(
        model=model,
        bounds=asked,
        device=device,
        mean=mean,
        std=std,
        example=dataset.example,
        classes=examined.classes,
        attacks=chosen,
        target=target,
        criterion=criterion,
        budget=budget,
        seed=seed,
        pool=_pool(pool, adapted, dataset.example),
        random=examined.random,
        time_limit=time_limit,
        fingerprint=adapted.fingerprint(),
        compiled=compiled and hindrance is None,
        cache=cache,
        headers=headers,
    )
    config = {
        "model": _name(model) or adapted.name,
        "data": _name(data) or dataset.name,
        "norms": [repr(n) for n in norms],
        "attacks": {repr(n): {k: repr(a) for k, a in chosen[n].items()} for n in norms},
        "epsilons": {repr(n): list(sizes[n]) for n in norms},
        "target": target,
        "criterion": getattr(criterion, "__name__", criterion and repr(criterion)),
        "samples": samples,
        "budget": budget,
        "access": shown.name.lower(),
        "batch_size": batch_size,
        "seed": seed,
        "bounds": [adapted.bounds.lower, adapted.bounds.upper],
        "mean": mean and list(mean),
        "std": std and list(std),
        "device": device,
        "pool": _name(pool) or (None if pool is None else "given"),
        "cache": cache and str(cache),
        "headers": headers and dict(headers),
        "shard": shard and list(shard),
        "time_limit": time_limit,
        "compiled": compiled,
    }
    description: dict[str, Any] = {
        "schema": SCHEMA,
        "status": "running",
        "started": _now(),
        "config": config,
        "asked": {
            "model": _name(model),
            "data": _name(data),
            "attacks": None if isinstance(attacks, Mapping) else attacks,
            "pool": _name(pool),
            "epsilons": {repr(n): list(given) for n, given in wanted.items()} or None,
        },
        "attack_access": {
            name: attack.access.name.lower()
            for named in chosen.values()
            for name, attack in named.items()
        },
        "attack_baseline": {
            k: a.baseline for named in chosen.values() for k, a in named.items()
        },
        "sources": {k: a.source for named in chosen.values() for k, a in named.items()},
        "model": {
            "name": adapted.name,
            "adapter": type(adapted).__name__,
            "classes": examined.classes,
            "abstains": adapted.abstains,
            "access": adapted.access.name.lower(),
            "fingerprint": recipe.fingerprint,
        },
        "data": {"name": dataset.name, "class_names": dataset.class_names},
        "versions": package_versions(),
        "engine": worker.describe(),
        "notes": [*dataset.notes, *examined.notes, *filter(None, [hindrance])],
    }
    with (
        RunFolder(
            out or tempfile.mkdtemp(prefix="robustkit-"), description, monitor.shard
        ) as folder,
        _described(folder, description, dataset, monitor),
    ):
        labelled = examined.classes - adapted.unlabelled
        works = _works(dataset, labelled, description, folder)
        worker.run(recipe, works, folder, adapted, progress)
    results = Results(folder.path, temporary=out is None)
    # Now that the folder holds what it will hold, since some keep a copy of it.
    monitor.end(results)
    return results


@contextmanager
def _described(
    folder: RunFolder, description: dict[str, Any], dataset: DataSet, monitor: Monitor
) -> Iterator[None]:
    """Keep run.json, the tables and summary.json true, however the run ends."""
    if folder.earlier is not None:
        description["started"] = folder.earlier["started"]
        description["resumed"] = [*folder.earlier.get("resumed", []), _now()]
    folder.write("run.json", description)
    monitor.begin()
    try:
        yield
    except BaseException as error:
        error.add_note(f"what was computed by then is in {folder.path}")
        interrupted = isinstance(error, KeyboardInterrupt)
        description["status"] = "interrupted" if interrupted else "failed"
        if not interrupted:
            failure = f"{type(error).__name__}: {error}"
            description["failure"] = " ".join(failure.split())
        # A full disk, for one; what was kept is safe, and what ended the run is told.
        with suppress(OSError):
            _conclude(folder, description, dataset)
        raise
    description["status"] = "complete"
    if folder.damaged:
        description["notes"].append(
            f"damaged on the disk and made anew: {', '.join(folder.damaged)}"
        )
    _conclude(folder, description, dataset)


def _conclude(folder: RunFolder, description: dict[str, Any], dataset: DataSet) -> None:
    description["finished"] = _now()
    description["data"]["fingerprint"] = dataset.fingerprint()
    folder.write_tables(whole=description["status"] == "complete")
    folder.write("run.json", description)
    folder.write("summary.json", Results(folder.path).summary())


def _works(
    dataset: DataSet, classes: int, description: dict[str, Any], folder: RunFolder
) -> Iterator[Work]:
    """Batch by batch, leaving out samples that are of the target class."""
    start, left_out = 0, 0
    config = description["config"]
    target, shard = config["target"], config["shard"]
    for number, (x, y) in enumerate(dataset.batches(config["batch_size"])):
        check_labels(y, classes, start)
        kept = selected(y, number, target, shard)
        if len(kept):
            traced = folder.to_trace(len(kept))
            yield Work(number, x[kept], y[kept], start + kept, traced)
        start += len(y)
        left_out += int((y == target).sum()) if isinstance(target, int) else 0
    if start == left_out:
        raise BadInput(f"all {start} samples are of the target class {target}")
    if left_out:
        description["notes"] += [f"{left_out} samples of the target class left out"]


def _shard(shard: tuple[int, int] | None) -> tuple[int, int] | None:
    if shard is None:
        return None
    if not isinstance(shard, tuple | list) or len(shard) != 2:
        raise BadInput(
            f"a part of the data is two numbers, such as (3, 16); got {shard!r}"
        )
    part, parts = (as_whole(number, "a part of the data") for number in shard)
    if not 1 <= part <= parts:
        raise BadInput(
            f"a part of the data must be one of 1 to the number of parts, such as 3 of "
            f"16; got {part} of {parts}"
        )
    return part, parts


def _name(given: Any) -> str | None:
    """What a command line could say instead of `given`."""
    return str(given) if isinstance(given, str | Path) else None


def _norms(norm: str | Norm | Sequence[str | Norm]) -> tuple[Norm, ...]:
    several = isinstance(norm, Iterable) and not isinstance(norm, str)
    names: Any = norm if several else [norm]
    found = {repr(n): n for n in map(get_norm, names)}
    if not found:
        raise BadInput("no norm was named; name one of l0, l0-pixels, l1, l2, linf")
    return tuple(found.values())


def _epsilons(
    epsilons: Sizes | Mapping[str, Sizes] | None,
    norms: Sequence[Norm],
    bounds: Bounds,
) -> dict[Norm, tuple[float, ...]]:
    chosen = {}
    if isinstance(epsilons, Mapping):
        for name in epsilons.keys() - {repr(norm) for norm in norms}:
            known = suggestion(name, map(repr, norms))
            raise BadInput(
                f"epsilons for a norm that is not evaluated, '{name}'; {known}"
            )
    for norm in norms:
        given = epsilons.get(repr(norm)) if isinstance(epsilons, Mapping) else epsilons
        chosen[norm] = (
            default_epsilons(norm, bounds) if given is None else _sizes(given)
        )
    return chosen


def _sizes(given: Any) -> tuple[float, ...]:
    if isinstance(given, Iterable) and not (
        hasattr(given, "shape") or isinstance(given, str)
    ):
        given = list(given)
    values = as_array(given, "epsilons")
    if values.dtype.kind not in "fiu" or not ((values > 0) & np.isfinite(values)).all():
        raise BadInput(
            "epsilons must be positive numbers, such as 8 / 255 or [0.1, 0.2]; got "
            f"{given!r}"
        )
    return tuple(sorted(values.astype(np.float64).ravel().tolist()))


def _asked_for(
    epsilons: Sizes | Mapping[str, Sizes] | None,
    sizes: dict[Norm, tuple[float, ...]],
) -> dict[Norm, tuple[float, ...]]:
    """The sizes that were asked for; the customary ones nobody asked for."""
    if isinstance(epsilons, Mapping):
        return {n: given for n, given in sizes.items() if repr(n) in epsilons}
    return {} if epsilons is None else sizes


def _pool(pool: Any, model: Model, example: Array) -> Array | None:
    if pool is None:
        return None
    if isinstance(pool, str | Path | tuple):
        batches = open_data(pool, model.bounds, None).batches(1024)
        inputs = np.concatenate([x for x, _ in batches])
    else:
        inputs = as_array(pool, "pool")
    if inputs.shape[1:] != example.shape[1:]:
        raise BadInput(
            f"the pool must hold inputs like those of the data, of shape "
            f"{example.shape[1:]}; got an array of shape {inputs.shape}"
        )
    return checked_inputs(inputs, model.bounds, name="the pool")


def package_versions() -> dict[str, str]:
    """Versions of Python, robustkit and what it stands on, where installed."""
    versions = {"python": platform.python_version(), "system": platform.system()}
    for package in ("robustkit", *_PACKAGES):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
