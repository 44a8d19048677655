"""Completion of commands, options and their values in a shell."""

import click

from robustkit.cli.ending import reporting_errors
from robustkit.errors import BadInput

__all__ = ["completion_command"]


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion_command(context: click.Context, shell: str) -> None:
    """Print what makes SHELL complete robustkit's commands and options.

    \b
    Examples, for the file that the shell reads when it starts:
      eval "$(robustkit completion bash)"                       ~/.bashrc
      eval "$(robustkit completion zsh)"                        ~/.zshrc
      robustkit completion fish > ~/.config/fish/completions/robustkit.fish
    """
    with reporting_errors(lambda: None):
        from click.shell_completion import get_completion_class

        found = get_completion_class(shell)
        if found is None:
            raise BadInput(f"no completion is known for the shell '{shell}'")
        main = context.find_root().command
        try:
            source = found(main, {}, "robustkit", "_ROBUSTKIT_COMPLETE").source()
        except (OSError, RuntimeError) as error:
            raise BadInput(f"cannot make completions for {shell}: {error}") from error
        click.echo(source)
