"""How far an evaluation is, on standard error: a bar, lines, or JSON for tools."""

import contextlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from robustkit.evaluation.batch import Progress

__all__ = ["progress_bar", "progress_option", "say"]

_MODES = ("auto", "bar", "lines", "json", "none")
_KEY = "robustkit.progress"
_JSON_SECONDS = 1.0
"""Between two lines of JSON about the same attack on the same batch, at least."""


def _remember(context: click.Context, _: click.Parameter, value: str) -> None:
    context.meta[_KEY] = value


progress_option = click.option(
    "--progress",
    type=click.Choice(_MODES),
    default="auto",
    show_default=True,
    expose_value=False,
    callback=_remember,
    help="On standard error. auto: a bar on a terminal; elsewhere a line per batch and "
    "attack, or lines of JSON with --json.",
)
"""How a command says how far it is; read by `progress_bar` and `say`."""


@contextlib.contextmanager
def progress_bar() -> "Iterator[Callable[[Progress], None] | None]":
    """What to call with progress, in the way that the command was asked for."""
    context = click.get_current_context()
    mode = context.meta.get(_KEY, "auto")
    if mode == "auto":
        mode = "bar" if sys.stderr.isatty() else "lines"
        if context.params.get("as_json"):
            mode = "json"
    if mode == "none":
        yield None
    elif mode == "bar":
        with _bar() as update:
            yield update
    else:
        yield _lines() if mode == "lines" else _json()


def say(what: str) -> None:
    """A line about what is done beside the attacks, unless none was wanted."""
    if click.get_current_context().meta.get(_KEY) != "none":
        click.echo(what, err=True)


def _lines() -> "Callable[[Progress], None]":
    """A line for each attack on each batch."""
    last: list[tuple[int, str, str]] = []

    def line(progress: "Progress") -> None:
        at = (progress.first, progress.norm, progress.attack)
        if last != [at]:
            last[:] = [at]
            said = [_doing(progress), *_known(progress)]
            click.echo(", ".join(said), err=True)

    return line


def _json() -> "Callable[[Progress], None]":
    """An object per line, whenever another attack or batch begins, and each second."""
    last: list[Any] = [None, -math.inf]

    def line(progress: "Progress") -> None:
        at, now = (progress.first, progress.norm, progress.attack), time.monotonic()
        if last[0] == at and now - last[1] < _JSON_SECONDS:
            return
        last[:] = [at, now]
        said = {
            "event": "progress",
            "first_sample": progress.first,
            "samples": progress.samples,
            "norm": progress.norm,
            "attack": progress.attack,
            "share_of_batch": round(progress.share, 6),
            "share": progress.overall,
            "passes_per_second": progress.passes_per_second,
            "seconds_left": progress.seconds_left,
            "median": progress.median if math.isfinite(progress.median) else None,
        }
        click.echo(json.dumps(said, allow_nan=False), err=True)

    return line


@contextlib.contextmanager
def _bar() -> "Iterator[Callable[[Progress], None]]":
    """A bar for the batch at hand, and one for the whole run."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
    )
    from rich.progress import Progress as Bars

    columns = (
        # Names of attacks are no markup.
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[known]}", markup=False),
    )
    console = Console(stderr=True)
    with Bars(*columns, console=console, transient=True) as bars:
        batch = bars.add_task("looking at the model", total=1.0, known="")
        run = bars.add_task("all samples", total=None, known="")

        def update(progress: "Progress") -> None:
            bars.update(batch, description=_doing(progress), completed=progress.share)
            known = ", ".join(_known(progress, share=False))
            total = None if progress.overall is None else 1.0
            bars.update(run, total=total, completed=progress.overall or 0, known=known)

        yield update


def _doing(progress: "Progress") -> str:
    last = progress.first + progress.samples - 1
    return f"samples {progress.first}-{last}: {progress.norm} {progress.attack}"


def _known(progress: "Progress", share: bool = True) -> list[str]:
    """What can be said of the whole run."""
    said = []
    if share and progress.overall is not None:
        said.append(f"{100 * progress.overall:.0f} % done")
    if progress.passes_per_second is not None:
        said.append(f"{progress.passes_per_second:,.0f} passes/s")
    if progress.seconds_left is not None:
        said.append(f"{_duration(progress.seconds_left)} left")
    if not math.isnan(progress.median):
        shown = "none" if math.isinf(progress.median) else f"{progress.median:.3g}"
        said.append(f"median {shown}")
    return said


def _duration(seconds: float) -> str:
    """A time as people say it.

    >>> _duration(59), _duration(3720), _duration(200_000)
    ('59 s', '1 h 2 min', '2 d 7 h')
    """
    parts = [("d", 86400), ("h", 3600), ("min", 60), ("s", 1)]
    left = round(seconds)
    said: list[str] = []
    for unit, size in parts:
        if left >= size or (unit == "s" and not said):
            said.append(f"{left // size} {unit}")
            left %= size
    return " ".join(said[:2])
