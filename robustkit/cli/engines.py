"""Who does the work of `robustkit eval`, as options."""

from typing import TYPE_CHECKING

import click

from robustkit.cli.options import together
from robustkit.errors import BadInput

if TYPE_CHECKING:
    from robustkit.evaluation.engines import Engine

__all__ = ["ENGINE_OPTIONS", "chosen_engine", "engine_options"]

ENGINE_OPTIONS = ("engine", "workers", "num_gpus", "ray_address")
"""Names of the parameters."""

engine_options = together(
    click.option(
        "--engine",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="Who does the work: this machine, or workers of Ray.",
    ),
    click.option(
        "--workers",
        type=int,
        help="So many processes.  [default: 1; of Ray, one per processor or per "
        "GPU needed]",
    ),
    click.option(
        "--num-gpus",
        type=float,
        help="Of each worker, such as 1 or 0.5.  [default: 0]",
    ),
    click.option(
        "--ray-address",
        metavar="ADDRESS",
        help="Of a Ray cluster, such as auto.  [default: RAY_ADDRESS, else workers "
        "on this machine]",
    ),
)
"""The options, of which `chosen_engine` makes an engine."""


def chosen_engine(
    engine: str, workers: int | None, num_gpus: float | None, ray_address: str | None
) -> "Engine":
    """The engine that the options describe.

    Raises:
        BadInput: They do not go together, or Ray is not installed.
    """
    if engine == "ray":
        from robustkit.evaluation.ray_engine import RayEngine

        return RayEngine(workers=workers, num_gpus=num_gpus or 0.0, address=ray_address)
    from robustkit.evaluation.engines import LocalEngine

    given = {"--num-gpus": num_gpus, "--ray-address": ray_address}
    for name, value in given.items():
        if value is not None:
            raise BadInput(f"{name} is for --engine ray; the engine is '{engine}'")
    if workers is None or workers == 1:
        return LocalEngine()
    from robustkit.evaluation.pool_engine import PoolEngine

    return PoolEngine(workers)
