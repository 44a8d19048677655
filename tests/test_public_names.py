"""What the package shows: `robustkit.__all__`, its types, and its page."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import robustkit
import robustkit.testing

PAGES = Path(__file__).parents[1] / "docs" / "reference"


@pytest.mark.parametrize("package", [robustkit, robustkit.testing])
def test_every_name_is_there_and_said_where(package):
    assert sorted(set(package.__all__)) == sorted(package.__all__)
    for name in package.__all__:
        assert getattr(package, name) is not None
    assert set(dir(package)) >= set(package.__all__) - {"__version__"}


def test_other_names_are_not():
    with pytest.raises(AttributeError, match="module 'robustkit' has no attribute 'a'"):
        robustkit.a  # noqa: B018


def test_frameworks_are_imported_when_they_are_needed():
    code = "import sys, robustkit, robustkit.testing; print('numpy' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_the_page_of_names_is_up_to_date():
    script = PAGES / "make_python_page.py"
    spec = importlib.util.spec_from_file_location(script.stem, script)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    assert made.PAGE.read_text() == made.page(), f"run python {script.name}"
