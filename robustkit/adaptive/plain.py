"""The plain evaluation of a model that turns out to have no gradients."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robustkit.engine.criteria import Misclassification
from robustkit.evaluation.opening import model_and_data
from robustkit.models.base import Access, NoGradient
from robustkit.numerics.norms import Norm, get_norm
from robustkit.numerics.tensors import Array
from robustkit.registry import choose_attacks

__all__ = ["attacks_that_run"]

# What `auto` is by scores, in every norm.
_BY_SCORES = "thompson"


def attacks_that_run(
    model: Any,
    data: Any,
    attacks: Sequence[str],
    norms: Sequence[str],
    *,
    bounds: tuple[float, float] | None = None,
    mean: Any = None,
    std: Any = None,
    device: str | None = None,
    cache: str | Path | None = None,
    headers: Mapping[str, str] | None = None,
) -> list[str]:
    """The attacks named, with another for those that need gradients it does not have.

    One by scores, or by decisions where the model shows no more: so there is a plain
    number for the remedies to start from, where attacks that follow gradients would
    end in an error.

    Args:
        model: As for `evaluate`; also `data`, `bounds`, `mean`, `std` and `device`.
        data: See `model`.
        attacks: Names.
        norms: Names.
        bounds: See `model`.
        mean: See `model`.
        std: See `model`.
        device: See `model`.
        cache: Of a model at an address, as for `evaluate`.
        headers: See `cache`.

    >>> attacks_that_run("digits", "digits", ["auto"], ["linf"])
    ['auto']
    >>> import robustkit as rk
    >>> net = rk.load_model("digits").module
    >>> cut = lambda x: net(x.detach())
    >>> attacks_that_run(cut, "digits", ["auto"], ["linf"])
    ['thompson']
    >>> attacks_that_run(cut, "digits", ["auto", "boundary"], ["linf"])
    ['thompson', 'boundary']
    """
    adapted, dataset = model_and_data(
        model,
        data,
        bounds,
        2,
        device=device,
        mean=mean,
        std=std,
        cache=cache,
        headers=headers,
    )
    chosen = [get_norm(norm) for norm in norms]
    blind = [name for name in attacks if not _needs_gradients(name, chosen)]
    if len(blind) == len(attacks) or _has_gradients(adapted, dataset.example[:1]):
        return list(attacks)
    # What `auto` is depends on what a model says that it shows.
    instead = "auto" if adapted.access < Access.SCORE else _BY_SCORES
    return list(dict.fromkeys([instead, *blind]))


def _needs_gradients(name: str, norms: Sequence[Norm]) -> bool:
    return any(
        attack.access is Access.GRADIENT
        for norm in norms
        for attack in choose_attacks(name, norm, Access.GRADIENT).values()
    )


def _has_gradients(model: Any, x: Array) -> bool:
    try:
        with model.session():
            logits, pull_back = model.linearise(model.to_tensor(x))
            label = logits.argmax(axis=1)
            pull_back(Misclassification(label).slopes(logits)[1])
    except NoGradient:
        return False
    return True
