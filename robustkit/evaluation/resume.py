"""Going on with a run by its folder alone."""

from collections.abc import Callable
from typing import Any

from robustkit.errors import BadInput
from robustkit.evaluation.batch import Progress
from robustkit.evaluation.engines import Engine
from robustkit.evaluation.evaluate import evaluate
from robustkit.evaluation.results import Results, Run, folder_of
from robustkit.evaluation.settings import nameless
from robustkit.evaluation.store import read_json, unfinished

__all__ = ["resume"]


def resume(
    run: Run,
    *,
    engine: str | Engine = "local",
    progress: Callable[[Progress], None] | None = None,
    trackers: Any = (),
) -> Results:
    """Go on with an unfinished run, from what is finished; at most a batch is lost.

    The result is that of a run that was never interrupted, but for its times. Model and
    data are loaded under the names that run.json has, so resume only runs of your own.

    A run of Python objects has no such names: call `evaluate` again with the same
    arguments, `out` included, which does the same.

    Args:
        run: The run folder, or its results. A complete run is returned as it is.
        engine: As in `evaluate`; it need not be the one that the run was begun with.
        progress: As in `evaluate`.
        trackers: As in `evaluate`; they are told of what is done from now on.

    Raises:
        BadInput: It is no run folder or was made from Python objects; or model, data,
            pool, settings or versions are not what they were.
    """
    folder = folder_of(run)
    description = read_json(folder / "run.json")
    if description.get("status") == "complete" and not unfinished(folder):
        return Results(folder)
    asked, config = description["asked"], description["config"]
    objects = nameless(description)
    if objects:
        raise BadInput(
            f"the run in '{folder}' was made from Python objects "
            f"({', '.join(objects)}) that run.json cannot name; call "
            "robustkit.evaluate again with the same "
            f"arguments and out={str(folder)!r}"
        )
    shard = config.get("shard")
    return evaluate(
        asked["model"],
        asked["data"],
        norm=config["norms"],
        attacks=asked["attacks"],
        epsilons=asked["epsilons"] if "epsilons" in asked else config["epsilons"],
        target=config["target"],
        samples=config["samples"],
        budget=config["budget"],
        access=config["access"],
        batch_size=config["batch_size"],
        seed=config["seed"],
        bounds=tuple(config["bounds"]),
        mean=config["mean"],
        std=config["std"],
        device=config["device"],
        pool=asked["pool"],
        cache=config.get("cache"),
        headers=config.get("headers"),
        shard=None if shard is None else tuple(shard),
        time_limit=config.get("time_limit"),
        compiled=config.get("compiled", False),
        engine=engine,
        out=folder,
        progress=progress,
        trackers=trackers,
    )
