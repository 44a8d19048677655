"""Robustkit: how robust a classifier really is, and proof that the answer holds.

The public names are loaded when first used, so that `import robustkit` and
`robustkit --help` import no framework.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Access": "robustkit.models.base",
    "AllOf": "robustkit.engine.criteria",
    "AnyOf": "robustkit.engine.criteria",
    "Attack": "robustkit.engine.attack",
    "BadInput": "robustkit.errors",
    "Blend": "robustkit.attacks.baseline.blend",
    "Boundary": "robustkit.attacks.decision.boundary",
    "Bounds": "robustkit.numerics.bounds",
    "Confident": "robustkit.engine.criteria",
    "Contrast": "robustkit.attacks.baseline.contrast",
    "Criterion": "robustkit.engine.criteria",
    "Custom": "robustkit.engine.criteria",
    "FMN": "robustkit.attacks.gradient.fmn",
    "GaussianNoise": "robustkit.attacks.baseline.noise",
    "L0": "robustkit.numerics.norms",
    "L1": "robustkit.numerics.norms",
    "L2": "robustkit.numerics.norms",
    "Linf": "robustkit.numerics.norms",
    "Minimise": "robustkit.combine",
    "Misclassification": "robustkit.engine.criteria",
    "Model": "robustkit.models.base",
    "NumPyModel": "robustkit.models.numpy",
    "OrderedTopK": "robustkit.engine.criteria",
    "PGD": "robustkit.attacks.gradient.pgd",
    "Preprocessed": "robustkit.models.wrappers",
    "Problem": "robustkit.engine.problem",
    "Results": "robustkit.evaluation.results",
    "SaltAndPepper": "robustkit.attacks.baseline.salt_and_pepper",
    "Targeted": "robustkit.engine.criteria",
    "TopK": "robustkit.engine.criteria",
    "TorchModel": "robustkit.models.torch",
    "UniformNoise": "robustkit.attacks.baseline.noise",
    "evaluate": "robustkit.evaluation.evaluate",
    "get_attack": "robustkit.registry",
    "load_data": "robustkit.evaluation.data",
    "load_model": "robustkit.models.load",
    "run": "robustkit.evaluation.single",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'robustkit' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
