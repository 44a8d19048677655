"""Kinds of options, and what several commands read alike."""

import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from robustkit.errors import BadInput

__all__ = [
    "Header",
    "Numbers",
    "Part",
    "Target",
    "bounds_option",
    "defaults",
    "device_option",
    "fresh_folder",
    "json_option",
    "model_options",
    "seed_option",
    "sizes",
    "split",
    "strict_option",
    "together",
    "two",
]

F = TypeVar("F", bound=Callable[..., Any])


def together(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one, in this order."""

    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


class Numbers(click.ParamType[tuple[float, ...]]):
    """Comma-separated numbers; fractions such as 8/255 are welcome."""

    name = "numbers"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(_number(part) for part in value.split(","))
        except (ValueError, ZeroDivisionError):
            self.fail(f"'{value}' is not a list of numbers such as 2/255,8/255")


class Header(click.ParamType[tuple[str, str]]):
    """A header and its value."""

    name = "name=value"

    def split_envvar_value(self, rv: str) -> list[str]:
        """Several, a line each, since there are blanks in headers."""
        return rv.splitlines()

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        name, equals, content = str(value).partition("=")
        if not (equals and name.strip()):
            # Not repeated here, since it may be a key.
            self.fail("expected NAME=VALUE, such as 'Authorization=Bearer ENV:API_KEY'")
        return name.strip(), content.strip()


class Target(click.ParamType[int | str]):
    """A class number, or a rule."""

    name = "class|random|least-likely"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        return int(value) if re.fullmatch(r"\d+", str(value)) else str(value)


class Part(click.ParamType[tuple[int, int]]):
    """One part of so many."""

    name = "i/n"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        part, slash, parts = str(value).partition("/")
        if not (slash and part.isdecimal() and parts.isdecimal()):
            self.fail(f"'{value}' is not a part of the data such as 3/16")
        return int(part), int(parts)


def json_option(what: str = "As JSON.") -> Callable[[F], F]:
    """`--json`, and what is printed then."""
    return click.option("--json", "as_json", is_flag=True, help=what)


seed_option = click.option("--seed", type=int, default=0, show_default=True)
"""`--seed`, of all randomness."""

strict_option = click.option(
    "--strict", is_flag=True, help="Exit with 3 if a finding invalidates the number."
)
"""`--strict`, for commands that make the checks."""

device_option = click.option("--device", help="For torch models, such as cuda:0.")
"""`--device`."""

bounds_option = click.option(
    "--bounds", type=Numbers(), help="Of valid inputs.  [default: 0,1]"
)
"""`--bounds`, which `two` reads."""

model_options = together(
    device_option,
    bounds_option,
    click.option("--mean", type=Numbers(), help="The model is shown (x - mean) / std."),
    click.option("--std", type=Numbers(), help="One number, or one per channel."),
)
"""How a model is opened: `--device`, `--bounds`, `--mean` and `--std`."""


def defaults(model: str | None, data: str | None) -> tuple[str, str]:
    """The names of model and data, those of the demo where none were given.

    Raises:
        BadInput: A model of the user's has no data.
    """
    if model is None:
        return "digits", data or "digits"
    if data is None:
        # A bare word can only be meant as a demo name, and is looked up as one.
        if ":" in model or Path(model).suffix:
            raise BadInput(
                f"no data to evaluate '{model}' on; name some with --data (file.npz, a "
                "folder of images, file.py:name, or the demo 'digits')"
            )
        data = "digits"
    return model, data


def fresh_folder(model: str) -> Path:
    """A run folder that does not exist yet, named by the time and the model."""
    stem = re.sub(r"[^A-Za-z0-9.-]+", "-", Path(model).name).strip("-.") or "model"
    # File systems take names of some 255 letters, and more is put behind this one.
    stem = stem[:100]
    base = Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-{stem}"
    folder, again = base, 1
    while folder.exists():
        again += 1
        folder = base.with_name(f"{base.name}-{again}")
    return folder


def sizes(
    epsilons: tuple[str, ...],
) -> tuple[float, ...] | dict[str, tuple[float, ...]] | None:
    """`--epsilons` as given: for all norms, or by norm."""
    if not epsilons:
        return None
    by_norm: dict[str, tuple[float, ...]] = {}
    for text in epsilons:
        norm = ""
        for part in text.split(","):
            # A name holds for the sizes behind it, up to the next one.
            name, equals, size = part.rpartition("=")
            norm = name.strip() if equals else norm
            by_norm[norm] = by_norm.get(norm, ()) + Numbers().convert(size, None, None)
    if set(by_norm) == {""}:
        return by_norm[""]
    if "" in by_norm:
        raise BadInput(
            "--epsilons was given both with and without a norm; name the norm of each "
            "size, as in --epsilons linf=2/255,8/255,l2=0.5"
        )
    return by_norm


def split(parts: tuple[str, ...]) -> list[str]:
    """An option that may be repeated, or hold several values with commas."""
    return [name for part in parts for name in part.split(",")]


def two(bounds: tuple[float, ...] | None) -> tuple[float, float] | None:
    """The two numbers of `--bounds`.

    Raises:
        BadInput: They are not two.
    """
    if bounds is None:
        return None
    if len(bounds) != 2:
        raise BadInput(f"--bounds takes two numbers, LO,HI; got {len(bounds)}")
    return bounds[0], bounds[1]


def _number(text: str) -> float:
    numerator, slash, denominator = text.partition("/")
    return float(numerator) / float(denominator) if slash else float(text)
