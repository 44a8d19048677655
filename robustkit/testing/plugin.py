"""The pytest plug-in: the marker `robustkit`, which makes a test of each check.

It is loaded at every start of pytest where robustkit is installed, so it imports
nothing until a test carries the marker.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

__all__ = ["pytest_configure", "pytest_generate_tests"]

_MARKER = (
    "robustkit(attack, norms=None, **settings): run the test once for each check of "
    "robustkit.testing.conformance(attack, norms, **settings), as its argument 'check'"
)


def pytest_configure(config: "pytest.Config") -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", _MARKER)


def pytest_generate_tests(metafunc: "pytest.Metafunc") -> None:
    """Give a marked test its checks, of all its markers."""
    markers = list(metafunc.definition.iter_markers("robustkit"))
    if not markers:
        return
    if "check" not in metafunc.fixturenames:
        from robustkit.errors import BadInput

        raise BadInput(
            f"the test '{metafunc.definition.name}' is marked 'robustkit'; expected it "
            "to take the argument 'check' and to call it"
        )
    from robustkit.testing.suite import conformance

    checks = [
        check
        for marker in reversed(markers)
        for check in conformance(*marker.args, **marker.kwargs)
    ]
    metafunc.parametrize("check", checks, ids=[check.name for check in checks])
