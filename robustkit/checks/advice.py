"""Which attacks `robustkit eval` is to be told to run beside `auto`."""

from collections.abc import Sequence

from robustkit.models.base import Access
from robustkit.registry import get_attack

__all__ = ["beside_auto"]

# By decisions; each minimises the norms that the ones before it do not.
_BLIND = ("boundary", "pointwise")
_NOISE = ("gaussian-noise",)
_STEP = ("fgsm",)


def beside_auto(
    norms: Sequence[str],
    *,
    blind: bool = False,
    noise: bool = False,
    access: Access = Access.GRADIENT,
) -> str:
    """Options that run other attacks as well, in norms that these can minimise.

    Args:
        norms: Names of those that are asked for.
        blind: Run one that needs decisions only.
        noise: Run plain noise, and a single step where there is one.
        access: What the model shows.

    >>> beside_auto(["linf", "l2"], blind=True)
    '--attacks auto,boundary'
    >>> beside_auto(["linf", "l2", "l0"], blind=True)
    '--norm linf --norm l2 --attacks auto,boundary; --norm l0 --attacks auto,pointwise'
    """
    wanted: dict[str, list[str]] = {}
    for norm in norms:
        chosen = ["auto"]
        for names in (_BLIND,) * blind + (_NOISE, _STEP) * noise:
            chosen += [name for name in names if _serves(name, norm, access)][:1]
        wanted.setdefault(",".join(chosen), []).append(norm)
    if len(wanted) == 1:
        return f"--attacks {next(iter(wanted))}"
    return "; ".join(
        "".join(f"--norm {norm} " for norm in some) + f"--attacks {names}"
        for names, some in wanted.items()
    )


def _serves(name: str, norm: str, access: Access) -> bool:
    attack = get_attack(name)
    kind = "l0" if norm.startswith("l0") else norm
    return kind in attack.norms and attack.access <= access
