"""How to get the same results again, and how to name them in a paper."""

import inspect
import shlex
from typing import Any

from robustkit.evaluation.evaluate import evaluate
from robustkit.evaluation.settings import default_epsilons, nameless
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.norms import get_norm
from robustkit.report import words

__all__ = ["bibtex", "citation", "command", "methods", "python_call"]

_ARGUMENTS = inspect.signature(evaluate).parameters
_SHOWN = (
    "target",
    "samples",
    "budget",
    "access",
    "batch_size",
    "bounds",
    "mean",
    "std",
    "device",
    "shard",
    "time_limit",
    "compiled",
    "cache",
)
"""Settings that are said as run.json has them, in this order."""

# What need not be said.
_DEFAULTS = {name: _ARGUMENTS[name].default for name in _SHOWN} | {
    # As run.json has them.
    "access": "gradient",
    "bounds": [0.0, 1.0],
}


def command(run: dict[str, Any]) -> str | None:
    """The command line that repeats a run; None where it used Python objects.

    Args:
        run: The contents of run.json.
    """
    asked, config = run["asked"], run["config"]
    if nameless(run):
        return None
    words = ["robustkit", "eval", asked["model"], "--data", asked["data"]]
    for norm in config["norms"]:
        words += ["--norm", norm]
    attacks = asked["attacks"]
    words += ["--attacks", attacks if isinstance(attacks, str) else ",".join(attacks)]
    for norm, sizes in _epsilons(run).items():
        words += ["--epsilons", f"{norm}={_numbers(sizes)}"]
    for name, value in _settings(config).items():
        shown = _numbers(value) if isinstance(value, list) else str(value)
        if name == "shard":
            shown = "/".join(map(str, value))
        words += [f"--{name.replace('_', '-')}"]
        words += [] if value is True else [shown]
    for name, value in (config.get("headers") or {}).items():
        # The variable that holds a key, not the key.
        words += ["--header", f"{name}={value}"]
    if asked["pool"]:
        words += ["--pool", asked["pool"]]
    return shlex.join([*words, "--seed", str(config["seed"])])


def python_call(run: dict[str, Any]) -> str:
    """The Python call that repeats a run, with names for the objects it used."""
    asked, config = run["asked"], run["config"]
    model = repr(asked["model"]) if asked["model"] else "model"
    data = repr(asked["data"]) if asked["data"] else "(x, y)"
    arguments = [model, data, f"norm={config['norms']!r}"]
    if asked["attacks"]:
        arguments.append(f"attacks={asked['attacks']!r}")
    else:
        named = {k: a for n in config["attacks"].values() for k, a in n.items()}
        shown = ", ".join(f"{name!r}: {attack}" for name, attack in named.items())
        arguments.append(f"attacks={{{shown}}}")
    epsilons = _epsilons(run)
    if epsilons:
        arguments.append(f"epsilons={epsilons!r}")
    if config["criterion"]:
        # A lambda, say, has no name that Python reads.
        named = config["criterion"].isidentifier()
        arguments.append(f"criterion={config['criterion'] if named else 'criterion'}")
    for name, value in _settings(config).items():
        arguments.append(f"{name}={value!r}")
    if config.get("headers"):
        arguments.append(f"headers={config['headers']!r}")
    if config["pool"]:
        arguments.append(f"pool={asked['pool']!r}" if asked["pool"] else "pool=pool")
    arguments.append(f"seed={config['seed']}")
    lines = "".join(f"    {argument},\n" for argument in arguments)
    return f"import robustkit as rk\n\nresults = rk.evaluate(\n{lines})"


def methods(run: dict[str, Any], summary: dict[str, Any]) -> str:
    """A paragraph for a paper that says what was run, with its exact settings.

    Args:
        run: The contents of run.json.
        summary: The contents of summary.json.
    """
    config, model, data = run["config"], run["model"], run["data"]
    attacks = "; ".join(
        f"{words.norm_name(norm)}: "
        + ", ".join(
            f"{name} [{shown}]"
            + (f" ({run['sources'][name]})" if run["sources"].get(name) else "")
            for name, shown in named.items()
        )
        for norm, named in config["attacks"].items()
    )
    lower, upper = config["bounds"]
    settings = {"budget": None, "target": None, "criterion": None, **_settings(config)}
    said = ", ".join(
        f"{name.replace('_', ' ')} {value}"
        for name, value in settings.items()
        if value is not None and name not in ("samples", "bounds", "access", "cache")
    )
    known = [
        f"{what} fingerprint {value[:16]}"
        for what, value in (
            ("model", model["fingerprint"]),
            ("data", data.get("fingerprint")),
        )
        if value
    ]
    versions = ", ".join(
        f"{k} {v}" for k, v in run["versions"].items() if k != "system"
    )
    return (
        f"The smallest adversarial perturbations of {summary['samples']:,} samples of "
        f"{data['name']} were sought for {model['name']} with robustkit "
        f"{run['versions']['robustkit']}, inputs in [{lower:g}, {upper:g}], with "
        f"{config['access']} access, seed {config['seed']}"
        + (f", {said}" if said else "")
        + f". The nearest adversarial of all attacks counts, each confirmed by a fresh "
        f"forward pass. Attacks and their settings: {attacks}. "
        + (f"{'; '.join(known)}. ".capitalize() if known else "")
        + f"Versions: {versions}."
        + (
            ""
            if run["status"] == "complete"
            else f" The run is not complete ({run['status']})."
        )
    )


def citation(run: dict[str, Any], summary: dict[str, Any]) -> str:
    """All that a paper needs to name a run: methods, how to repeat it, and an entry.

    Args:
        run: The contents of run.json.
        summary: The contents of summary.json.
    """
    again = command(run) or python_call(run).rstrip()
    entry = bibtex(run["versions"]["robustkit"], run["started"][:4])
    return f"{methods(run, summary)}\n\nTo repeat it:\n\n{again}\n\n{entry}\n"


def bibtex(version: str, year: str) -> str:
    """An entry for the software itself."""
    return (
        "@software{robustkit,\n"
        "  title   = {robustkit},\n"
        f"  version = {{{version}}},\n"
        f"  year    = {{{year}}},\n"
        "}"
    )


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    return {
        name: config[name]
        for name, default in _DEFAULTS.items()
        if config.get(name, default) != default
    }


def _epsilons(run: dict[str, Any]) -> dict[str, list[float]]:
    """Those that were asked for, even customary ones: attacks may know of them."""
    asked, config = run["asked"], run["config"]
    if "epsilons" in asked:
        return asked["epsilons"] or {}
    # Versions before did not keep them.
    bounds = Bounds(*config["bounds"])
    return {
        norm: sizes
        for norm, sizes in config["epsilons"].items()
        if tuple(sizes) != default_epsilons(get_norm(norm), bounds)
    }


def _numbers(values: list[float]) -> str:
    return ",".join(map(_number, values))


def _number(value: float) -> str:
    """A number that reads back as the same one, as k/255 where it is that."""
    levels = round(255 * value)
    if 0 < levels < 255 and levels / 255 == value:
        return f"{levels}/255"
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)
