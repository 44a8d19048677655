"""Tables as data, whoever prints them: the page, Markdown or LaTeX."""

from dataclasses import dataclass

__all__ = ["Cell", "Tabular"]


@dataclass(frozen=True)
class Cell:
    """What stands in one place of a table.

    Attributes:
        text: The main thing.
        also: Beside it, less prominent.
        under: Below it, likewise; on the page only.
        tip: For those who point at it; on the page only.
        warn: Whether it calls for attention.
    """

    text: str
    also: str = ""
    under: str = ""
    tip: str = ""
    warn: bool = False


@dataclass(frozen=True)
class Tabular:
    """A table, the first column of which names the rows.

    Attributes:
        title: What it shows.
        columns: Heads.
        rows: As many cells as columns, each.
        note: What must be known to read it.
        key: A short name, for labels and references.
        names: How many columns, the first ones, hold words and not numbers.
        shown: Whether the title is a heading of its own; else it is for screen
            readers only.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    key: str = ""
    names: int = 1
    shown: bool = True

    def __post_init__(self) -> None:
        for row in self.rows:
            assert len(row) == len(self.columns), (self.columns, row)
