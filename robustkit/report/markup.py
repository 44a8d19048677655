"""The report as Markdown, and its tables as LaTeX."""

import re
from collections.abc import Sequence

from robustkit.report import words
from robustkit.report.charts import attack_order
from robustkit.report.content import Content, NormPart
from robustkit.report.reproduce import bibtex, command, methods, python_call
from robustkit.report.tabular import Cell, Tabular

__all__ = ["latex", "markdown"]

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    # At the start of a row, what ends the row before would take them for its own.
    "[": "{[}",
    "*": "{*}",
    words.SPACE: r"\,",
    words.DASH: "--",
    "\N{EM DASH}": "---",
    "\N{INFINITY}": r"$\infty$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{MINUS SIGN}": r"$-$",
}
# A character that begins or ends something in Markdown, or in the HTML within it.
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~!&$])")
_HEADS = {
    "linf": r"$\ell_\infty$",
    "l2": r"$\ell_2$",
    "l1": r"$\ell_1$",
    "l0": r"$\ell_0$",
    "l0-pixels": r"$\ell_0$ (pixels)",
}


# Ends of lines, which would end a row or a paragraph.
_LINES = {ord(end): " " for end in "\r\n\t\v\f\x85\u2028\u2029"}


def markdown(content: Content) -> str:
    """The report as Markdown, with tables as on GitHub and without pictures."""
    several = len(content.runs) > 1
    lines: list[str] = []
    for run in content.runs:
        results, summary = run.results, run.summary
        attacks = ", ".join(attack_order(results)) or "nothing yet"
        clean, count = results.clean_accuracy, summary["samples"]
        title = run.name if several else f"Robustness of {results.run['model']['name']}"
        lines += [
            f"{'##' if several else '#'} {_md(title)}",
            _md(
                f"{count:,} samples of {results.run['data']['name']}, attacked with "
                f"{attacks} on {results.run['started'][:10]}. Clean accuracy "
                f"{words.percent(clean.estimate, count)} "
                f"({words.interval(clean, count)})."
            ),
        ]
        lines += [f"- **Before you use these numbers:** {_md(w)}" for w in run.warnings]
        for finding in run.findings:
            lines.append(
                f"- **{_md(finding['id'])} {_md(finding['severity'])}:** "
                + _md(
                    f"{finding['diagnosis']} ({finding['evidence']}). What to do: "
                    f"{finding['remedy']}."
                )
            )
    if several:
        names = ", ".join(run.name for run in content.runs)
        lines = [f"# {_md(f'Robustness in {len(content.runs)} runs: {names}')}", *lines]
    lines += [_md_table(table) for table in content.tables[: 1 if several else 0]]
    for part in content.norms:
        lines.append(f"## {_md(words.norm_name(part.norm))} perturbations")
        lines.append(_md(f"Size: {words.explanation(part.norm)}."))
        for named, said, (warrant, _) in zip(
            part.runs, part.says, part.warrants, strict=True
        ):
            whose = f"{named.name}: " if several else ""
            lines.append(_md(f"{whose}{said} {warrant}"))
        lines += [_md_table(table) for table in _tables(part)]
    if content.comparison:
        lines.append("## Comparison")
        lines += [_md_table(table) for table in content.comparison]
    lines.append("## Do it again")
    for run in content.runs:
        again = command(run.results.run)
        lines.append(_md_code(again or python_call(run.results.run)))
    lines.append("## Cite it")
    for run in content.runs:
        lines.append(_md(methods(run.results.run, run.summary)))
    first = content.runs[0].results.run
    lines.append(_md_code(bibtex(first["versions"]["robustkit"], first["started"][:4])))
    return "\n\n".join(lines) + "\n"


def latex(content: Content) -> str:
    """All tables of the report, for a document that uses the package booktabs."""
    tables = [_tex_table(table, "") for table in content.tables]
    for part in content.norms:
        head = _HEADS.get(part.norm, _tex(part.norm))
        tables += [_tex_table(table, head) for table in _tables(part)]
    start = "% Needs \\usepackage{booktabs} and \\usepackage[T1]{fontenc}.\n"
    return start + "\n".join(tables)


def _tables(part: NormPart) -> list[Tabular]:
    found: Sequence[Tabular | None] = (
        part.accuracy,
        part.samples,
        part.attacks,
        part.contributions,
        part.query_table,
        part.laws,
        part.classes,
    )
    return [table for table in found if table is not None]


def _plain(cell: Cell) -> str:
    return cell.text + (f" ({cell.also})" if cell.also else "")


def _md(text: str) -> str:
    r"""Text that Markdown shows as it is, on one line.

    >>> print(_md("<script>a | b</script>"))
    \<script\>a \| b\</script\>
    """
    return _MARKDOWN.sub(r"\\\1", text.translate(_LINES))


def _md_code(text: str) -> str:
    """A block that ends only where it should, whatever fences are in the text."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text.rstrip()}\n{fence}"


def _md_table(table: Tabular) -> str:
    def row(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    lines = [
        row([_md(name) for name in table.columns]),
        row(
            ["---"] * table.names + ["---:"] * (len(table.columns) - table.names),
        ),
        *(row([_md(_plain(cell)) for cell in cells]) for cells in table.rows),
    ]
    note = f"\n\n{_md(table.note)}" if table.note else ""
    return f"### {_md(table.title)}\n\n" + "\n".join(lines) + note


def _tex(text: str) -> str:
    r"""Text that LaTeX prints as it is.

    >>> print(_tex("50 % of a_b"), _tex(chr(92) + "input{x}"))
    50 \% of a\_b \textbackslash{}input\{x\}
    >>> print(_tex("[unknown]"), _tex("*"))
    {[}unknown] {*}
    """
    return "".join(_LATEX.get(letter, letter) for letter in text.translate(_LINES))


def _tex_table(table: Tabular, head: str) -> str:
    def row(cells: Sequence[Cell]) -> str:
        return " & ".join(_tex(_plain(cell)) for cell in cells) + r" \\"

    title = f"{head}: {_tex(table.title)}" if head else _tex(table.title)
    caption = f"{title}. {_tex(table.note)}".strip()
    kinds = "l" * table.names + "r" * (len(table.columns) - table.names)
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            f"  \\caption{{{caption}}}",
            f"  \\begin{{tabular}}{{{kinds}}}",
            r"    \toprule",
            "    " + row([Cell(name) for name in table.columns]),
            r"    \midrule",
            *("    " + row(cells) for cells in table.rows),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )
