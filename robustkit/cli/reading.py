"""Of run folders that are there: `compare` and `verify`."""

import json
import sys
from pathlib import Path

import click

from robustkit.cli.ending import reporting_errors
from robustkit.cli.options import Header, device_option, json_option
from robustkit.cli.output import prints_aside

__all__ = ["compare_command", "verify_command"]

# How much of what is wrong with a claim is shown.
_LINES = 10


@click.command("compare")
@click.argument("runs", nargs=-1, required=True, type=click.Path())
@json_option()
@click.option(
    "--page", type=click.Path(), metavar="FILE", help="Also write it as an HTML page."
)
def compare_command(runs: tuple[str, ...], as_json: bool, page: str | None) -> None:
    """Compare RUNS sample by sample, each with the first, and all their attacks.

    For models on the same data, or for attacks on one model: the difference of robust
    accuracies with its interval and test, the ratio of distances, and how near each
    attack comes to the nearest of all, in the end and after equally many passes,
    forward and backward ones together.

    \b
    Examples:
      robustkit compare runs/before runs/after
      robustkit compare runs/one --json
      robustkit compare runs/one runs/two --page comparison.html
    """
    with reporting_errors(lambda: None):
        from rich.console import Console

        from robustkit.evaluation.compare import compare
        from robustkit.report.terminal import print_comparison

        found = compare(runs)
        if page is not None:
            from robustkit.evaluation.results import Results
            from robustkit.report import write_page
            from robustkit.report.content import gather

            content = gather([Results(run) for run in runs])
            written = write_page(content, Path(page), comparison_only=True)
            click.echo(written, err=True)
        if as_json:
            click.echo(json.dumps(found.to_json(), indent=2))
        else:
            print_comparison(found, Console())


@click.command("verify")
@click.argument("run")
@click.option("--model", required=True, help="What was evaluated, as for `eval`.")
@click.option("--data", required=True, help="What it was evaluated on, likewise.")
@device_option
@click.option(
    "--header",
    "headers",
    type=Header(),
    multiple=True,
    help="Sent to an address, as for `eval`; those of RUN are not.",
)
@click.option(
    "--rounded",
    is_flag=True,
    help="Also count the adversarials that remain after rounding to 256 levels.",
)
@json_option()
def verify_command(
    run: str,
    model: str,
    data: str,
    device: str | None,
    headers: tuple[tuple[str, str], ...],
    rounded: bool,
    as_json: bool,
) -> None:
    """Recompute what the run folder RUN claims, without any attack.

    Every adversarial is shown to the model again, and every distance, the curve and the
    summary are computed anew. Exit code 0 if all of it holds, 3 if a claim does not.
    MODEL and DATA run code as in `robustkit eval`; nothing that RUN names is run.

    \b
    Examples:
      robustkit verify runs/theirs --model model.py:build --data test.npz
      robustkit verify runs/theirs --model net.onnx --data images/ --rounded --json
    """
    with reporting_errors(lambda: None):
        from robustkit.evaluation.audit import verify

        with prints_aside():
            audit = verify(
                run,
                model,
                data,
                device=device,
                headers=dict(headers) or None,
                rounded=rounded,
            )
        if as_json:
            click.echo(json.dumps(audit.to_json(), indent=2))
        else:
            for claim in audit.claims:
                verdict = "holds" if claim.holds else "BROKEN"
                click.echo(f"{verdict:7} {claim.name} ({claim.checked} checked)")
                lines = [*claim.broken, *claim.notes]
                for line in lines[:_LINES]:
                    click.echo(f"{'':8}{line}")
                if len(lines) > _LINES:
                    click.echo(f"{'':8}{len(lines) - _LINES} more; --json lists all")
    if not audit.holds:
        sys.exit(3)
