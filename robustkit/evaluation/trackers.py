"""Experiment trackers, told by the methods they have: none of them is needed here."""

import math
import re
import warnings
from collections.abc import Mapping
from typing import Any, Protocol

from robustkit.errors import BadInput

__all__ = ["Tracker", "as_tracker"]

_LONGEST = 500
"""Letters of a setting that MLflow takes in all its versions."""


class Tracker(Protocol):
    """What every tracker is made to look like."""

    def settings(self, values: Mapping[str, str]) -> None:
        """Note how the run was made; once, at its start."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Note finite numbers; steps grow from call to call."""

    def end(self, values: Mapping[str, float], folder: str) -> None:
        """Note the numbers of the whole run, and where its folder is."""


def as_tracker(native: Any) -> Tracker:
    """A tracker of any kind as a `Tracker` that cannot disturb a run.

    Recognised by methods, not by type: a `SummaryWriter` of TensorBoard (add_scalar),
    the module `mlflow` or a client bound to a run (log_metrics and log_params), a run
    of `wandb` (log and config). What raises is left out from then on, with a warning.

    Args:
        native: The tracker.

    Raises:
        BadInput: It is none of these.
    """
    if hasattr(native, "log_metrics") and hasattr(native, "log_params"):
        return _Guarded(_MLflow(native))
    if hasattr(native, "add_scalar"):
        return _Guarded(_TensorBoard(native))
    if hasattr(native, "log") and hasattr(native, "config"):
        return _Guarded(_WandB(native))
    raise BadInput(
        "expected trackers such as a TensorBoard SummaryWriter, the module mlflow, or "
        f"a wandb run; got a {type(native).__name__}"
    )


class _TensorBoard:
    def __init__(self, writer: Any) -> None:
        self._writer = writer
        self._step = 0

    def settings(self, values: Mapping[str, str]) -> None:
        if hasattr(self._writer, "add_text"):
            lines = [f"    {name}: {value}" for name, value in values.items()]
            self._writer.add_text("settings", "\n".join(lines))

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._step = step
        for name, value in values.items():
            self._writer.add_scalar(name, value, global_step=step)

    def end(self, values: Mapping[str, float], folder: str) -> None:
        self.log(values, self._step + 1)
        if hasattr(self._writer, "flush"):
            self._writer.flush()


class _MLflow:
    def __init__(self, client: Any) -> None:
        self._client = client
        self._step = 0

    def settings(self, values: Mapping[str, str]) -> None:
        self._client.log_params(
            {_plain(name): value[:_LONGEST] for name, value in values.items()}
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._step = step
        named = {_plain(name): value for name, value in values.items()}
        self._client.log_metrics(named, step=step)

    def end(self, values: Mapping[str, float], folder: str) -> None:
        self.log(values, self._step + 1)
        if hasattr(self._client, "log_artifacts"):
            self._client.log_artifacts(folder)


class _WandB:
    def __init__(self, run: Any) -> None:
        self._run = run

    def settings(self, values: Mapping[str, str]) -> None:
        self._run.config.update(dict(values))

    def log(self, values: Mapping[str, float], step: int) -> None:
        # Its own step counts all that the run logs, of others too.
        self._run.log({**values, "robustkit/step": step})

    def end(self, values: Mapping[str, float], folder: str) -> None:
        self._run.log(dict(values))
        self._run.config.update({"run_folder": folder}, allow_val_change=True)


class _Guarded:
    """A tracker that is left alone once it has raised."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker: Tracker | None = tracker

    def settings(self, values: Mapping[str, str]) -> None:
        self._tell("settings", values)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._tell("log", _finite(values), step)

    def end(self, values: Mapping[str, float], folder: str) -> None:
        self._tell("end", _finite(values), folder)

    def _tell(self, what: str, *arguments: Any) -> None:
        if self._tracker is None:
            return
        try:
            getattr(self._tracker, what)(*arguments)
        except Exception as error:
            self._tracker = None
            warnings.warn(
                f"a tracker raised {type(error).__name__} ({error}) and is told no "
                "more; the evaluation goes on",
                RuntimeWarning,
                stacklevel=2,
            )


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    return {k: float(v) for k, v in values.items() if math.isfinite(v)}


def _plain(name: str) -> str:
    """A name of letters that MLflow takes.

    >>> _plain("linf/foolbox:LinfPGD")
    'linf/foolbox-LinfPGD'
    """
    return re.sub(r"[^A-Za-z0-9_\-./ ]", "-", name)
