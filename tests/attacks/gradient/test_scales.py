"""How large the scores of a model are does not matter, only how they compare."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from robustkit.attacks.gradient.alma import ALMA
from robustkit.attacks.gradient.brendel_bethge import BrendelBethge
from robustkit.attacks.gradient.carlini_wagner import CarliniWagnerL2
from robustkit.attacks.gradient.carlini_wagner_l0 import CarliniWagnerL0
from robustkit.attacks.gradient.ddn import DDN
from robustkit.attacks.gradient.deepfool import DeepFool
from robustkit.attacks.gradient.ead import EAD
from robustkit.attacks.gradient.fab import FAB
from robustkit.attacks.gradient.fmn import FMN
from robustkit.attacks.gradient.relay import Relay
from robustkit.attacks.gradient.super_deepfool import SuperDeepFool
from robustkit.attacks.gradient.trust_region import TrustRegion
from robustkit.combine import minimum_norm_pgd
from robustkit.engine.criteria import Misclassification
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.models.numpy import NumPyModel
from robustkit.models.torch import TorchModel
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor

ATTACKS = {
    "alma-l1": ALMA(steps=50),
    "alma-l2": ALMA(steps=50),
    "brendel-bethge-l0": BrendelBethge(steps=50),
    "brendel-bethge-l1": BrendelBethge(steps=50),
    "brendel-bethge-l2": BrendelBethge(steps=50),
    "brendel-bethge-linf": BrendelBethge(steps=50),
    "ddn-l2": DDN(steps=50),
    "deepfool-l2": DeepFool(steps=50),
    "fab-l2": FAB(steps=20),
    "fmn-l1": FMN(steps=50),
    "fmn-l2": FMN(steps=50),
    "fmn-linf": FMN(steps=50),
    "pgd-l2": minimum_norm_pgd(),
    "relay-l0": Relay(steps=50),
    "relay-l1": Relay(steps=50),
    "relay-l2": Relay(steps=50),
    "relay-linf": Relay(steps=50),
    "superdeepfool-l2": SuperDeepFool(steps=20),
    "trust-region-l2": TrustRegion(steps=50),
}


def distances(attack, planted, norm, convert, factor, slope=None):
    bounds = Bounds(planted.lower, planted.upper)
    if convert is torch.tensor:
        matrix, offset = torch.tensor(planted.w), torch.tensor(planted.b)
        model = TorchModel(lambda x: (x @ matrix + offset) * factor, bounds)
    else:
        model = NumPyModel(
            lambda x: planted.logits(x) * factor,
            bounds,
            gradient=lambda x, slopes: planted.gradient(x, slopes * (slope or factor)),
        )
    x, y = as_tensor(convert(planted.x)), as_tensor(convert(planted.y))
    problem = Problem(model, x, Misclassification(y), get_norm(norm))
    return run(attack, problem).distance.numpy()


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("exponent", [-100, 100])
@pytest.mark.parametrize("convert", [np.asarray, torch.tensor])
def test_the_scale_of_the_scores_does_not_matter(plant, name, exponent, convert):
    planted = plant(seed=2, samples=6, dtype=np.float32)
    attack, norm = ATTACKS[name], name.rpartition("-")[2]
    plain = distances(attack, planted, norm, convert, np.float32(1.0))
    factor = np.float32(2.0**exponent)
    assert np.isfinite(plain).all()
    found = distances(attack, planted, norm, convert, factor)
    # Rounding, which differs between processors, may decide where a walk ends.
    near = np.isclose(found, plain, rtol=0.1)
    assert near.sum() >= (5 if name.startswith("relay") else 6)


@pytest.mark.parametrize(
    "name", [name for name in ATTACKS if not name.startswith(("alma", "pgd"))]
)
def test_gradients_that_nearly_vanish(plant, name):
    """As those of probabilities do where a network is sure, and margins do not."""
    planted = plant(seed=2, samples=6, dtype=np.float32)
    attack, norm = ATTACKS[name], name.rpartition("-")[2]
    one, tiny = np.float32(1.0), np.float32(2.0**-100)
    # Boundaries seem far away, but no farther than the box.
    assert np.isfinite(distances(attack, planted, norm, np.asarray, one, tiny)).all()


@pytest.mark.parametrize(
    ("attack", "norm"),
    [(CarliniWagnerL2(200, 4), "l2"), (CarliniWagnerL0(40), "l0"), (EAD(40, 4), "l1")],
)
def test_first_weights_are_numbers_at_any_scale(plant, attack, norm):
    planted = plant(seed=2, samples=6, dtype=np.float32)
    one, huge = np.float32(1.0), np.float32(2.0**100)
    plain = distances(attack, planted, norm, np.asarray, one)
    found = distances(attack, planted, norm, np.asarray, huge)
    assert np.isfinite(plain).mean() > 0.5
    assert_allclose(found, plain, rtol=0.1)
    # The largest weight that is tried is too small here.
    distances(attack, planted, norm, np.asarray, one, 1 / huge)
