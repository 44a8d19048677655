from importlib.metadata import PackageNotFoundError

import robustkit as rk
from robustkit.evaluation import record


def test_a_checkout_that_is_not_installed_has_a_version(monkeypatch):
    def installed(package):
        raise PackageNotFoundError(package)

    monkeypatch.setattr(record, "version", installed)
    assert record.package_versions()["robustkit"] == rk.__version__
