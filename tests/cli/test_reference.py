"""docs/reference/cli.md against the commands themselves."""

import re
from pathlib import Path

import click
import pytest

from robustkit.cli import main

PAGE = (Path(__file__).parents[2] / "docs/reference/cli.md").read_text()
SECTIONS = dict(re.findall(r"^## robustkit (\w+)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))
COMMANDS = {
    name: main.get_command(click.Context(main), name)
    for name in main.list_commands(click.Context(main))
}


def options(command):
    return {
        option
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
        if option.startswith("--")
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_described(name):
    described = set(re.findall(r"(?<![\w-])--[a-z-]+", SECTIONS.get(name, "")))
    # Those of all commands stand in front.
    assert options(COMMANDS[name]) - {"--config", "--help"} <= described


def test_every_option_described_is_there():
    known = {"--version", "--help"}.union(*map(options, COMMANDS.values()))
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", PAGE)) <= known
