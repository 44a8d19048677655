"""Problems of the verification competitions: `robustkit vnnlib`."""

import json
from pathlib import Path

import click

from robustkit.cli.ending import reporting_errors

__all__ = ["vnnlib_command"]


@click.command("vnnlib")
@click.argument("model", type=click.Path())
@click.argument("spec", type=click.Path())
@click.option(
    "--timeout",
    type=float,
    default=60.0,
    show_default=True,
    help="Seconds after which no new round of attacks is begun.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--out", type=click.Path(), help="Write the answer there, in competition format."
)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def vnnlib_command(
    model: str, spec: str, timeout: float, seed: int, out: str | None, as_json: bool
) -> None:
    """Attack the VNN-LIB problem SPEC on the ONNX network MODEL.

    Prints `sat` with a witness that onnxruntime confirms, or `unknown`: attacks prove
    nothing. SPEC may be compressed (.gz).

    \b
    Example:
      robustkit vnnlib mnist.onnx prop_7_0.03.vnnlib --timeout 120 --out result.txt
    """
    with reporting_errors(lambda: None):
        from robustkit.interop.vnnlib import falsify

        answer = falsify(model, spec, timeout=timeout, seed=seed)
        if out:
            Path(out).write_text(answer.text())
        if as_json:
            values = {
                "verdict": answer.verdict,
                "x": None if answer.x is None else answer.x.tolist(),
                "y": None if answer.y is None else answer.y.tolist(),
                "rounds": answer.rounds,
                "seconds": answer.seconds,
            }
            click.echo(json.dumps(values))
        else:
            click.echo(answer.text(), nl=False)
