"""Defenses that were broken, rebuilt small, with the evaluations that believed in them.

Each module here has ``make``, which returns a `Defense`; those with weights of their
own have ``train``. ``python -m robustkit_attacks_zoo.defenses`` makes the table of
docs/explanation/thirteen-defenses.md.
"""

from importlib import import_module

from robustkit.errors import BadInput, suggestion

from robustkit_attacks_zoo.defenses.defense import Defense

__all__ = ["DEFENSES", "Defense", "defense"]

DEFENSES: dict[str, str] = {
    "k-wta": "k_wta",
    "odds": "odds",
    "generative": "generative",
    "sparse-fourier": "sparse_fourier",
    "mmc": "mmc",
    "ecoc": "ecoc",
    "adp": "adp",
    "empir": "empir",
    "temporal": "temporal",
    "mixup": "mixup",
    "me-net": "me_net",
    "asymmetric": "asymmetric",
    "weakness": "weakness",
    "distillation": "distillation",
    "thermometer": "thermometer",
    "jpeg": "codec",
    "quantisation": "quantised",
    "resizing": "resizing",
    "blacklight": "blacklight",
    "honest": "honest",
}
"""Names and modules: the thirteen in the paper's order, further ones, an honest one."""


def defense(name: str) -> Defense:
    """The defense of that name, with its weights.

    Raises:
        BadInput: There is none.

    >>> defense("k-wta").epsilon
    0.15
    """
    if name not in DEFENSES:
        raise BadInput(f"unknown defense '{name}'; {suggestion(name, DEFENSES)}")
    module = import_module(f"{__name__}.{DEFENSES[name]}")
    made: Defense = module.make()
    return made
