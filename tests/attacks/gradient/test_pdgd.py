import numpy as np
import pytest
import torch

from robustkit.attacks.gradient.fmn import FMN
from robustkit.attacks.gradient.pdgd import PDGD, PDPGD
from robustkit.combine import Cascade
from robustkit.engine.criteria import Misclassification, Targeted, TopK
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.models.torch import TorchModel
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor

EVERY = [
    (PDGD, "l2"),
    (PDPGD, "l0"),
    (PDPGD, "l1"),
    (PDPGD, "l2"),
    (PDPGD, "linf"),
]
every = pytest.mark.parametrize(("kind", "norm"), EVERY)


@every
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-3.0, 5.0)])
def test_reaches_the_only_boundary_there_is(plant, laws, kind, norm, bounds):
    planted = plant(seed=1, classes=2, bounds=bounds)
    targets = 1 - planted.y
    criterion = Targeted(as_tensor(targets))
    ledger = laws.attack(kind(steps=1000), planted, norm, criterion)
    exact, distance = planted.exact(norm, targets), ledger.distance.numpy()
    assert (distance >= exact * (1 - 1e-9)).all()
    if norm == "l0":
        assert np.median(distance - exact) <= 0
        assert (distance <= exact + 1).all()
    else:
        assert np.median(distance / exact) <= 1.005
        assert (distance <= 1.05 * exact).all()


@every
def test_rescaled_inputs_give_the_rescaled_result(plant, laws, kind, norm):
    planted = plant(seed=4, bounds=(0.0, 1.0))
    laws.any_bounds_and_units(kind(steps=60), planted, norm)


@every
def test_a_sample_does_not_depend_on_the_others(plant, laws, kind, norm):
    laws.any_batch(kind(steps=40), plant(seed=5), norm)


@every
def test_one_forward_and_one_backward_pass_per_step(plant, laws, kind, norm):
    laws.passes(kind(steps=30), plant(seed=6), norm, forwards=30, backwards=30)


@every
def test_starts_from_the_best_adversarial_known(plant, laws, kind, norm):
    planted = plant(seed=9, classes=4)
    criterion = Misclassification(as_tensor(planted.y))
    x = as_tensor(planted.x)
    problem = Problem(planted.model(), x, criterion, get_norm(norm))
    _, last = laws.asked(Cascade((FMN(steps=30), kind(steps=1))), problem)[-1]
    known = laws.attack(FMN(steps=30), planted, norm).distance.numpy()
    assert np.isfinite(known).all()
    np.testing.assert_allclose(last, known, rtol=1e-6)


@every
def test_serves_other_criteria(plant, laws, kind, norm):
    planted = plant(seed=7, classes=4)
    criterion = TopK(as_tensor(planted.y), k=2)
    ledger = laws.attack(kind(steps=400), planted, norm, criterion)
    logits = planted.logits(ledger.best.numpy())
    found = ledger.found.numpy()
    own = logits[np.arange(len(logits)), planted.y]
    above = (logits > own[:, None]).sum(axis=1)
    assert found.all()
    assert (above >= 2).all()


@every
def test_the_scale_of_the_logits_does_not_decide(plant, laws, kind, norm):
    planted = plant(seed=8, classes=2)
    exact = planted.exact(norm)
    planted.w, planted.b = planted.w * 1000, planted.b * 1000
    distance = laws.attack(kind(steps=400), planted, norm).distance.numpy()
    assert np.median(distance / exact) <= 1.05


@every
def test_huge_logits_in_single_precision(plant, laws, kind, norm):
    planted = plant(seed=8, classes=2)
    planted.x = planted.x.astype(np.float32)
    planted.w, planted.b = planted.w * 1e12, planted.b * 1e12
    assert laws.attack(kind(steps=400), planted, norm).found.numpy().all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "norm"), [(PDGD, "l2"), (PDPGD, "l1"), (PDPGD, "linf")]
)
def test_real_networks_whose_exact_distances_are_known(shared, kind, norm):
    ratios = []
    for net in ("linear", "toy20"):
        known = shared.exact(net, norm)
        model = TorchModel(shared.exact_model(net).double())
        x = as_tensor(torch.tensor(known["x"][:20].astype(np.float64)))
        labels = as_tensor(torch.tensor(known["y"][:20]).long())
        problem = Problem(model, x, Misclassification(labels), get_norm(norm))
        distance = run(kind(steps=1000), problem).distance.numpy()
        assert (distance >= known["distance"][:20] * (1 - 1e-5)).all()
        ratios.extend(distance / known["distance"][:20])
    assert np.median(ratios) <= 1.02
