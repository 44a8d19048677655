"""The command line."""

import contextlib
import json
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from robustkit import __version__
from robustkit.errors import BadInput

if TYPE_CHECKING:
    from robustkit.evaluation.batch import Progress

__all__ = ["main"]

# Nothing heavy is imported at the top: `robustkit --help` answers at once.

_EVAL_HELP = """Find the smallest adversarial perturbation of every sample, verified.

MODEL is a demo name (digits, digits-robust), file.onnx, file.pt2 (torch.export), a
TorchScript file, path/to/file.py:name or package.module:name, or the address
(http://...) of a model that answers JSON. The name stands for a torch module, a
function on NumPy or JAX arrays, a foolbox or robustkit model, or a function without
arguments that returns one of these.

\b
Python files and modules RUN CODE: name only those you trust. Pickled checkpoints
are refused; load weights yourself with torch.load(..., weights_only=True).

\b
Examples:
  robustkit eval
  robustkit eval net.onnx --data test.npz --attacks boundary --norm l2
  robustkit eval model.py:build --data images/ --epsilons 2/255,8/255
  robustkit eval model.py:build --data test.npz --mean 0.5 --std 0.25 --budget 1000
"""


class _Numbers(click.ParamType[tuple[float, ...]]):
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


class _Target(click.ParamType[int | str]):
    """A class number, or a rule."""

    name = "class|random|least-likely"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        return int(value) if re.fullmatch(r"\d+", str(value)) else str(value)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="robustkit")
def main() -> None:
    """How robust a classifier really is, and proof that the answer holds."""


@main.command("eval", help=_EVAL_HELP)
@click.argument("model", required=False)
@click.option(
    "--data",
    metavar="DATA",
    help="A demo name (digits), file.npz with x and y, a folder of images with one "
    "subfolder per class, or file.py:name.",
)
@click.option(
    "--norm",
    "norms",
    multiple=True,
    help="l0, l0-pixels, l1, l2 or linf; may be repeated.  [default: linf]",
)
@click.option(
    "--attacks",
    default="auto",
    show_default=True,
    metavar="NAME,...",
    help="See `robustkit attacks`; foolbox:NAME for foolbox's.",
)
@click.option(
    "--epsilons",
    multiple=True,
    metavar="[NORM=]E,...",
    help="Sizes at which to state robust accuracy, such as 2/255,8/255 or l2=0.5,1.",
)
@click.option("--target", type=_Target(), help="Class to be reached instead of any.")
@click.option("--samples", type=int, help="Evaluate so many of the data.")
@click.option("--budget", type=int, help="Model passes per sample and attack.")
@click.option(
    "--access",
    type=click.Choice(["gradient", "score", "decision"]),
    default="gradient",
    show_default=True,
    help="Use no more of the model than this.",
)
@click.option("--batch-size", type=int, default=128, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--device", help="For torch models, such as cuda:0.")
@click.option("--bounds", type=_Numbers(), help="Of valid inputs.  [default: 0,1]")
@click.option("--mean", type=_Numbers(), help="The model is shown (x - mean) / std.")
@click.option("--std", type=_Numbers(), help="One number, or one per channel.")
@click.option(
    "--pool",
    metavar="DATA",
    help="Other inputs that attacks may start from; results then depend on them.",
)
@click.option(
    "--out", type=click.Path(), help="Run folder.  [default: runs/TIME-MODEL]"
)
@click.option("--json", "as_json", is_flag=True, help="Print summary.json only.")
def evaluate_command(
    model: str | None,
    data: str | None,
    norms: tuple[str, ...],
    attacks: str,
    epsilons: tuple[str, ...],
    out: str | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """See _EVAL_HELP."""
    with _reporting_errors(lambda: folder if fresh else None):
        folder = Path(out) if out else None
        fresh = folder is None or not folder.exists() or not any(folder.iterdir())
        model, data = _defaults(model, data)
        bounds = settings.pop("bounds")
        if bounds is not None and len(bounds) != 2:
            raise BadInput(f"--bounds takes two numbers, LO,HI; got {len(bounds)}")
        folder = folder or _fresh_folder(model)
        arguments = {
            "norm": [part for norm in norms for part in norm.split(",")] or ["linf"],
            "attacks": attacks.split(","),
            "epsilons": _sizes(epsilons),
            "bounds": bounds,
            "out": folder,
            **settings,
        }
        from rich.console import Console

        from robustkit.evaluation.evaluate import evaluate
        from robustkit.evaluation.results import Results
        from robustkit.report.table import print_results

        try:
            with _progress_bar() as progress:
                results = evaluate(model, data, progress=progress, **arguments)
        except BaseException:
            # A report of what was finished; why it is no more, is said by the error.
            with contextlib.suppress(Exception):
                Results(folder).report()
            raise
        report = results.report()
        if as_json:
            click.echo((folder / "summary.json").read_text(), nl=False)
            return
        print_results(results, Console())
        click.echo(f"\nreport: {report}")


@main.command("attacks")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def attacks_command(as_json: bool) -> None:
    """List every attack with its norms, access, cost per step and source."""
    with _reporting_errors(lambda: None):
        from robustkit.registry import attack_names, get_attack

        attacks = {name: get_attack(name) for name in attack_names()}
        if as_json:
            listing = [
                {
                    "name": name,
                    "norms": sorted(attack.norms),
                    "access": attack.access.name.lower(),
                    "cost_per_step": attack.cost,
                    "source": attack.source,
                }
                for name, attack in attacks.items()
            ]
            click.echo(json.dumps(listing, indent=2))
            return
        for name, attack in attacks.items():
            norms = " ".join(sorted(attack.norms))
            click.echo(f"{name:16} {attack.access.name.lower():9} {norms}")
            click.echo(f"{'':16} per step: {attack.cost}")
            click.echo(f"{'':16} {attack.source}")
        click.echo("and foolbox:NAME for the attacks of foolbox, where it is installed")


@main.command("doctor")
def doctor_command() -> None:
    """Print versions, and the frameworks and devices found."""
    with _reporting_errors(lambda: None):
        from robustkit.evaluation.evaluate import package_versions

        for package, found in package_versions().items():
            click.echo(f"{package:12} {found}")
        import torch

        devices = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        if torch.backends.mps.is_available():
            devices.append("mps")
        click.echo(
            f"{'torch sees':12} {', '.join(devices)}; {torch.get_num_threads()} threads"
        )
        with contextlib.suppress(ImportError):
            import jax

            click.echo(f"{'jax sees':12} {', '.join(map(str, jax.devices()))}")
        with contextlib.suppress(ImportError):
            import onnxruntime

            providers = onnxruntime.get_available_providers()
            click.echo(f"{'onnxruntime':12} {', '.join(providers)}")


def _defaults(model: str | None, data: str | None) -> tuple[str, str]:
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


def _fresh_folder(model: str) -> Path:
    stem = re.sub(r"[^A-Za-z0-9.-]+", "-", Path(model).name).strip("-.") or "model"
    base = Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-{stem}"
    folder, again = base, 1
    while folder.exists():
        again += 1
        folder = base.with_name(f"{base.name}-{again}")
    return folder


def _sizes(
    epsilons: tuple[str, ...],
) -> tuple[float, ...] | dict[str, tuple[float, ...]] | None:
    """`--epsilons` as given: for all norms, or by norm."""
    if not epsilons:
        return None
    by_norm: dict[str, tuple[float, ...]] = {}
    for text in epsilons:
        norm, _, sizes = text.rpartition("=")
        by_norm[norm] = by_norm.get(norm, ()) + _Numbers().convert(sizes, None, None)
    if set(by_norm) == {""}:
        return by_norm[""]
    if "" in by_norm:
        raise BadInput(
            "--epsilons was given both with and without a norm; name the norm each "
            "time, as in --epsilons linf=8/255 --epsilons l2=0.5"
        )
    return by_norm


def _number(text: str) -> float:
    numerator, slash, denominator = text.partition("/")
    return float(numerator) / float(denominator) if slash else float(text)


@contextlib.contextmanager
def _reporting_errors(folder: Callable[[], Path | None]) -> Iterator[None]:
    """Every end of a command as one message and an exit code."""

    def kept() -> str:
        place = folder()
        return f"; what was finished is in {place}" if place and place.exists() else ""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: click.echo(
                f"warning: {message}", err=True
            )
            yield
    except BadInput as error:
        click.echo(f"error: {error}{kept()}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        click.echo(f"interrupted{kept()}", err=True)
        sys.exit(130)
    except (click.ClickException, click.exceptions.Exit):
        raise
    except BrokenPipeError:
        sys.exit(1)
    except Exception as error:
        import traceback

        place = folder()
        where = ""
        if place and place.exists():
            with contextlib.suppress(OSError):
                (place / "error.txt").write_text(traceback.format_exc())
                where = f"; the full trace is in {place / 'error.txt'}"
        click.echo(
            f"unexpected error: {type(error).__name__}: {error}{kept()}{where}",
            err=True,
        )
        if not where:
            click.echo(traceback.format_exc(), err=True)
        sys.exit(1)
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextlib.contextmanager
def _progress_bar() -> "Iterator[Callable[[Progress], None]]":
    """A bar on a terminal, a line per batch and attack elsewhere; both to stderr."""
    if not sys.stderr.isatty():
        last: list[tuple[int, str, str]] = []

        def line(progress: "Progress") -> None:
            at = (progress.first, progress.norm, progress.attack)
            if last != [at]:
                last[:] = [at]
                click.echo(_doing(progress), err=True)

        yield line
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
    )
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    console = Console(stderr=True)
    with Bars(*columns, TimeElapsedColumn(), console=console, transient=True) as bars:
        task = bars.add_task("looking at the model", total=1.0)
        yield lambda progress: bars.update(
            task, description=_doing(progress), completed=progress.share
        )


def _doing(progress: "Progress") -> str:
    last = progress.first + progress.samples - 1
    return f"samples {progress.first}-{last}: {progress.norm} {progress.attack}"
