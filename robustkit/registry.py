"""Attacks by name: ours, installed plug-ins, and foolbox's."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any

from robustkit.arguments import as_whole
from robustkit.engine.attack import Attack, FixedBudget, questions
from robustkit.errors import BadInput, suggestion
from robustkit.models.base import Access, Model
from robustkit.numerics.norms import Norm

__all__ = ["PLUGIN_GROUP", "attack_names", "choose_attacks", "get_attack"]

PLUGIN_GROUP = "robustkit.attacks"
"""Entry-point group: a name, and a class or function that returns an `Attack`."""

_OURS = {
    "relay": "robustkit.attacks.gradient.relay:Relay",
    "polish": "robustkit.attacks.gradient.polish:Polish",
    "greedy": "robustkit.attacks.gradient.greedy:Greedy",
    "fmn": "robustkit.attacks.gradient.fmn:FMN",
    "brendel-bethge": "robustkit.attacks.gradient.brendel_bethge:BrendelBethge",
    "ddn": "robustkit.attacks.gradient.ddn:DDN",
    "fab": "robustkit.attacks.gradient.fab:FAB",
    "fab-targeted": "robustkit.attacks.gradient.fab:TargetedFAB",
    "alma": "robustkit.attacks.gradient.alma:ALMA",
    "pdgd": "robustkit.attacks.gradient.pdgd:PDGD",
    "pdpgd": "robustkit.attacks.gradient.pdgd:PDPGD",
    "deepfool": "robustkit.attacks.gradient.deepfool:DeepFool",
    "superdeepfool": "robustkit.attacks.gradient.super_deepfool:SuperDeepFool",
    "trust-region": "robustkit.attacks.gradient.trust_region:TrustRegion",
    "carlini-wagner-l0": (
        "robustkit.attacks.gradient.carlini_wagner_l0:CarliniWagnerL0"
    ),
    "carlini-wagner-l2": "robustkit.attacks.gradient.carlini_wagner:CarliniWagnerL2",
    "carlini-wagner-linf": (
        "robustkit.attacks.gradient.carlini_wagner:CarliniWagnerLinf"
    ),
    "ead": "robustkit.attacks.gradient.ead:EAD",
    "sigma-zero": "robustkit.attacks.gradient.sigma_zero:SigmaZero",
    "vfga": "robustkit.attacks.gradient.vfga:VFGA",
    "fgsm": "robustkit.attacks.gradient.fgsm:FGSM",
    "pgd": "robustkit.combine:minimum_norm_pgd",
    "bim": "robustkit.presets:minimum_norm_bim",
    "mi-fgsm": "robustkit.presets:minimum_norm_mi_fgsm",
    "ni-fgsm": "robustkit.presets:minimum_norm_ni_fgsm",
    "apgd": "robustkit.presets:minimum_norm_apgd",
    "thompson": "robustkit.presets:minimum_norm_thompson",
    "square": "robustkit.presets:minimum_norm_square",
    "sparse-rs": "robustkit.presets:minimum_norm_sparse_rs",
    "patch-rs": "robustkit.presets:minimum_norm_patch_rs",
    "simba": "robustkit.presets:minimum_norm_simba",
    "evolution": "robustkit.attacks.score.evolution:Evolution",
    "compass": "robustkit.attacks.decision.compass:Compass",
    "sieve": "robustkit.attacks.decision.sieve:Sieve",
    "boundary": "robustkit.attacks.decision.boundary:Boundary",
    "hopskipjump": "robustkit.attacks.decision.hopskipjump:HopSkipJump",
    "qeba": "robustkit.attacks.decision.hopskipjump:qeba",
    "cgba": "robustkit.attacks.decision.cgba:CGBA",
    "cgba-h": "robustkit.attacks.decision.cgba:CGBAH",
    "geoda": "robustkit.attacks.decision.geoda:GeoDA",
    "sign-opt": "robustkit.attacks.decision.sign_opt:SignOPT",
    "pointwise": "robustkit.attacks.decision.pointwise:Pointwise",
    "rays": "robustkit.attacks.decision.rays:RayS",
    "surfree": "robustkit.attacks.decision.surfree:SurFree",
    "triangle": "robustkit.attacks.decision.triangle:Triangle",
    "uniform-noise": "robustkit.attacks.baseline.noise:UniformNoise",
    "gaussian-noise": "robustkit.attacks.baseline.noise:GaussianNoise",
    "salt-and-pepper": "robustkit.attacks.baseline.salt_and_pepper:SaltAndPepper",
    "gaussian-blur": "robustkit.attacks.baseline.blur:GaussianBlur",
    "spatial": "robustkit.attacks.baseline.spatial:Spatial",
    "contrast": "robustkit.attacks.baseline.contrast:Contrast",
    "blend": "robustkit.attacks.baseline.blend:Blend",
}
_STANDARD = {
    Access.GRADIENT: ("fmn", "pgd", "gaussian-noise", "salt-and-pepper"),
    Access.SCORE: ("boundary", "gaussian-noise", "salt-and-pepper"),
    Access.DECISION: ("boundary", "gaussian-noise", "salt-and-pepper"),
}


def attack_names() -> list[str]:
    """Every attack that can be named, ours first."""
    plugins = {entry.name for entry in entry_points(group=PLUGIN_GROUP)}
    return [*_OURS, *sorted(plugins - _OURS.keys())]


def get_attack(name: str) -> Attack[Any]:
    """The attack of that name with its default settings.

    Args:
        name: One of `attack_names()`, or "foolbox:" and the name of a foolbox attack.

    Raises:
        BadInput: No such attack, or a plug-in does not give one.
        MissingPackage: foolbox is asked for and not installed.

    >>> get_attack("fmn").steps
    100
    """
    if not isinstance(name, str):
        raise BadInput(
            f"expected the name of an attack; got {name!r}. Give attacks as objects in "
            "a mapping from names of your own"
        )
    if name.startswith("foolbox:"):
        guests = importlib.import_module("robustkit.interop.foolbox")
        attack: Attack[Any] = guests.foolbox_attack(name.removeprefix("foolbox:"))
        return attack
    if name in _OURS:
        module, _, attribute = _OURS[name].partition(":")
        build = getattr(importlib.import_module(module), attribute)
    else:
        build = _plugin(name)
    attack = build()
    if not isinstance(attack, Attack):
        raise BadInput(
            f"the plug-in attack '{name}' gave a {type(attack).__name__}; expected a "
            "robustkit Attack"
        )
    return attack


def choose_attacks(
    attacks: str | Sequence[str] | Mapping[str, Attack[Any]],
    norm: Norm,
    access: Access,
    budget: int | None = None,
    model: Model | None = None,
    epsilon: float | None = None,
) -> dict[str, Attack[Any]]:
    """Attacks by name, for one norm and the access there is.

    Args:
        attacks: "auto", "standard", names, or attacks by names of your own.
        norm: To be minimised.
        access: What the model shows, or less where less shall be used.
        budget: Plan named attacks for so many passes; None: as they are.
        model: Whose questions may cost several passes each; None: one that costs one.
        epsilon: The size of most interest to `auto`, in norm units; None: none.

    Raises:
        BadInput: No such attack; or one cannot minimise the norm or needs more access.
    """
    if not isinstance(attacks, str | Mapping | Sequence):
        raise BadInput(
            "attacks must be 'auto', 'standard', names, or a mapping from names of "
            f"your own to attacks; got a {type(attacks).__name__}"
        )
    if isinstance(attacks, Mapping):
        chosen, budget = dict(attacks), None
    else:
        names = [attacks] if isinstance(attacks, str) else attacks
        chosen = {}
        for name in names:
            chosen |= _named(name, norm, access, epsilon)
    if not chosen:
        raise BadInput("no attack was named; name one, or say 'auto'")
    for name, attack in chosen.items():
        # Names stand in tables, a row to a line.
        fits = isinstance(name, str) and 0 < len(name) <= 64 and name.isprintable()
        if not isinstance(attack, Attack) or not fits:
            raise BadInput(
                "expected attacks by names of 1 to 64 printable characters, such as "
                f"{{'fmn': FMN(steps=500)}}; got {{{name!r}: {attack!r}}}"
            )
        if isinstance(attack, FixedBudget):
            raise BadInput(
                f"the attack '{name}' searches within one distance only and says "
                "nothing about others; give Minimise(...) of it, which tries many"
            )
        if norm.name not in attack.norms:
            raise BadInput(
                f"the attack '{name}' cannot minimise the norm {norm}; it can "
                f"minimise {', '.join(sorted(attack.norms))}"
            )
        if attack.access > access:
            less = ("auto", *_named("standard", norm, access, None))
            raise BadInput(
                f"the attack '{name}' needs {attack.access.name.lower()} access, but "
                f"there is {access.name.lower()} access only; attacks for that: "
                f"{', '.join(less)}"
            )
    if budget is None:
        return chosen
    budget = as_whole(budget, "the budget", least=1)
    planned = {}
    for name, attack in chosen.items():
        steps = budget if model is None else questions(budget, model, attack.access)
        if name == "auto":
            # Not the plan for another budget in proportion.
            planned[name] = _auto(norm, access, epsilon, steps)
        else:
            planned[name] = attack.within(steps)
    return planned


def _named(
    name: str, norm: Norm, access: Access, epsilon: float | None
) -> dict[str, Attack[Any]]:
    """The attack of that name, or those that a preset's name stands for."""
    if name == "auto":
        return {name: _auto(norm, access, epsilon, None)}
    if name != "standard":
        return {name: get_attack(name)}
    chosen = {name: get_attack(name) for name in _STANDARD[access]}
    return {name: a for name, a in chosen.items() if norm.name in a.norms}


def _auto(
    norm: Norm, access: Access, epsilon: float | None, steps: int | None
) -> Attack[Any]:
    preset = importlib.import_module("robustkit.presets").auto
    attack: Attack[Any] = preset(norm, steps, access, epsilon)
    return attack


def _plugin(name: str) -> Callable[[], Any]:
    for entry in entry_points(group=PLUGIN_GROUP):
        if entry.name == name:
            build: Callable[[], Any] = entry.load()
            return build
    if name in ("auto", "standard"):
        raise BadInput(
            f"'{name}' is a choice that depends on the norm and on what the model "
            "shows: use robustkit.evaluate, or robustkit.auto(norm, access=...)"
        )
    known = [*attack_names(), "auto", "standard"]
    raise BadInput(f"unknown attack '{name}'; {suggestion(name, known)}")
