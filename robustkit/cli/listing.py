"""What there is: `attacks` and `doctor`."""

import contextlib
import json

import click

from robustkit.cli.ending import reporting_errors
from robustkit.cli.options import json_option
from robustkit.cli.output import prints_aside

__all__ = ["attacks_command", "doctor_command"]


@click.command("attacks")
@json_option()
def attacks_command(as_json: bool) -> None:
    """List every attack with its norms, access, cost per step and source.

    \b
    Examples:
      robustkit attacks
      robustkit attacks --json
    """
    with reporting_errors(lambda: None):
        from robustkit.registry import attack_names, get_attack

        with prints_aside():
            attacks = {name: get_attack(name) for name in attack_names()}
        if as_json:
            listing = [
                {
                    "name": name,
                    "norms": sorted(attack.norms),
                    "access": attack.access.name.lower(),
                    "cost_per_step": attack.cost,
                    "source": attack.source,
                }
                for name, attack in attacks.items()
            ]
            click.echo(json.dumps(listing, indent=2))
            return
        for name, attack in attacks.items():
            norms = " ".join(sorted(attack.norms))
            click.echo(f"{name:16} {attack.access.name.lower():9} {norms}")
            click.echo(f"{'':16} per step: {attack.cost}")
            click.echo(f"{'':16} {attack.source}")
        click.echo("and foolbox:NAME for the attacks of foolbox, where it is installed")


@click.command("doctor")
def doctor_command() -> None:
    """Print versions, the frameworks and devices found, and whether torch compiles.

    \b
    Example:
      robustkit doctor
    """
    with reporting_errors(lambda: None):
        from robustkit.evaluation.record import package_versions

        for package, found in package_versions().items():
            click.echo(f"{package:12} {found}")
        import torch

        devices = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        if torch.backends.mps.is_available():
            devices.append("mps")
        click.echo(
            f"{'torch sees':12} {', '.join(devices)}; {torch.get_num_threads()} threads"
        )
        from robustkit.numerics.fused import compiler_missing

        missing = compiler_missing()
        state = "works" if missing is None else f"does not work: {missing}"
        click.echo(f"{'compiling':12} {state} (--compiled, by torch)")
        with contextlib.suppress(ImportError):
            import jax

            click.echo(f"{'jax sees':12} {', '.join(map(str, jax.devices()))}")
        with contextlib.suppress(ImportError):
            import onnxruntime

            providers = onnxruntime.get_available_providers()
            click.echo(f"{'onnxruntime':12} {', '.join(providers)}")
