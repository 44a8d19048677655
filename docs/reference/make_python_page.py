"""Makes python.md beside this file, a row for every public name.

python docs/reference/make_python_page.py
"""

import inspect
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import robustkit as rk

PAGE = Path(__file__).with_name("python.md")
_HEAD = (
    "# The public names\n\nWhat `import robustkit as rk` gives: the first line of each "
    "docstring, and the file that it is in. `help(rk.evaluate)` shows the whole, with "
    "shapes, units, errors and an example. All are typed. What suites for attacks need "
    "is in `robustkit.testing` ([how to test an attack](../how-to/test-an-attack.md)). "
    "Names that stand in neither may change at any time.\n"
)
# By title: where the names of a section are at home.
_SECTIONS = {
    "Runs, and what judges them": (
        "evaluation",
        "checks",
        "adaptive",
        "active_tests",
    ),
    "Models": ("models",),
    "Attacks": ("attacks", "combine", "presets", "registry"),
    "Criteria: what counts as adversarial": ("engine.criteria",),
    "Norms and bounds": ("numerics",),
    "For attacks of your own": ("engine.attack", "engine.problem", "errors"),
}


def page() -> str:
    """The whole page."""
    sections: dict[str, list[str]] = {title: [] for title in _SECTIONS}
    for name in sorted(set(rk.__all__) - {"__version__"}, key=str.lower):
        value = getattr(rk, name)
        sections[_section(value.__module__)].append(_row(name, value))
    return "\n".join([_HEAD, *_tables(sections)])


def _tables(sections: dict[str, list[str]]) -> Iterator[str]:
    for title, rows in sections.items():
        yield from (f"## {title}", "", "| Name | What it is |", "| --- | --- |")
        yield from (*rows, "")


def _section(module: str) -> str:
    place = module.removeprefix("robustkit.")
    return next(
        title
        for title, homes in _SECTIONS.items()
        if any(place == home or place.startswith(f"{home}.") for home in homes)
    )


def _row(name: str, value: Any) -> str:
    file = value.__module__.replace(".", "/")
    brackets = "()" if isinstance(value, FunctionType) else ""
    doc = inspect.getdoc(value)
    assert doc is not None
    said = doc.splitlines()[0].replace("|", "\\|")
    return f"| [`{name}{brackets}`](../../{file}.py) | {said} |"


if __name__ == "__main__":
    PAGE.write_text(page())
