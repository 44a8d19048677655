"""Which law catches which defect: the tables of docs/explanation/conformance.md.

python tests/benchmarks/conformance.py          print them
python tests/benchmarks/conformance.py --write  put them into the page, with --every
"""

import argparse
import contextlib
import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "testing"))

import defects  # noqa: E402
import foreign  # noqa: E402

from robustkit.testing import LAWS, examine  # noqa: E402

PAGE = ROOT / "docs" / "explanation" / "conformance.md"
MARKS = ("<!-- tables of tests/benchmarks/conformance.py -->", "<!-- end -->")


def broken(function, norm, settings):
    """The laws that an attack breaks, and how many it keeps."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        findings = examine(function, norm, **settings)
    kept = sum(finding.outcome == "passed" for finding in findings)
    return [f.law for f in findings if f.outcome == "failed"], kept


def shown(laws, first):
    """The law that has to catch it first."""
    others = [law for law in laws if law != first]
    named = [f"**{first}**"] if first in laws else []
    return ", ".join(named + others) or "none"


def law_table():
    lines = ["| Law | What it says |", "| --- | --- |"]
    return lines + [f"| {name} | {law.__doc__} |" for name, law in LAWS.items()]


def defect_table(every):
    lines = ["| The attack | Laws broken | Kept |", "| --- | --- | --- |"]
    for name, defect in defects.DEFECTS.items():
        print(name, file=sys.stderr)
        asked = defect.settings if every else defect.settings | {"laws": [defect.law]}
        laws, kept = broken(defect.attack, defect.norm, asked)
        kept = kept if every else "not asked"
        lines.append(f"| {defect.what} | {shown(laws, defect.law)} | {kept} |")
    for name in ("sound", "sound_noisy", "sound_within"):
        laws, kept = broken(getattr(defects, name), "l2", {})
        lines.append(f"| (`{name}`: without a defect) | {shown(laws, '')} | {kept} |")
    return lines


def foreign_table():
    lines = [
        "| foolbox 3.3.4 | Norm | Fault known beforehand | Laws broken | Kept |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, guest in foreign.FOREIGN.items():
        print(name, file=sys.stderr)
        laws, kept = broken(guest.function, guest.norm, guest.settings)
        known = guest.fault or "none"
        lines.append(
            f"| {name} | {guest.norm} | {known} | {shown(laws, guest.law)} | {kept} |"
        )
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put them into the page")
    parser.add_argument(
        "--every",
        action="store_true",
        help="ask each defect every law, not only its own",
    )
    given = parser.parse_args()
    write = given.write
    sections = {
        "## The laws": law_table(),
        "## Seeded defects": defect_table(given.every or write),
        "## Attacks of another package": foreign_table(),
    }
    text = "\n\n".join(f"{title}\n\n" + "\n".join(t) for title, t in sections.items())
    if not write:
        print(text)
        return
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(MARKS[0])
    _, after = rest.split(MARKS[1])
    PAGE.write_text(
        f"{before}{MARKS[0]}\n\n{text}\n\n{MARKS[1]}{after}", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
