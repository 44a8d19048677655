"""What run.json says of a run, from its first moment to its last."""

import hashlib
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from robustkit import __version__
from robustkit.engine.attack import Attack
from robustkit.evaluation.data import DataSet
from robustkit.evaluation.engines import Engine
from robustkit.evaluation.monitor import Monitor
from robustkit.evaluation.recipe import Recipe
from robustkit.evaluation.results import Results
from robustkit.evaluation.store import SCHEMA, RunFolder
from robustkit.models.base import Access, Model
from robustkit.numerics.norms import Norm

__all__ = ["describe", "package_versions", "recorded"]

_PACKAGES = ("numpy", "scipy", "torch", "eagerpy", "jax", "onnxruntime", "foolbox")


def describe(
    recipe: Recipe,
    model: Model,
    data: DataSet,
    engine: Engine,
    *,
    asked: Mapping[str, Any],
    epsilons: Mapping[Norm, Sequence[float]],
    samples: int | None,
    access: Access,
    batch_size: int,
    shard: tuple[int, int] | None,
    compiled: bool,
    notes: Sequence[str],
) -> dict[str, Any]:
    """What run.json says of a run that begins.

    Args:
        recipe: What it is made with.
        model: What the recipe describes.
        data: To be evaluated.
        engine: Who does the work.
        asked: "model", "data", "attacks" and "pool" as they were given, and "epsilons"
            of those norms for which they were.
        epsilons: Of each norm.
        samples: As for `evaluate`.
        access: What is used of the model.
        batch_size: As for `evaluate`.
        shard: As for `evaluate`.
        compiled: As for `evaluate`, whether or not it can be.
        notes: What the user should know, a sentence each.
    """
    by_norm = {repr(norm): named for norm, named in recipe.attacks.items()}
    attacks = [pair for named in by_norm.values() for pair in named.items()]
    names = {part: _name(asked[part]) for part in ("model", "data", "pool")}
    given = asked["attacks"]
    config = {
        "model": names["model"] or model.name,
        "data": names["data"] or data.name,
        "norms": list(by_norm),
        "attacks": {
            norm: {name: repr(attack) for name, attack in named.items()}
            for norm, named in by_norm.items()
        },
        "epsilons": _by_name(epsilons),
        "target": recipe.target,
        "criterion": getattr(
            recipe.criterion, "__name__", recipe.criterion and repr(recipe.criterion)
        ),
        "samples": samples,
        "budget": recipe.budget,
        "access": access.name.lower(),
        "batch_size": batch_size,
        "seed": recipe.seed,
        "bounds": [model.bounds.lower, model.bounds.upper],
        "mean": recipe.mean and list(recipe.mean),
        "std": recipe.std and list(recipe.std),
        "device": recipe.device,
        "pool": names["pool"] or (None if asked["pool"] is None else "given"),
        "cache": recipe.cache and str(recipe.cache),
        "headers": recipe.headers and dict(recipe.headers),
        "shard": shard and list(shard),
        "time_limit": recipe.time_limit,
        "compiled": bool(compiled),
    }
    return {
        "schema": SCHEMA,
        "status": "running",
        "started": _now(),
        "config": config,
        "asked": {
            "model": names["model"],
            "data": names["data"],
            "attacks": None if isinstance(given, Mapping) else given,
            "pool": names["pool"],
            "epsilons": _by_name(asked["epsilons"]) or None,
        },
        "attack_access": {name: a.access.name.lower() for name, a in attacks},
        "attack_baseline": {name: attack.baseline for name, attack in attacks},
        "sources": _sources(attacks),
        "model": {
            "name": model.name,
            "adapter": type(model).__name__,
            "classes": recipe.classes - model.unlabelled,
            "abstains": model.abstains,
            "access": model.access.name.lower(),
            "fingerprint": recipe.fingerprint,
        },
        "data": {"name": data.name, "class_names": data.class_names},
        "pool": _pool(recipe),
        "versions": package_versions(),
        "engine": engine.describe(),
        "notes": list(notes),
    }


def _sources(attacks: Sequence[tuple[str, Attack[Any]]]) -> dict[str, str]:
    """By name, where attacks come from: in another norm one may be made of others."""
    parts: dict[str, dict[str, None]] = {}
    for name, attack in attacks:
        parts.setdefault(name, {}).update(dict.fromkeys(attack.source.split("; ")))
    return {name: "; ".join(each) for name, each in parts.items()}


@contextmanager
def recorded(
    folder: RunFolder, description: dict[str, Any], data: DataSet, monitor: Monitor
) -> Iterator[None]:
    """Keep run.json, the tables and summary.json true, however the run ends.

    Args:
        folder: Of the run.
        description: Of `describe`; what becomes known meanwhile may be added to it.
        data: To be evaluated.
        monitor: Told that the run begins.
    """
    if folder.earlier is not None:
        description["started"] = folder.earlier["started"]
        description["resumed"] = [*folder.earlier.get("resumed", []), _now()]
    folder.write("run.json", description)
    monitor.begin(_told(description))
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
            _conclude(folder, description, data)
        raise
    description["status"] = "complete"
    if folder.damaged:
        description["notes"].append(
            f"damaged on the disk and made anew: {', '.join(folder.damaged)}"
        )
    _conclude(folder, description, data)


def package_versions() -> dict[str, str]:
    """Versions of Python, robustkit and what it stands on, where installed."""
    versions = {
        "python": platform.python_version(),
        "system": platform.system(),
        # Its own, which a checkout has that nobody installed.
        "robustkit": __version__,
    }
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def _pool(recipe: Recipe) -> dict[str, str] | None:
    """What tells the pool from others; None: there is none."""
    if recipe.pool is None:
        return None
    digest = hashlib.sha256()
    for values in (recipe.pool, recipe.pool_classes):
        if values is not None:
            digest.update(f"{values.dtype} {values.shape}".encode())
            digest.update(np.ascontiguousarray(values).tobytes())
    return {"fingerprint": digest.hexdigest()}


def _conclude(folder: RunFolder, description: dict[str, Any], data: DataSet) -> None:
    description["finished"] = _now()
    description["data"]["fingerprint"] = data.fingerprint()
    folder.write_tables(whole=description["status"] == "complete")
    folder.write("run.json", description)
    folder.write("summary.json", Results(folder.path).summary())


def _told(description: Mapping[str, Any]) -> dict[str, str]:
    """The settings that trackers are told."""
    config = description["config"]
    return {
        "model": description["model"]["name"],
        "data": description["data"]["name"],
        "seed": str(config["seed"]),
        "budget": str(config["budget"]),
        **{
            f"{norm}/{name}": shown
            for norm, named in config["attacks"].items()
            for name, shown in named.items()
        },
    }


def _by_name(sizes: Mapping[Norm, Sequence[float]]) -> dict[str, list[float]]:
    return {repr(norm): list(of_norm) for norm, of_norm in sizes.items()}


def _name(given: Any) -> str | None:
    """What a command line could say instead of `given`."""
    return str(given) if isinstance(given, str | Path) else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
