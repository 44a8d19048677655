"""A run folder as a page to read and a figure to print.

Made from the run folder alone, so that a report can be written again at any time.
"""

from pathlib import Path

from robustkit.errors import BadInput
from robustkit.evaluation.data import DataSet, as_data
from robustkit.evaluation.results import Results
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.tensors import Array
from robustkit.report.figure import save_figure, save_queries
from robustkit.report.page import render

__all__ = ["write_report"]


def write_report(
    results: Results,
    path: Path | str | None = None,
    originals: DataSet | tuple[Array, Array] | None = None,
) -> Path:
    """Write report.html, curve.png and curve.svg; queries.* where there is any query.

    Args:
        results: Of a run, finished or not.
        path: Folder to write to, made if need be; None: the run folder.
        originals: The data of the run, so that its pictures are chosen from all
            samples; None: from those in examples.npz, the first ones.

    Returns:
        The path of report.html, which needs no other file.

    Raises:
        BadInput: The folder cannot be written to, or the originals are other data.

    >>> import robustkit as rk
    >>> results = rk.evaluate("digits", "digits", samples=2, attacks=["fmn"])
    >>> write_report(results).name
    'report.html'
    """
    folder = results.path if path is None else Path(path)
    data = None
    if originals is not None:
        data = as_data(originals, Bounds(*results.run["config"]["bounds"]))
    page = render(results, data)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_figure(results, folder)
        save_queries(results, folder)
        (folder / "report.html").write_text(page, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"cannot write the report to '{folder}': {error}") from error
    return folder / "report.html"
