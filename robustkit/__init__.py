"""Robustkit: how robust a classifier really is, and proof that the answer holds.

The public names are loaded when first used, so that `import robustkit` and
`robustkit --help` import no framework.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "ALMA": "robustkit.attacks.gradient.alma",
    "APGD": "robustkit.attacks.gradient.apgd",
    "Abstaining": "robustkit.models.abstaining",
    "Access": "robustkit.models.base",
    "AllOf": "robustkit.engine.criteria",
    "AnyOf": "robustkit.engine.criteria",
    "Attack": "robustkit.engine.attack",
    "BPDA": "robustkit.models.bpda",
    "BadInput": "robustkit.errors",
    "Blend": "robustkit.attacks.baseline.blend",
    "Boundary": "robustkit.attacks.decision.boundary",
    "Bounds": "robustkit.numerics.bounds",
    "BrendelBethge": "robustkit.attacks.gradient.brendel_bethge",
    "CGBA": "robustkit.attacks.decision.cgba",
    "CGBAH": "robustkit.attacks.decision.cgba",
    "CarliniWagnerL0": "robustkit.attacks.gradient.carlini_wagner_l0",
    "CarliniWagnerL2": "robustkit.attacks.gradient.carlini_wagner",
    "CarliniWagnerLinf": "robustkit.attacks.gradient.carlini_wagner",
    "Cascade": "robustkit.combine",
    "Compass": "robustkit.attacks.decision.compass",
    "Confident": "robustkit.engine.criteria",
    "Contrast": "robustkit.attacks.baseline.contrast",
    "Criterion": "robustkit.engine.criteria",
    "Custom": "robustkit.engine.criteria",
    "DDN": "robustkit.attacks.gradient.ddn",
    "DeepFool": "robustkit.attacks.gradient.deepfool",
    "EAD": "robustkit.attacks.gradient.ead",
    "EOT": "robustkit.models.eot",
    "Estimated": "robustkit.models.estimated",
    "Evolution": "robustkit.attacks.score.evolution",
    "FAB": "robustkit.attacks.gradient.fab",
    "FGSM": "robustkit.attacks.gradient.fgsm",
    "FMN": "robustkit.attacks.gradient.fmn",
    "GaussianBlur": "robustkit.attacks.baseline.blur",
    "GaussianNoise": "robustkit.attacks.baseline.noise",
    "GeoDA": "robustkit.attacks.decision.geoda",
    "Greedy": "robustkit.attacks.gradient.greedy",
    "HopSkipJump": "robustkit.attacks.decision.hopskipjump",
    "L0": "robustkit.numerics.norms",
    "L1": "robustkit.numerics.norms",
    "L2": "robustkit.numerics.norms",
    "LabelModel": "robustkit.models.labels",
    "Linf": "robustkit.numerics.norms",
    "MIFGSM": "robustkit.attacks.gradient.momentum",
    "MajorityVote": "robustkit.models.wrappers",
    "Matching": "robustkit.engine.criteria",
    "Minimise": "robustkit.combine",
    "Misclassification": "robustkit.engine.criteria",
    "Model": "robustkit.models.base",
    "NumPyModel": "robustkit.models.numpy",
    "OrderedTopK": "robustkit.engine.criteria",
    "PDGD": "robustkit.attacks.gradient.pdgd",
    "PDPGD": "robustkit.attacks.gradient.pdgd",
    "PGD": "robustkit.attacks.gradient.pgd",
    "PatchRS": "robustkit.attacks.score.patch_rs",
    "Pointwise": "robustkit.attacks.decision.pointwise",
    "Polish": "robustkit.attacks.gradient.polish",
    "PoolEngine": "robustkit.evaluation.pool_engine",
    "Preprocessed": "robustkit.models.wrappers",
    "Problem": "robustkit.engine.problem",
    "RayEngine": "robustkit.evaluation.ray_engine",
    "RayS": "robustkit.attacks.decision.rays",
    "Relay": "robustkit.attacks.gradient.relay",
    "RemoteModel": "robustkit.models.remote",
    "Results": "robustkit.evaluation.results",
    "SaltAndPepper": "robustkit.attacks.baseline.salt_and_pepper",
    "SigmaZero": "robustkit.attacks.gradient.sigma_zero",
    "SignOPT": "robustkit.attacks.decision.sign_opt",
    "SimBA": "robustkit.attacks.score.simba",
    "SparseRS": "robustkit.attacks.score.sparse_rs",
    "Spatial": "robustkit.attacks.baseline.spatial",
    "Square": "robustkit.attacks.score.square",
    "SuperDeepFool": "robustkit.attacks.gradient.super_deepfool",
    "SurFree": "robustkit.attacks.decision.surfree",
    "Surrogate": "robustkit.models.surrogate",
    "Targeted": "robustkit.engine.criteria",
    "TargetedFAB": "robustkit.attacks.gradient.fab",
    "TopK": "robustkit.engine.criteria",
    "TorchModel": "robustkit.models.torch",
    "Thompson": "robustkit.attacks.score.thompson",
    "Triangle": "robustkit.attacks.decision.triangle",
    "TrustRegion": "robustkit.attacks.gradient.trust_region",
    "Undetected": "robustkit.engine.criteria",
    "UniformNoise": "robustkit.attacks.baseline.noise",
    "VFGA": "robustkit.attacks.gradient.vfga",
    "WithFeatures": "robustkit.models.surrogate",
    "active_test": "robustkit.active_tests.binarization",
    "adapt": "robustkit.adaptive.adapt",
    "auto": "robustkit.presets",
    "autoattack": "robustkit.presets",
    "bound_below": "robustkit.active_tests.lower",
    "check": "robustkit.checks.check",
    "compare": "robustkit.evaluation.compare",
    "evaluate": "robustkit.evaluation.evaluate",
    "get_attack": "robustkit.registry",
    "load_data": "robustkit.evaluation.data",
    "load_model": "robustkit.models.load",
    "merge": "robustkit.evaluation.merge",
    "qeba": "robustkit.attacks.decision.hopskipjump",
    "resume": "robustkit.evaluation.resume",
    "run": "robustkit.evaluation.single",
    "verify": "robustkit.evaluation.audit",
    "warrant": "robustkit.active_tests.warrant",
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
