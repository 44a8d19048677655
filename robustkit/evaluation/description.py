"""Whether a run folder's JSON says what its readers expect, whoever wrote it."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from robustkit.errors import BadInput
from robustkit.numerics.norms import get_norm

__all__ = ["check_description", "check_warrants", "printable"]

Kind: TypeAlias = Callable[[Any], bool]

# Characters that a terminal obeys and does not show; ends of lines and tabs stay.
_CONTROLS = {
    code: "\N{REPLACEMENT CHARACTER}"
    for code in (*range(32), *range(127, 160))
    if chr(code) not in "\t\n"
}


def printable(tree: Any) -> Any:
    """The same JSON, with what would give orders to a terminal replaced in all texts.

    >>> printable({"name": "a" + chr(27) + "[2J"})
    {'name': 'a�[2J'}
    """
    if isinstance(tree, str):
        return tree.translate(_CONTROLS)
    if isinstance(tree, list):
        return [printable(value) for value in tree]
    if isinstance(tree, dict):
        return {printable(key): printable(value) for key, value in tree.items()}
    return tree


def check_description(run: Mapping[str, Any], path: Path) -> None:
    """Refuse a run.json whose parts are of other types than robustkit writes.

    Args:
        run: Its contents.
        path: Of the file, for the message.

    Raises:
        BadInput: It is not like that; the message says where.
    """
    expected: dict[tuple[str, ...], Kind] = {
        ("status",): _text,
        ("started",): _text,
        ("notes",): _list_of(_text),
        ("versions",): _map_of(_text),
        ("versions", "robustkit"): _text,
        ("sources",): _map_of(_text),
        ("asked",): _map_of(_anything),
        ("asked", "model"): _or_none(_text),
        ("asked", "data"): _or_none(_text),
        ("asked", "pool"): _or_none(_text),
        ("asked", "attacks"): _attacks,
        ("model", "name"): _text,
        ("model", "adapter"): _text,
        ("model", "classes"): _count,
        ("model", "access"): _text,
        ("model", "fingerprint"): _or_none(_text),
        ("data", "name"): _text,
        ("data", "class_names"): _or_none(_list_of(_text)),
        ("config", "model"): _text,
        ("config", "data"): _text,
        ("config", "norms"): _list_of(_norm),
        ("config", "attacks"): _map_of(_map_of(_text)),
        ("config", "epsilons"): _map_of(_list_of(_positive)),
        ("config", "bounds"): _bounds,
        ("config", "access"): _text,
        ("config", "seed"): _whole,
        ("config", "criterion"): _or_none(_text),
        ("config", "target"): _or_none(_text_or_whole),
        ("config", "pool"): _or_none(_text),
        ("config", "samples"): _or_none(_whole),
        ("config", "budget"): _or_none(_whole),
        ("config", "batch_size"): _whole,
        ("config", "mean"): _or_none(_list_of(_number)),
        ("config", "std"): _or_none(_list_of(_number)),
        ("config", "device"): _or_none(_text),
    }
    # Versions before may not have them.
    optional: dict[tuple[str, ...], Kind] = {
        ("finished",): _text,
        ("attack_access",): _map_of(_text),
        ("attack_baseline",): _map_of(_or_none(_text)),
        ("failure",): _text,
        ("data", "fingerprint"): _or_none(_text),
        ("pool",): _or_none(_map_of(_text)),
        ("asked", "epsilons"): _or_none(_map_of(_list_of(_positive))),
        ("config", "shard"): _or_none(_shard),
        ("config", "time_limit"): _or_none(_number),
        ("config", "compiled"): _yes_or_no,
        ("config", "cache"): _or_none(_text),
        ("config", "headers"): _or_none(_map_of(_text)),
    }
    for place, fits in (expected | optional).items():
        value: Any = run
        for name in place:
            value = (
                value.get(name, _MISSING) if isinstance(value, Mapping) else _MISSING
            )
        if value is _MISSING and place in optional:
            continue
        if value is _MISSING or not fits(value):
            said = "is missing" if value is _MISSING else f"is {repr(value)[:60]}"
            where = ".".join(place)
            raise BadInput(
                f"'{path}' is not what `robustkit eval` writes: {where} {said}"
            )
    config = run["config"]
    for name in ("attacks", "epsilons"):
        for norm in config["norms"]:
            if norm not in config[name]:
                raise BadInput(f"'{path}' has no {name} for its norm {norm}")


def check_warrants(content: Any, path: Path) -> None:
    """Refuse verdicts of active tests that are none; as `check_description`.

    Args:
        content: Under `norms` in warrants.json.
        path: Of the file, for the message.
    """
    rate = _or_none(_map_of(_or_none(_number)))
    if not _map_of(_map_of(_map_of(_anything)))(content) or not all(
        _text(test.get("verdict"))
        and _text(test.get("rule"))
        and _or_none(_number)(test.get("epsilon"))
        and rate(test.get("success_rate"))
        and rate(test.get("random_rate"))
        for tests in content.values()
        for test in tests.values()
    ):
        raise BadInput(f"'{path}' does not hold the verdicts of active tests")


_MISSING = object()


def _anything(_: Any) -> bool:
    return True


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _count(value: Any) -> bool:
    return _whole(value) and value > 0


def _yes_or_no(value: Any) -> bool:
    return isinstance(value, bool)


def _text_or_whole(value: Any) -> bool:
    return _text(value) or _whole(value)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _positive(value: Any) -> bool:
    return _number(value) and math.isfinite(value) and value > 0


def _bounds(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(_number(end) and math.isfinite(end) for end in value)
        and value[0] < value[1]
    )


def _shard(value: Any) -> bool:
    return _list_of(_whole)(value) and len(value) == 2 and 1 <= value[0] <= value[1]


def _norm(value: Any) -> bool:
    try:
        return _text(value) and repr(get_norm(value)) == value
    except BadInput:
        return False


def _attacks(value: Any) -> bool:
    return value is None or _text(value) or _list_of(_text)(value)


def _or_none(kind: Kind) -> Kind:
    return lambda value: value is None or kind(value)


def _list_of(kind: Kind) -> Kind:
    return lambda value: isinstance(value, list) and all(map(kind, value))


def _map_of(kind: Kind) -> Kind:
    return lambda value: isinstance(value, dict) and all(map(kind, value.values()))
