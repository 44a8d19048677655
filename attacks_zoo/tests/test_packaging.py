import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from robustkit import registry

import robustkit_attacks_zoo

PROJECT = tomllib.loads(
    Path(__file__).parents[1].joinpath("pyproject.toml").read_text(encoding="utf-8")
)["project"]


def test_every_attack_is_declared_in_the_group_robustkit_reads():
    declared = PROJECT["entry-points"][registry.PLUGIN_GROUP]
    entries = [metadata.EntryPoint(*e, registry.PLUGIN_GROUP) for e in declared.items()]
    assert {e.load() for e in entries} == {
        getattr(robustkit_attacks_zoo, name) for name in robustkit_attacks_zoo.__all__
    }


def test_an_installed_copy_has_the_entry_point():
    try:
        installed = metadata.distribution(PROJECT["name"])
    except metadata.PackageNotFoundError:
        pytest.skip(f"{PROJECT['name']} is not installed; pip install ./attacks_zoo")
    names = {e.name for e in installed.entry_points.select(group=registry.PLUGIN_GROUP)}
    assert names == set(PROJECT["entry-points"][registry.PLUGIN_GROUP])
