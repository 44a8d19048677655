"""Thirteen defenses and more: claimed, flagged, adapted, broken.

python -m robustkit_attacks_zoo.defenses [--only NAME,NAME] [--write PAGE] [--verbose]
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from robustkit_attacks_zoo.defenses import DEFENSES, defense
from robustkit_attacks_zoo.defenses.table import HEADER, Row, row

__all__ = ["main"]

_MARKS = ("<!-- table: begin -->", "<!-- table: end -->")
_TABLE = re.compile(".*?".join(_MARKS), re.DOTALL)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, and write it into a page."""
    parser = argparse.ArgumentParser(
        prog="python -m robustkit_attacks_zoo.defenses", description=__doc__
    )
    parser.add_argument("--only", default="", help="names or parts of names, by comma")
    parser.add_argument("--write", type=Path, help="a page with the table's two marks")
    parser.add_argument("--verbose", action="store_true", help="say what is being done")
    asked = parser.parse_args(arguments)
    words = [word.strip() for word in asked.only.split(",") if word.strip()]
    names = [n for n in DEFENSES if not words or any(word in n for word in words)]
    unknown = [word for word in words if not any(word in n for n in DEFENSES)]
    if unknown:
        parser.error(f"no defense is called {unknown[0]}; there are {list(DEFENSES)}")
    if asked.write is not None and not _marked(asked.write):
        # Before the table is made, which takes long.
        parser.error(
            f"{asked.write} must be a page that has the marks {' and '.join(_MARKS)} "
            "once"
        )
    torch.set_num_threads(1)
    lines = [_line(HEADER), _line(["---"] * len(HEADER))]
    print("\n".join(lines), flush=True)
    rows: list[Row] = []
    for name in names:
        rows.append(row(defense(name), _say if asked.verbose else _silent))
        lines.append(_line(rows[-1].cells()))
        print(lines[-1], flush=True)
        print(f"{name}: {rows[-1].seconds:.0f} s", file=sys.stderr)
    lines += ["", _summary(rows)]
    print(f"\n{lines[-1]}")
    if asked.write is not None:
        _write(asked.write, "\n".join(lines))


def _summary(rows: Sequence[Row]) -> str:
    """The goals, counted."""
    attacked = [row for row in rows if row.defense.thirteen]
    flagged = sum(row.flagged for row in attacked)
    broken = sum(row.broken for row in attacked)
    seconds = sum(row.seconds for row in rows)
    return (
        f"Of the {len(attacked)} of the paper, {flagged} are flagged before the "
        f"number is believed, and {broken} are broken by `--adaptive` alone to within "
        "5 points of the attack written by hand. Everything took "
        f"{seconds / 60:.0f} minutes on one core."
    )


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _marked(page: Path) -> bool:
    """Whether a page has the table's two marks, once."""
    if not page.is_file():
        return False
    return len(_TABLE.findall(page.read_text(encoding="utf-8"))) == 1


def _write(page: Path, table: str) -> None:
    begin, end = _MARKS
    old = page.read_text(encoding="utf-8")
    new = _TABLE.sub(lambda _: f"{begin}\n\n{table}\n\n{end}", old)
    page.write_text(new, encoding="utf-8")


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _silent(words: str) -> None:
    pass


if __name__ == "__main__":
    main()
