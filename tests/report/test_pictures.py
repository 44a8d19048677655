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


def test_every_picture_has_its_script():
    assert shown()
    for picture in shown():
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
    for script in sorted(PICTURES.glob("make_*.py")):
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
