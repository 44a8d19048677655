"""Problems of the verification competitions: `vnnlib`, and `eval --vnnlib`."""

import json
from collections.abc import Sequence
from pathlib import Path

import click

from robustkit.cli.ending import reporting_errors
from robustkit.cli.options import json_option, seed_option
from robustkit.errors import BadInput

__all__ = ["TIMEOUT", "answer_specs", "vnnlib_command"]

TIMEOUT = 60.0
"""Seconds for a problem, where nothing else was asked for."""


@click.command("vnnlib")
@click.argument("model", type=click.Path())
@click.argument("specs", nargs=-1, required=True, type=click.Path())
@click.option(
    "--timeout",
    type=float,
    default=TIMEOUT,
    show_default=True,
    help="Seconds after which no new round of attacks is begun, for each SPEC.",
)
@seed_option
@click.option(
    "--out",
    type=click.Path(),
    help="Write the answer there, in competition format; of several, a folder.",
)
@json_option("As JSON, a line for each SPEC.")
def vnnlib_command(
    model: str,
    specs: tuple[str, ...],
    timeout: float,
    seed: int,
    out: str | None,
    as_json: bool,
) -> None:
    """Attack the VNN-LIB problems SPECS on the ONNX network MODEL.

    Prints `sat` with a witness that onnxruntime confirms, or `unknown`: attacks prove
    nothing. A SPEC may be compressed (.gz). `robustkit eval MODEL --vnnlib SPEC` does
    the same.

    \b
    Examples:
      robustkit vnnlib mnist.onnx prop_7_0.03.vnnlib --timeout 120 --out result.txt
      robustkit vnnlib mnist.onnx specs/*.vnnlib --out results
    """
    with reporting_errors(lambda: None):
        answer_specs(model, specs, timeout=timeout, seed=seed, out=out, as_json=as_json)


def answer_specs(
    model: str,
    specs: Sequence[str],
    *,
    timeout: float,
    seed: int,
    out: str | None,
    as_json: bool,
) -> None:
    """Print the answer to each spec as soon as it is there, and keep it in `out`.

    Raises:
        BadInput: Network or specs cannot be read or do not fit together, two answers
            would have the same name, or one cannot be written.
    """
    from robustkit.interop.vnnlib import falsify, read_spec

    files = _files(specs, out)
    # A mistake in the last is said before hours are spent on the first.
    problems = [read_spec(spec) for spec in specs]
    for spec, problem, file in zip(specs, problems, files, strict=True):
        answer = falsify(model, problem, timeout=timeout, seed=seed)
        if file is not None:
            _write(file, answer.text())
        if as_json:
            values = {
                "spec": spec,
                "verdict": answer.verdict,
                "x": None if answer.x is None else answer.x.tolist(),
                "y": None if answer.y is None else answer.y.tolist(),
                "exact": answer.exact,
                "rounds": answer.rounds,
                "seconds": answer.seconds,
            }
            click.echo(json.dumps(values))
        else:
            # What VNN-LIB files have for comments.
            name = f"; {spec}\n" if len(specs) > 1 else ""
            click.echo(name + answer.text(), nl=False)


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text)
    except OSError as error:
        raise BadInput(f"cannot write the answer to '{file}': {error}") from error


def _files(specs: Sequence[str], out: str | None) -> list[Path | None]:
    """Where each answer goes; the folder for several is made."""
    if out is None:
        return [None] * len(specs)
    folder = Path(out)
    if len(specs) == 1:
        if folder.is_dir():
            raise BadInput(
                f"the answer to one spec goes to a file; '{out}' is a folder"
            )
        if not folder.parent.is_dir():
            raise BadInput(
                f"there is no folder '{folder.parent}' for the answer '{folder.name}'; "
                "make it, or name another file with --out"
            )
        return [folder]
    names = [
        Path(spec).name.removesuffix(".gz").removesuffix(".vnnlib") for spec in specs
    ]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BadInput(
            f"several specs are named {', '.join(twice)}, and so would their answers "
            f"be in '{out}'; answer them one by one"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot make the folder '{out}': {error}") from error
    return [folder / f"{name}.txt" for name in names]
