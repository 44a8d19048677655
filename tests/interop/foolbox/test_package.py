import importlib
import subprocess
import sys

import pytest

import robustkit as rk
from robustkit.errors import MissingPackage


def test_without_foolbox_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "foolbox", None)
    monkeypatch.delitem(sys.modules, "robustkit.interop.foolbox", raising=False)
    with pytest.raises(MissingPackage, match=r"pip install 'robustkit\[foolbox\]'"):
        importlib.import_module("robustkit.interop.foolbox")
    with pytest.raises(MissingPackage, match="foolbox model or attack needs"):
        rk.get_attack("foolbox:LinfFMN")


def test_foolbox_is_imported_only_when_needed_and_then_in_silence():
    pytest.importorskip("foolbox", reason="foolbox is optional")
    code = (
        "import sys, robustkit as rk\n"
        "rk.evaluate, rk.run, rk.FMN, rk.get_attack('fmn')\n"
        "print('foolbox' in sys.modules)\n"
        "rk.get_attack('foolbox:LinfFMN')\n"
        "print('foolbox' in sys.modules)\n"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "True"], done.stderr
    assert done.stderr == ""
