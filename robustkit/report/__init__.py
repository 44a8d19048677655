"""Run folders as a page to read, tables to paste and figures to print.

Made from run folders alone, so that a report can be written again at any time.
"""

from collections.abc import Sequence
from pathlib import Path

from robustkit.errors import BadInput
from robustkit.evaluation.data import DataSet, as_data
from robustkit.evaluation.results import Run, as_results, as_runs
from robustkit.evaluation.shards import write_atomically
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.tensors import Array
from robustkit.report.content import Content, gather
from robustkit.report.figure import FORMATS, save_charts
from robustkit.report.page import render

__all__ = ["write_figures", "write_page", "write_report"]

# Beside the page of one run, which other tools and papers may link to.
_BESIDE = ("curve", "queries")


def write_report(
    results: Run | Sequence[Run],
    path: Path | str | None = None,
    originals: DataSet | tuple[Array, Array] | None = None,
) -> Path:
    """Write report.html, curve.png and curve.svg; queries.* where there is any query.

    Args:
        results: Of a run, finished or not, or of several to be shown on one page; or
            their run folders.
        path: Folder to write to, made if need be; None: the run folder.
        originals: The data of the runs, so that pictures are chosen from all samples;
            None: from those in examples.npz.

    Returns:
        The path of report.html, which needs no other file.

    Raises:
        BadInput: The folder cannot be written to, or the originals are other data; or
            several runs were given without a path.

    >>> import robustkit as rk
    >>> results = rk.evaluate("digits", "digits", samples=2, attacks=["fmn"])
    >>> write_report(results).name
    'report.html'
    """
    runs = [as_results(run) for run in as_runs(results)]
    if path is None and len(runs) != 1:
        raise BadInput("a report of several runs needs a folder to be written to")
    folder = runs[0].path if path is None else Path(path)
    data = None
    if originals is not None:
        data = as_data(originals, Bounds(*runs[0].run["config"]["bounds"]))
    content = gather(runs, data)
    write_figures(content, folder, ("png", "svg"), kinds=_BESIDE)
    return write_page(content, folder / "report.html")


def write_page(content: Content, path: Path, *, comparison_only: bool = False) -> Path:
    """Write the page, whole or not at all; returns its path.

    Raises:
        BadInput: It cannot be written.
    """
    page = render(content, comparison_only=comparison_only)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(path) as file:
            file.write(page.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise BadInput(f"cannot write the report to '{path}': {error}") from error
    return path


def write_figures(
    content: Content,
    folder: Path,
    formats: Sequence[str],
    kinds: Sequence[str] | None = None,
) -> list[Path]:
    """Write the figures for print, one file per kind with a panel for each norm.

    Args:
        content: Of the report.
        folder: To write to, made if need be.
        formats: Some of "png", "svg" and "pdf".
        kinds: Some of "curve", "queries", "passes", "power-law", "spectrum" and
            "envelope"; None: all that there are.

    Returns:
        The files.

    Raises:
        BadInput: There is no such format, or they cannot be written.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise BadInput(
            f"unknown format '{unknown[0]}' for figures; known: {', '.join(FORMATS)}"
        )
    charts = [chart for part in content.norms for chart in part.charts]
    names = dict.fromkeys(chart.name for chart in charts)
    files: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in names if kinds is None else [k for k in kinds if k in names]:
            same = [chart for chart in charts if chart.name == name]
            files += save_charts(same, folder, formats)
    except OSError as error:
        raise BadInput(f"cannot write the report to '{folder}': {error}") from error
    return files
