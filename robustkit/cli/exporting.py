"""From run folders to other tools: `export`."""

from pathlib import Path

import click

from robustkit.cli.ending import reporting_errors
from robustkit.errors import BadInput

__all__ = ["export_command"]


@click.command("export")
@click.argument("run", type=click.Path())
@click.option(
    "--npz", is_flag=True, help="NORM.npz with x, y, index, distance, attack."
)
@click.option("--images", is_flag=True, help="Folders of PNG files, one per class.")
@click.option("--hf", is_flag=True, help="A data set for the Hugging Face hub.")
@click.option(
    "--citation",
    is_flag=True,
    help="Print a paragraph with the exact settings, and a BibTeX entry.",
)
@click.option(
    "--out",
    type=click.Path(),
    metavar="DIR",
    help="Folder to write; must not exist or be empty.  [default: RUN-npz, -images, "
    "-hf]",
)
def export_command(
    run: str, npz: bool, images: bool, hf: bool, citation: bool, out: str | None
) -> None:
    """Write the adversarials of RUN in a form that other tools read.

    --npz and --images are data for `robustkit eval --data` too, to see what another
    model makes of them. Nothing is sent anywhere.

    \b
    Examples:
      robustkit export runs/mine --npz
      robustkit export runs/mine --hf --out dataset
      robustkit export runs/mine --citation > citation.txt
    """
    forms = {"npz": npz, "images": images, "hf": hf, "citation": citation}
    with reporting_errors(lambda: None):
        asked = [name for name, given in forms.items() if given]
        if len(asked) != 1:
            raise BadInput(
                "name one form: --npz, --images, --hf or --citation; got "
                f"{' and '.join(f'--{name}' for name in asked) or 'none'}"
            )
        from robustkit.evaluation.results import Results
        from robustkit.report import export, reproduce

        results = Results(run)
        if citation:
            said = reproduce.citation(results.run, results.summary())
            click.echo(said, nl=False)
            return
        write = getattr(export, f"export_{asked[0]}")
        place = Path(run).resolve()
        folder = Path(out) if out else place.with_name(f"{place.name}-{asked[0]}")
        for path in write(results, folder):
            click.echo(path)
