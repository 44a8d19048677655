"""The command line.

Nothing heavy is imported before a command runs: `robustkit --help` answers at once.
"""

import click

from robustkit import __version__
from robustkit.cli.evaluating import evaluate_command, merge_command
from robustkit.cli.judging import check_command, exact_command, test_command
from robustkit.cli.listing import attacks_command, doctor_command
from robustkit.cli.reading import compare_command, verify_command
from robustkit.cli.reporting import report_command

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="robustkit")
def main() -> None:
    """How robust a classifier really is, and proof that the answer holds."""


for _command in (
    evaluate_command,
    check_command,
    test_command,
    exact_command,
    merge_command,
    compare_command,
    report_command,
    verify_command,
    attacks_command,
    doctor_command,
):
    main.add_command(_command)
