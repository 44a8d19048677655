import numpy as np
import pytest
import torch

from robustkit.attacks.gradient.alma import ALMA
from robustkit.engine.criteria import Misclassification, Targeted, TopK
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.models.numpy import NumPyModel
from robustkit.models.torch import TorchModel
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor

NORMS = ("l1", "l2")
both = pytest.mark.parametrize("norm", NORMS)


@both
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-3.0, 5.0)])
def test_reaches_the_only_boundary_there_is(plant, laws, norm, bounds):
    planted = plant(seed=1, classes=2, bounds=bounds)
    targets = 1 - planted.y
    criterion = Targeted(as_tensor(targets))
    ledger = laws.attack(ALMA(steps=1000), planted, norm, criterion)
    exact, distance = planted.exact(norm, targets), ledger.distance.numpy()
    assert (distance >= exact * (1 - 1e-9)).all()
    assert np.median(distance / exact) <= (1.02 if norm == "l1" else 1.005)
    assert (distance <= 1.1 * exact).all()


@both
def test_rescaled_inputs_give_the_rescaled_result(plant, laws, norm):
    planted = plant(seed=4, bounds=(0.0, 1.0))
    laws.any_bounds_and_units(ALMA(steps=60), planted, norm)


@both
def test_a_sample_does_not_depend_on_the_others(plant, laws, norm):
    laws.any_batch(ALMA(steps=40), plant(seed=5), norm)


@both
def test_one_forward_and_one_backward_pass_per_step(plant, laws, norm):
    laws.passes(ALMA(steps=30), plant(seed=6), norm, forwards=30, backwards=30)


@both
def test_serves_other_criteria(plant, laws, norm):
    planted = plant(seed=7, classes=4)
    criterion = TopK(as_tensor(planted.y), k=2)
    ledger = laws.attack(ALMA(steps=300), planted, norm, criterion)
    logits = planted.logits(ledger.best.numpy())
    own = logits[np.arange(len(logits)), planted.y]
    assert ((logits > own[:, None]).sum(axis=1) >= 2).all()


@both
@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_an_original_without_an_answer_leads_to_no_point_that_is_no_number(
    norm, broken
):
    x, asked = np.array([[0.6, 0.4], [0.7, 0.2]]), []

    def scores(points):
        asked.append(points)
        logits = points.copy()
        logits[(points == x[0]).all(axis=1), 0] = broken
        return logits

    model = NumPyModel(scores, gradient=lambda points, slopes: slopes)
    criterion = Misclassification(as_tensor(np.zeros(2, dtype=np.int64)))
    problem = Problem(model, as_tensor(x), criterion, get_norm(norm))
    ledger = run(ALMA(steps=40), problem)
    assert np.isfinite(np.concatenate(asked)).all()
    assert ledger.found.numpy().all()


@both
def test_the_scale_of_the_logits_does_not_matter(plant, laws, norm):
    planted = plant(seed=8)
    expected = laws.attack(ALMA(), planted, norm).distance.numpy()
    planted.w, planted.b = planted.w * 1024, planted.b * 1024
    distance = laws.attack(ALMA(), planted, norm).distance.numpy()
    np.testing.assert_allclose(distance, expected, rtol=1e-9)


@pytest.mark.slow
@both
def test_real_networks_whose_exact_distances_are_known(shared, norm):
    ratios = []
    for net in ("linear", "toy20"):
        known = shared.exact(net, norm)
        model = TorchModel(shared.exact_model(net).double())
        x = as_tensor(torch.tensor(known["x"][:20].astype(np.float64)))
        labels = as_tensor(torch.tensor(known["y"][:20]).long())
        problem = Problem(model, x, Misclassification(labels), get_norm(norm))
        distance = run(ALMA(steps=1000), problem).distance.numpy()
        assert (distance >= known["distance"][:20] * (1 - 1e-5)).all()
        ratios.extend(distance / known["distance"][:20])
    assert np.median(ratios) <= 1.05


@both
@pytest.mark.filterwarnings("error")
def test_a_label_that_is_ruled_out_brings_no_warning(norm):
    def logits(x):
        own = np.where(x[:, 0] > 0.6, -np.inf, 0.1 - 0.1 * x[:, 0])
        return np.stack([own, 0 * x[:, 0]], axis=1)

    slope = np.array([[-0.1, 0.0], [0.0, 0.0]], np.float32)
    model = NumPyModel(logits, gradient=lambda x, s: s @ slope)
    x = as_tensor(np.full((1, 2), 0.55, np.float32))
    criterion = Misclassification(as_tensor(np.array([0])))
    ledger = run(ALMA(steps=40), Problem(model, x, criterion, get_norm(norm)))
    assert ledger.distance.numpy()[0] < 0.2
