"""The command line.

Nothing heavy is imported before a command runs: `robustkit --help` answers at once.
"""

import click

from robustkit import __version__
from robustkit.cli.completion import completion_command
from robustkit.cli.config import configurable
from robustkit.cli.evaluating import evaluate_command, merge_command
from robustkit.cli.exporting import export_command
from robustkit.cli.judging import check_command, exact_command, test_command
from robustkit.cli.listing import attacks_command, doctor_command
from robustkit.cli.reading import compare_command, verify_command
from robustkit.cli.reporting import report_command
from robustkit.cli.vnnlib import vnnlib_command

__all__ = ["main"]

_EPILOG = """\b
Examples:
  robustkit eval
  robustkit eval model.py:build --data test.npz --norm linf,l2 --out run
  robustkit report run

\b
Any option can be set in the environment (ROBUSTKIT_EVAL_SEED=1) or in a file
(--config settings.toml); what is typed goes before the environment, which goes
before the file.

\b
Exit codes: 0 done; 1 a full disk or an unexpected error; 2 bad input; 3 a claim
or a test failed; 4 a test could not tell; 130 interrupted.
"""


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EPILOG)
@click.version_option(__version__, prog_name="robustkit")
def main() -> None:
    """How robust a classifier really is, and proof that the answer holds."""


for _command in (
    evaluate_command,
    check_command,
    test_command,
    exact_command,
    vnnlib_command,
    merge_command,
    compare_command,
    report_command,
    export_command,
    verify_command,
):
    main.add_command(configurable(_command))
for _command in (attacks_command, doctor_command, completion_command):
    main.add_command(_command)
