"""Ray itself: found, connected to, and asked what it has."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from robustkit.errors import BadInput, MissingPackage

__all__ = ["check_room", "connected", "the_ray"]


def the_ray() -> Any:
    """The package, which is large, and which few need.

    Raises:
        MissingPackage: It is not installed.
    """
    try:
        with _keeping_sigterm():
            import ray
    except ImportError as error:
        raise MissingPackage("ray", "ray", "the engine 'ray'") from error
    return ray


@contextmanager
def connected(address: str | None, cpus: int) -> Iterator[None]:
    """With Ray at hand; if this process has started it already, as it is.

    Args:
        address: Of a cluster; None: that of the environment variable RAY_ADDRESS, else
            one on this machine, which ends with the context.
        cpus: That such a one must have, at least.

    Raises:
        BadInput: There is none at that address, or none can be started.
    """
    ray = the_ray()
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS")
    settings: dict[str, Any] = {"address": address}
    if address is None:
        # Nobody was asked whether statistics may be sent.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        settings = {
            "address": "local",
            "num_cpus": max(cpus, os.cpu_count() or 1),
            "include_dashboard": False,
        }
    try:
        if address is not None:
            _check_reachable(address)
        with _keeping_sigterm():
            ray.init(**settings, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise BadInput(
            f"cannot use Ray at '{address or 'this machine'}': {reason}"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def check_room(num_cpus: int, num_gpus: float) -> None:
    """Refuse to wait for what will not come.

    Raises:
        BadInput: Ray has less in all than a worker needs.
    """
    there = the_ray().cluster_resources()
    for name, needed in (("CPU", num_cpus), ("GPU", num_gpus)):
        if needed > there.get(name, 0):
            raise BadInput(
                f"a worker needs {needed:g} {name}, and Ray has "
                f"{there.get(name, 0):g} in all"
            )


@contextmanager
def _keeping_sigterm() -> Iterator[None]:
    """Ray takes the signal for itself; who called us may have plans for it."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGTERM, before)


def _check_reachable(address: str) -> None:
    """Whether anybody listens there; Ray itself would try for minutes.

    Raises:
        OSError: Nobody does.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
