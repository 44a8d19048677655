"""Can a number be believed? `check`, `test` and `exact`."""

import json
import math
import sys
from typing import Any

import click

from robustkit.cli.ending import reporting_errors
from robustkit.cli.options import (
    Numbers,
    bounds_option,
    defaults,
    json_option,
    model_options,
    seed_option,
    strict_option,
    two,
)
from robustkit.cli.output import prints_aside
from robustkit.errors import BadInput

__all__ = ["check_command", "exact_command", "test_command"]

_TEST_HELP = """Test whether an attack finds adversarials that are known to exist.

The last layer of MODEL is replaced, for each input, by one that calls a known point
within epsilon adversarial (the binarization test of Zimmermann et al., 2022). An attack
that misses such points says little about the model itself. Prints the verdict and a
paragraph for an appendix. MODEL and DATA are those of `robustkit eval`.

\b
Exit codes: 0 PASS; 3 FAIL; 4 INCONCLUSIVE, UNINFORMATIVE or INVALID; 2 bad input.

\b
Examples:
  robustkit test digits --epsilon 0.1
  robustkit test model.py:build --data test.npz --attack pgd --norm linf --epsilon 8/255
  robustkit test model.py:build --data test.npz --epsilon 8/255 --features layer4
"""


@click.command("check")
@click.argument("model", required=False)
@click.option("--data", metavar="DATA", help="As for `eval`.")
@click.option(
    "--run", type=click.Path(), help="A run of that model; its attacks are compared."
)
@click.option(
    "--epsilon",
    type=Numbers(),
    help="A customary change of every feature.  [default: 8/255 of the bounds' width]",
)
@click.option(
    "--samples",
    type=int,
    default=64,
    show_default=True,
    help="To ask the model about, some 30 passes each.",
)
@click.option(
    "--trials",
    type=click.IntRange(min=0),
    default=32,
    show_default=True,
    help="So many of them a plain attack is tried on, up to 300 passes each.",
)
@click.option(
    "--undefended",
    metavar="MODEL",
    help="The same model without its defense: the plain attack must break that.",
)
@seed_option
@model_options
@strict_option
@json_option()
def check_command(
    model: str | None,
    data: str | None,
    epsilon: tuple[float, ...] | None,
    bounds: tuple[float, ...] | None,
    strict: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Look for the symptoms of an evaluation that fools itself.

    Masked or misleading gradients, randomness, outputs that hide what they should show,
    attacks that did not do their work: each finding comes with its evidence and with
    what to do. MODEL and DATA are as for `robustkit eval`, and run code as there.

    \b
    Examples:
      robustkit check
      robustkit check model.py:build --data test.npz --strict
      robustkit check model.py:build --data test.npz --run runs/mine --json
    """
    with reporting_errors(lambda: None):
        if settings["run"] is not None and model is None:
            raise BadInput(
                "name the model that the run is held against, and its data: robustkit "
                f"check MODEL --data DATA --run {settings['run']}"
            )
        model, data = defaults(model, data)
        box = two(bounds)
        if epsilon is not None and len(epsilon) != 1:
            raise BadInput(f"--epsilon takes one number; got {len(epsilon)}")
        from rich.console import Console

        from robustkit.checks.check import check
        from robustkit.report.terminal import print_findings

        with prints_aside():
            found = check(
                model, data, epsilon=epsilon and epsilon[0], bounds=box, **settings
            )
        if as_json:
            click.echo(json.dumps(found.to_json(), indent=2))
        else:
            print_findings(found, Console())
    if strict and found.invalid:
        sys.exit(3)


@click.command("test", help=_TEST_HELP)
@click.argument("model", required=False)
@click.option(
    "--data", metavar="DATA", help="As for `robustkit eval`; labels are unused."
)
@click.option("--attack", default="auto", show_default=True, metavar="NAME")
@click.option("--norm", default="linf", show_default=True)
@click.option(
    "--epsilon",
    type=Numbers(),
    required=True,
    metavar="E",
    help="Size of the adversarials known to exist, such as 8/255.",
)
@click.option(
    "--features", metavar="LAYER", help="Layer to build on.  [default: the logits]"
)
@click.option(
    "--mode",
    type=click.Choice(["standard", "hard", "logistic"]),
    default="standard",
    show_default=True,
)
@click.option(
    "--detector", metavar="FILE.py:NAME", help="A function from inputs to scores."
)
@click.option("--inverted", is_flag=True, help="Adversarial is what is detected.")
@click.option("--votes", type=int, default=1, show_default=True, help="If random.")
@click.option("--samples", type=int, default=128, show_default=True)
@click.option("--budget", type=int, help="Model passes per sample.")
@seed_option
@model_options
@json_option("Print JSON only.")
def test_command(
    model: str | None,
    data: str | None,
    attack: str,
    epsilon: tuple[float, ...],
    detector: str | None,
    samples: int,
    bounds: tuple[float, ...] | None,
    device: str | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """See _TEST_HELP."""
    with reporting_errors(lambda: None):
        model, data = defaults(model, data)
        if len(epsilon) != 1:
            raise BadInput(f"--epsilon takes one number; got {len(epsilon)}")
        box = two(bounds)
        import numpy as np

        from robustkit.active_tests.binarization import active_test
        from robustkit.evaluation.opening import model_and_data
        from robustkit.models.user_code import import_object, neighbours_importable
        from robustkit.numerics.bounds import Bounds

        valid = None if box is None else Bounds(*box)
        with prints_aside():
            adapted, dataset = model_and_data(
                model, data, valid, samples, device=device, mean=mean, std=std
            )
            if detector is not None:
                with neighbours_importable(detector):
                    settings["detector"] = import_object(detector)
            result = active_test(
                adapted,
                np.concatenate([x for x, _ in dataset.batches(samples)]),
                attack,
                epsilon=epsilon[0],
                samples=samples,
                **settings,
            )
        click.echo(
            result.to_json() if as_json else f"{result.verdict}\n\n{result.paragraph()}"
        )
    sys.exit({"PASS": 0, "FAIL": 3}.get(result.verdict, 4))


@click.command("exact")
@click.argument("model")
@click.option("--data", help="As for `robustkit eval`.")
@click.option("--norm", default="linf", show_default=True, help="linf, l1 or l0.")
@click.option(
    "--timeout",
    type=float,
    default=60.0,
    show_default=True,
    help="Seconds for each sample.",
)
@click.option("--samples", type=int, help="So many of the data.")
@click.option(
    "--target", type=int, help="Class to be reached; its samples are left out."
)
@bounds_option
@seed_option
@json_option()
def exact_command(
    model: str, data: str | None, samples: int | None, as_json: bool, **settings: Any
) -> None:
    """Compute the smallest adversarial perturbation of each sample exactly.

    By mixed-integer programs, for small networks: MODEL is a torch module or an ONNX
    file of ReLUs and affine layers, one after the other. Where time is up, an interval
    that is certain to hold the answer. MODEL and DATA run code as in `robustkit eval`.

    \b
    Example:
      robustkit exact model.py:build --data test.npz --norm linf --samples 10
    """
    with reporting_errors(lambda: None):
        from robustkit.active_tests.exact import exact_distances

        model, data = defaults(model, data)
        bounds = two(settings.pop("bounds"))
        header = f"{'sample':>6} {'label':>5} {'lower':>12} {'upper':>12}"
        rows = []
        output = sys.stdout
        with prints_aside():
            found = exact_distances(
                model, data, bounds=bounds, samples=samples, **settings
            )
            for place, label, result in found:
                if as_json:
                    rows.append(
                        {
                            "sample": place,
                            "label": label,
                            "lower": _finite(result.lower),
                            "upper": _finite(result.upper),
                            "status": result.status,
                            "seconds": round(result.seconds, 3),
                        }
                    )
                    continue
                if header:
                    click.echo(f"{header}  {'status':13} {'seconds':>7}", output)
                    header = ""
                click.echo(
                    f"{place:6} {label:5} {result.lower:12.7g} {result.upper:12.7g}  "
                    f"{result.status:13} {result.seconds:7.1f}",
                    output,
                )
        if as_json:
            click.echo(json.dumps(rows, indent=2))


def _finite(value: float) -> float | None:
    """A number as JSON has it: infinity is null."""
    return value if math.isfinite(value) else None
