"""From run folders to what people read: `report`."""

from pathlib import Path

import click

from robustkit.cli.ending import reporting_errors
from robustkit.cli.output import prints_aside
from robustkit.errors import BadInput

__all__ = ["report_command"]


@click.command("report")
@click.argument("runs", nargs=-1, required=True, type=click.Path())
@click.option(
    "--out",
    type=click.Path(),
    metavar="DIR|FILE.html",
    help="Folder for the page and figures, or the page alone.  [default: the run "
    "folder; of several runs, report]",
)
@click.option(
    "--data",
    metavar="DATA",
    help="What was evaluated, so that pictures are chosen from all samples; as for "
    "`eval`, and RUNS CODE as there.",
)
@click.option("--markdown", is_flag=True, help="Print it as Markdown instead.")
@click.option("--latex", is_flag=True, help="Print its tables for LaTeX instead.")
@click.option(
    "--checklist",
    is_flag=True,
    help="Print a reviewer's checklist instead, filled in as far as each run allows.",
)
@click.option(
    "--figures",
    metavar="png|svg|pdf,...",
    help="Also write every figure for print, in these formats.",
)
def report_command(
    runs: tuple[str, ...],
    out: str | None,
    data: str | None,
    markdown: bool,
    latex: bool,
    checklist: bool,
    figures: str | None,
) -> None:
    """Write one page about RUNS, from their folders alone.

    Curves with bands that hold at once, which attack was the nearest where, distances
    against passes, the spectrum of the perturbations, classes, pictures, findings, and
    for several runs on the same data their comparison. Nothing in a run folder is run
    or unpickled.

    \b
    Examples:
      robustkit report runs/one
      robustkit report runs/one runs/two --out both --figures pdf
      robustkit report runs/one --out one.html
      robustkit report runs/one --markdown > one.md
      robustkit report runs/one runs/two --latex > tables.tex
      robustkit report runs/one --checklist > checklist.md
    """
    with reporting_errors(lambda: None):
        if markdown + latex + checklist > 1:
            raise BadInput(
                "give one of --markdown, --latex and --checklist; each prints by itself"
            )
        from robustkit.evaluation.data import load_data
        from robustkit.evaluation.results import Results
        from robustkit.numerics.bounds import Bounds
        from robustkit.report import markup, write_figures, write_page, write_report
        from robustkit.report.content import gather

        if checklist:
            from robustkit.report.checklist import checklist as filled_in

            click.echo("\n".join(filled_in(run) for run in runs), nl=False)
            return
        opened = [Results(run) for run in runs]
        folder = Path(out or (runs[0] if len(runs) == 1 else "report"))
        page = folder / "report.html"
        alone = folder.suffix.lower() in (".html", ".htm") and not folder.is_dir()
        if alone:
            folder, page = folder.parent, folder
        plain = figures is None and not (alone or markdown or latex)
        with prints_aside():
            originals = None
            if data is not None:
                bounds = Bounds(*opened[0].run["config"]["bounds"])
                originals = load_data(data, bounds)
            if plain:
                page = write_report(opened, folder, originals)
            else:
                content = gather(opened, originals)
        if plain:
            click.echo(page)
            return
        # First, since a format may be refused.
        files = (
            []
            if figures is None
            else write_figures(content, folder, figures.split(","))
        )
        if markdown or latex:
            write = markup.markdown if markdown else markup.latex
            click.echo(write(content), nl=False)
        else:
            click.echo(write_page(content, page))
        for file in files:
            click.echo(file, err=markdown or latex)
