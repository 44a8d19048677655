"""The evaluator: data through attacks into verified rows."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from robustkit.arguments import as_seed, as_whole
from robustkit.engine.attack import Attack
from robustkit.engine.criteria import Criterion
from robustkit.errors import BadInput
from robustkit.evaluation.batch import Progress, Work
from robustkit.evaluation.data import DataSet
from robustkit.evaluation.deadline import check_time_limit
from robustkit.evaluation.engines import Engine, choose_engine
from robustkit.evaluation.goals import make_criterion
from robustkit.evaluation.monitor import Monitor, in_part
from robustkit.evaluation.opening import model_and_data, open_pool
from robustkit.evaluation.preflight import (
    check_attacks,
    check_labels,
    examine,
    no_compiler,
)
from robustkit.evaluation.recipe import Recipe
from robustkit.evaluation.record import describe, recorded
from robustkit.evaluation.results import Results
from robustkit.evaluation.selection import selected
from robustkit.evaluation.settings import (
    Sizes,
    as_epsilons,
    as_norms,
    as_shard,
    as_target,
    asked_for,
)
from robustkit.evaluation.store import RunFolder
from robustkit.models.base import Access, as_access
from robustkit.models.wrappers import per_channel
from robustkit.numerics.bounds import BoundsLike, as_bounds
from robustkit.numerics.norms import Norm
from robustkit.numerics.tensors import Tensor
from robustkit.registry import choose_attacks

__all__ = ["evaluate"]


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
    trackers: Any = (),
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
            data as for `data`, whose labels then say which of them to try first. None:
            none, so that samples do not influence each other.
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
            compiler on a CPU), and in JAX on a device. Seconds for each attack and
            norm; in long runs less time for each step. What is found is the same but
            for rounding.
        engine: Who does the work: "local", this process; a `robustkit.PoolEngine`,
            several on this machine; "ray" or a `robustkit.RayEngine`, workers of Ray.
            What comes out is the same.
        out: Run folder to write; None: a temporary one, removed with the results
            (`Results.save` keeps them). If it holds an unfinished run with the same
            model, data, pool, settings and versions, that run goes on.
        progress: Called now and then, at most ten times a second; if it raises, it is
            called no more, with a warning.
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
    norms, worker = as_norms(norm), choose_engine(engine)
    target = as_target(target)
    box = None if bounds is None else as_bounds(bounds)
    mean, std = per_channel(mean, "mean"), per_channel(std, "std")
    adapted, dataset = model_and_data(
        model,
        data,
        box,
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
    shard = as_shard(shard)
    sizes = as_epsilons(epsilons, norms, adapted.bounds)
    wanted = asked_for(epsilons, sizes)
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
    )
    # Questions may change what the model keeps, such as averages over batches.
    fingerprint = adapted.fingerprint()
    examined = examine(adapted, dataset.example)
    hindrance = no_compiler(adapted, dataset.example) if compiled else None
    # Here too, so that what is wrong with it is said before there is a run folder.
    make_criterion(adapted, target, criterion, examined.classes, seed)
    others, others_classes = open_pool(pool, adapted, dataset)
    check_attacks(adapted, dataset.example, chosen, others)
    recipe = Recipe(
        model=model,
        bounds=box,
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
        pool=others,
        pool_classes=others_classes,
        random=examined.random,
        time_limit=time_limit,
        fingerprint=fingerprint,
        compiled=compiled and hindrance is None,
        cache=cache,
        headers=headers,
    )
    description = describe(
        recipe,
        adapted,
        dataset,
        worker,
        asked={
            "model": model,
            "data": data,
            "attacks": attacks,
            "pool": pool,
            "epsilons": wanted,
        },
        epsilons=sizes,
        samples=samples,
        access=shown,
        batch_size=batch_size,
        shard=shard,
        compiled=compiled,
        notes=[*dataset.notes, *examined.notes, *filter(None, [hindrance])],
    )
    place = out or tempfile.mkdtemp(prefix="robustkit-")
    with (
        RunFolder(place, description, monitor.shard) as folder,
        recorded(folder, description, dataset, monitor),
    ):
        labelled = examined.classes - adapted.unlabelled
        works = _works(dataset, labelled, description, folder)
        worker.run(recipe, works, folder, adapted, monitor.listener)
    results = Results(folder.path, temporary=out is None)
    # Now that the folder holds what it will hold, since some keep a copy of it.
    monitor.end(results)
    return results


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
