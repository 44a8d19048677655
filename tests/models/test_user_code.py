import importlib
import sys

import pytest

from robustkit.errors import BadInput
from robustkit.models.user_code import import_object


def test_modules_that_are_no_neighbours_stay_imported(write):
    write("lib/site/elsewhere_installed.py", "")
    file = write(
        "mine.py",
        """
        import sys
        sys.path.insert(0, __file__.replace("mine.py", "lib/site"))
        import elsewhere_installed
        del sys.path[0]
        value = 1
        """,
    )
    try:
        assert import_object(f"{file}:value") == 1
        assert "elsewhere_installed" in sys.modules
    finally:
        sys.modules.pop("elsewhere_installed", None)


def test_dataclasses_can_be_defined(write):
    file = write(
        "mine.py",
        """
        from __future__ import annotations
        import dataclasses

        @dataclasses.dataclass
        class Settings:
            depth: int = 3

        value = Settings().depth
        """,
    )
    assert import_object(f"{file}:value") == 3


def test_modules_of_the_current_folder(write, tmp_path, monkeypatch):
    write("package_here/part.py", "value = 4")
    monkeypatch.chdir(tmp_path)
    importlib.invalidate_caches()
    assert import_object("package_here.part:value") == 4
    write("broken_here.py", "import nothing_of_that_name")
    with pytest.raises(BadInput, match=r"'broken_here' failed.*line 1"):
        import_object("broken_here:value")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("x = 1\ny = x / 0\n", r"ZeroDivisionError.*mine\.py, line 2"),
        ("x = (1\n", r"SyntaxError.*mine\.py, line 1"),
        ("import nowhere_at_all\n", r"ModuleNotFoundError.*mine\.py, line 1"),
        ("import json\njson.loads('{')\n", r"JSONDecodeError.*line \d+"),
        ("import sys\nsys.exit(3)\n", "SystemExit.*__main__"),
        ("modle = 1\n", "has no 'model'; did you mean 'modle'"),
    ],
)
def test_faults_of_the_file_are_told_with_their_place(text, match, write):
    file = write("mine.py", text)
    with pytest.raises(BadInput, match=match):
        import_object(f"{file}:model")
    assert not [name for name in sys.modules if name.startswith("mine_")]
