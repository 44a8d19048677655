"""Settings from a file: TOML, or the run.json of an earlier run."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from robustkit.errors import BadInput, suggestion

__all__ = ["configurable", "options_of_run"]

_MOST = 2**20
"""Bytes of the largest file of settings."""

_SAME_NAME = (
    "target",
    "samples",
    "budget",
    "access",
    "batch_size",
    "seed",
    "bounds",
    "mean",
    "std",
    "device",
    "time_limit",
    "compiled",
    "cache",
)
"""Settings in run.json whose options have their names."""


def configurable(command: click.Command) -> click.Command:
    """Let a command's options come from a file and from the environment.

    Adds `--config FILE`, and for each option a variable: ROBUSTKIT_EVAL_BATCH_SIZE for
    `robustkit eval --batch-size`.
    """
    command.params.append(
        click.Option(
            ["--config"],
            type=click.Path(),
            metavar="FILE",
            is_eager=True,
            expose_value=False,
            callback=_read,
            help="Settings from a TOML file or a run.json, by the names of the "
            "options; what is typed, or set in the environment, goes before.",
        )
    )
    for option in command.params:
        if isinstance(option, click.Option):
            words = f"robustkit_{command.name}_{_name(option)}"
            option.envvar = words.replace("-", "_").upper()
    return command


def options_of_run(run: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `robustkit eval` that repeat a run, by name.

    Args:
        run: The contents of run.json.

    Raises:
        BadInput: It was made from Python objects, which have no names.

    >>> run = {"asked": {"model": "net.onnx", "data": "a.npz", "attacks": ["fmn"],
    ...                  "pool": None},
    ...        "config": {"norms": ["l2"], "epsilons": {"l2": [0.5, 1.0]},
    ...                   "criterion": None, "pool": None, "budget": 100}}
    >>> options_of_run(run)["epsilons"], options_of_run(run)["budget"]
    ({'l2': [0.5, 1.0]}, 100)
    """
    asked, config = run.get("asked"), run.get("config")
    if not isinstance(asked, dict) or not isinstance(config, dict):
        raise BadInput("a JSON file of settings must be the run.json of a run")
    # Here, since what it needs takes its time to import.
    from robustkit.evaluation.settings import nameless

    objects = nameless(run)
    if objects:
        raise BadInput(
            f"the run was made from Python objects ({', '.join(objects)}) that its "
            "run.json cannot name; repeat it from Python"
        )
    options = {
        "model": asked["model"],
        "data": asked["data"],
        "attacks": asked["attacks"],
        "pool": asked.get("pool"),
        "norm": config.get("norms"),
        # Those asked for, which attacks may know of; not the customary ones.
        "epsilons": asked.get("epsilons", config.get("epsilons")),
        # Of keys, the names of the variables that hold them.
        "header": config.get("headers"),
        "shard": "/".join(map(str, config["shard"])) if config.get("shard") else None,
        **{name: config.get(name) for name in _SAME_NAME},
    }
    return {name: value for name, value in options.items() if value is not None}


def _read(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> None:
    if value is None:
        return
    try:
        group = context.parent and context.parent.command
        commands = group.commands if isinstance(group, click.Group) else {}
        settings = _settings(Path(value), str(context.info_name), tuple(commands))
        known = {_name(p): p for p in context.command.params if p.name != "config"}
        defaults = {}
        for name, given in settings.items():
            place = name.replace("_", "-").lower()
            if place not in known:
                raise BadInput(
                    f"'{value}' sets '{name}', which `robustkit {context.info_name}` "
                    f"does not take; {suggestion(place, known)}"
                )
            option = known[place]
            defaults[str(option.name)] = _as_typed(option, given)
    except BadInput as error:
        click.echo(f"error: {error}", err=True)
        context.exit(2)
    context.default_map = {**(context.default_map or {}), **defaults}


def _settings(path: Path, command: str, commands: Sequence[str]) -> dict[str, Any]:
    """The settings that a file has for a command: its own table, or the whole file."""
    try:
        if path.stat().st_size > _MOST:
            raise BadInput(f"'{path}' is too large for a file of settings")
        text = path.read_bytes().decode("utf-8")
        if path.suffix.lower() == ".json":
            return options_of_run(json.loads(text))
        content = tomllib.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"cannot read the settings in '{path}': {error}") from error
    tables = {
        name: settings
        for name, settings in content.items()
        if name in commands and isinstance(settings, dict)
    }
    if not tables:
        return content
    for name in content.keys() - tables.keys():
        raise BadInput(
            f"'{path}' sets '{name}' outside of its tables by command "
            f"({', '.join(tables)}), where no command reads it; move it into one"
        )
    return tables.get(command, {})


def _name(parameter: click.Parameter) -> str:
    """What a file calls an option or an argument."""
    if isinstance(parameter, click.Option):
        longest = max(parameter.opts, key=len)
        return longest.lstrip("-")
    return str(parameter.name)


def _as_typed(parameter: click.Parameter, value: Any) -> Any:
    """A value of TOML or JSON as somebody would type it."""
    # Elsewhere it is a mistake, and as a number it would be one.
    if isinstance(value, bool) and getattr(parameter, "is_flag", False):
        return value
    if isinstance(value, dict):
        # For each norm, as in `--epsilons l2=0.5,1`.
        parts = [f"{name}={_joined(part)}" for name, part in value.items()]
        return parts if parameter.multiple else ",".join(parts)
    if parameter.nargs == -1:
        return list(map(str, value if isinstance(value, list) else [value]))
    if not parameter.multiple:
        return _joined(value)
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        # As often as it may be repeated; numbers belong together.
        return value
    return [_joined(value)]


def _joined(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
