"""From settings as they are given to settings as they are used, and written down."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from robustkit.arguments import as_whole
from robustkit.errors import BadInput, suggestion
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.norms import Norm, get_norm
from robustkit.numerics.tensors import as_array

__all__ = [
    "Sizes",
    "as_epsilons",
    "as_norms",
    "as_shard",
    "as_target",
    "asked_for",
    "default_epsilons",
    "nameless",
]

Sizes: TypeAlias = float | Sequence[float]

_EPSILONS = {
    "linf": (1 / 255, 2 / 255, 4 / 255, 8 / 255, 16 / 255, 0.1, 0.2, 0.3),
    "l2": (0.1, 0.25, 0.5, 1.0, 2.0, 3.0),
    "l1": (1.0, 2.0, 5.0, 10.0, 20.0, 40.0),
    "l0": (1.0, 2.0, 5.0, 10.0, 20.0, 50.0),
}


def default_epsilons(norm: Norm, bounds: Bounds) -> tuple[float, ...]:
    """Customary sizes to state robust accuracy at, scaled to the width of the box."""
    scale = 1.0 if norm.name == "l0" else bounds.width
    return tuple(epsilon * scale for epsilon in _EPSILONS[norm.name])


def as_norms(norm: str | Norm | Sequence[str | Norm]) -> tuple[Norm, ...]:
    """One norm or several, each once, in their order.

    Raises:
        BadInput: None was named, or one that there is not.

    >>> as_norms(["l2", "linf", "l2"])
    (l2, linf)
    """
    several = isinstance(norm, Iterable) and not isinstance(norm, str)
    names: Any = norm if several else [norm]
    found = {repr(n): n for n in map(get_norm, names)}
    if not found:
        raise BadInput("no norm was named; name one of l0, l0-pixels, l1, l2, linf")
    return tuple(found.values())


def as_target(target: Any) -> int | str | None:
    """The class to be reached, or the name of a way to choose it; None: any other.

    Whether there is such a class, or way, is for `make_criterion` to say.

    Raises:
        BadInput: It is no whole number.
    """
    if target is None or isinstance(target, str):
        return target
    return as_whole(target, "the target")


def as_shard(shard: Any) -> tuple[int, int] | None:
    """A part of the data from 1, and the number of parts; None: all of it.

    Raises:
        BadInput: It is no such pair.
    """
    if shard is None:
        return None
    if not isinstance(shard, tuple | list) or len(shard) != 2:
        raise BadInput(
            f"a part of the data is two numbers, such as (3, 16); got {shard!r}"
        )
    part, parts = (as_whole(number, "a part of the data") for number in shard)
    if not 1 <= part <= parts:
        raise BadInput(
            f"a part of the data must be one of 1 to the number of parts, such as 3 of "
            f"16; got {part} of {parts}"
        )
    return part, parts


def as_epsilons(
    epsilons: Sizes | Mapping[str, Sizes] | None,
    norms: Sequence[Norm],
    bounds: Bounds,
) -> dict[Norm, tuple[float, ...]]:
    """The sizes of each norm, ascending; customary ones where none are given.

    Args:
        epsilons: In norm units; by the norm's name where they differ.
        norms: That are evaluated.
        bounds: Of valid inputs.

    Raises:
        BadInput: One is no positive number, or for a norm that is not evaluated.
    """
    chosen = {}
    if isinstance(epsilons, Mapping):
        for name in epsilons.keys() - {repr(norm) for norm in norms}:
            known = suggestion(name, map(repr, norms))
            raise BadInput(
                f"epsilons for a norm that is not evaluated, '{name}'; {known}"
            )
    for norm in norms:
        given = epsilons.get(repr(norm)) if isinstance(epsilons, Mapping) else epsilons
        chosen[norm] = (
            default_epsilons(norm, bounds) if given is None else _sizes(given)
        )
    return chosen


def asked_for(
    epsilons: Sizes | Mapping[str, Sizes] | None,
    sizes: Mapping[Norm, tuple[float, ...]],
) -> dict[Norm, tuple[float, ...]]:
    """Those of the sizes that were asked for; the customary ones nobody asked for.

    Args:
        epsilons: As given.
        sizes: All of them, of `as_epsilons`.
    """
    if isinstance(epsilons, Mapping):
        return {n: given for n, given in sizes.items() if repr(n) in epsilons}
    return {} if epsilons is None else dict(sizes)


def nameless(run: Mapping[str, Any]) -> list[str]:
    """Which settings of a run were Python objects, which run.json cannot name.

    Args:
        run: The contents of run.json.

    >>> asked = {"model": "net.onnx", "data": None, "attacks": "auto", "pool": None}
    >>> nameless({"asked": asked, "config": {"criterion": "top_3", "pool": "given"}})
    ['data', 'criterion', 'pool']
    """
    asked, config = run["asked"], run["config"]
    objects = [name for name in ("model", "data", "attacks") if not asked.get(name)]
    if config.get("criterion"):
        objects.append("criterion")
    if config.get("pool") and not asked.get("pool"):
        objects.append("pool")
    return objects


def _sizes(given: Any) -> tuple[float, ...]:
    if isinstance(given, Iterable) and not (
        hasattr(given, "shape") or isinstance(given, str)
    ):
        given = list(given)
    values = as_array(given, "epsilons")
    if values.dtype.kind not in "fiu" or not ((values > 0) & np.isfinite(values)).all():
        raise BadInput(
            "epsilons must be positive numbers, such as 8 / 255 or [0.1, 0.2]; got "
            f"{given!r}"
        )
    return tuple(np.unique(values.astype(np.float64)).tolist())
