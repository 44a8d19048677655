import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GROUP = "pytest11"
MARKED = """
import pytest
from robustkit.attacks.gradient.deepfool import DeepFool

@pytest.mark.robustkit(DeepFool(), norms="l2", samples=2, laws={laws})
def test_deepfool({arguments}):
    check()
"""


def pytest_run(folder, source, *options):
    """A pytest of its own, with the plug-in as the entry point declares it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    info = folder / "site" / "robustkit-0.dist-info"
    info.mkdir(parents=True)
    declared = project["project"]["entry-points"][GROUP]
    lines = [f"[{GROUP}]", *(f"{name} = {value}" for name, value in declared.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: robustkit\nVersion: 0")
    (folder / "test_it.py").write_text(source)
    (folder / "pytest.ini").write_text("[pytest]\n")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options],
        cwd=folder,
        env={"PYTHONPATH": f"{folder / 'site'}:{ROOT}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_it_costs_nothing_where_unused(tmp_path):
    unused = """
import sys

def test_nothing_heavy_was_imported():
    assert "robustkit.testing.plugin" in sys.modules
    heavy = {"torch", "numpy", "scipy", "hypothesis", "foolbox", "eagerpy"}
    assert not heavy & set(sys.modules)
    ours = {name for name in sys.modules if name.startswith("robustkit")}
    plugin = {"robustkit.testing", "robustkit.testing.plugin"}
    assert ours == {"robustkit", "robustkit.lazy", *plugin}
"""
    # Only this plug-in, since others import what they like.
    run = pytest_run(tmp_path, unused, "--strict-markers")
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    """One run of a test that keeps its laws, and of one that does not."""
    source = MARKED.format(laws=["finite", "within-epsilon"], arguments="check")
    source += """
def does_nothing(model, x, y):
    return x

@pytest.mark.robustkit(does_nothing, norms="l2", laws=["finds-the-feasible"])
def test_it(check):
    check()
"""
    folder = tmp_path_factory.mktemp("marked")
    return pytest_run(folder, source, "--strict-markers", "-v", "-rs")


def test_a_marked_test_is_run_once_for_each_check(marked):
    assert "test_deepfool[DeepFool-l2-finite] PASSED" in marked.stdout
    assert "test_deepfool[DeepFool-l2-within-epsilon] SKIPPED" in marked.stdout
    assert "it takes no epsilon: it minimises" in marked.stdout


def test_a_failure_is_read_without_a_look_into_the_suite(marked):
    assert marked.returncode == 1
    assert "1 failed, 1 passed, 1 skipped" in marked.stdout
    assert "An adversarial is found wherever there is one, or at least" in marked.stdout
    assert "robustkit/testing/laws/" not in marked.stdout


def test_a_marked_test_without_the_argument_is_told_of_it(tmp_path):
    run = pytest_run(tmp_path, MARKED.format(laws=["finite"], arguments=""))
    assert run.returncode != 0
    assert "expected it to take the argument 'check'" in run.stdout


def test_the_marker_is_known(pytestconfig):
    if not pytestconfig.pluginmanager.has_plugin("robustkit"):
        pytest.skip("robustkit was installed before it had a plug-in")
    assert any(
        line.startswith("robustkit(attack") for line in pytestconfig.getini("markers")
    )
