"""Every picture in the documents comes from a script that still makes it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from .browser import NAMES, find

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "docs" / "pictures"


def shown():
    """The pictures that documents show."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    found = set()
    for page in pages:
        for place in re.findall(r"!\[[^]]*\]\(([^)#?]+)\)", page.read_text("utf-8")):
            found.add((page.parent / place).resolve())
    return found


CHECKS = PICTURES / "checks"
OF_CHECKS = PICTURES / "make_checks_pictures.py"
IDS = [
    *("G1", "G2", "G3", "R1", "R1-memory", "R2", "O1", "O2", "O3"),
    *("S1", "S2", "S3", "S4", "C1", "C2", "C3", "C4", "C5", "C6", "C7", "C8"),
    *("C9", "C10", "C11", "T1"),
]


def test_every_check_has_its_picture_and_a_section():
    assert {path.stem for path in CHECKS.glob("*.png")} == set(IDS)
    assert {path for path in shown() if path.parent == CHECKS} == set(
        CHECKS.glob("*.png")
    )
    page = (ROOT / "docs" / "explanation" / "checks-in-pictures.md").read_text("utf-8")
    for name in IDS:
        section = page.partition(f"\n### {name.partition('-')[0]}: ")[2]
        assert f"checks/{name}.png" in section
        assert CHECKS.joinpath(f"{name}.png").stat().st_size < 60_000


@pytest.mark.slow
def test_the_pictures_of_the_checks_can_be_drawn_again(tmp_path):
    """The script draws nothing that the check itself does not say."""
    subprocess.run(
        [sys.executable, str(OF_CHECKS), "--out", str(tmp_path), "--samples", "40"],
        check=True,
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    for name in IDS:
        with (
            Image.open(tmp_path / f"{name}.png") as made,
            Image.open(CHECKS / f"{name}.png") as kept,
        ):
            assert made.size == kept.size
            assert len(made.convert("RGB").getcolors(1 << 20)) > 20


def test_every_picture_has_its_script():
    assert shown()
    for picture in shown():
        if picture.parent == CHECKS:
            continue
        assert picture.parent == PICTURES
        assert picture.exists()
        script = PICTURES / f"make_{picture.stem}_picture.py"
        assert script.exists()
        assert f'"{picture.name}"' in script.read_text("utf-8")


@pytest.mark.slow
@pytest.mark.skipif(
    find() is None, reason=f"needs one of {', '.join(NAMES)} on the PATH"
)
def test_the_scripts_run(tmp_path):
    for script in sorted(PICTURES.glob("make_*_picture.py")):
        out = tmp_path / f"{script.stem}.png"
        subprocess.run(
            [sys.executable, str(script), "--out", str(out), "--samples", "12"],
            check=True,
            capture_output=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        committed = PICTURES / (script.stem[len("make_") : -len("_picture")] + ".png")
        with Image.open(out) as made, Image.open(committed) as kept:
            assert made.size == kept.size
            assert len(made.convert("RGB").getcolors(1 << 20)) > 50
