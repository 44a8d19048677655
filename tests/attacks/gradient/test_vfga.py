import numpy as np
import pytest
import torch

from robustkit.attacks.gradient.vfga import VFGA
from robustkit.engine.criteria import Misclassification, Targeted, TopK
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.models.torch import TorchModel
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor


def test_few_features_more_than_the_exact_minimum(plant, laws):
    planted = plant(seed=1, classes=2, bounds=(-3.0, 5.0), features=30)
    targets = 1 - planted.y
    ledger = laws.attack(VFGA(), planted, "l0", Targeted(as_tensor(targets)))
    exact, distance = planted.exact("l0", targets), ledger.distance.numpy()
    assert (distance >= exact).all()
    assert np.median(distance / exact) <= 1.25


def test_the_whole_room_is_used_where_amounts_are_many(plant, laws):
    planted = plant(seed=2, classes=2)
    many = laws.attack(VFGA(candidates=40), planted, "l0").distance.numpy()
    assert (many == planted.exact("l0")).mean() >= 0.9


def test_rescaled_inputs_give_the_rescaled_result(plant, laws):
    """Random numbers are keyed by the inputs, so a shared key is given here."""
    planted = plant(seed=4, bounds=(0.0, 1.0))
    wide = plant(seed=4, bounds=(0.0, 1.0))
    wide.upper = 4.0
    wide.x, wide.w = planted.x * 4, planted.w / 4
    keys = np.arange(len(planted.x), dtype=np.uint64)
    distances = []
    for case in (planted, wide):
        criterion = Misclassification(as_tensor(case.y))
        x = as_tensor(case.x)
        problem = Problem(case.model(), x, criterion, get_norm("l0"), keys=keys)
        distances.append(run(VFGA(), problem).distance.numpy())
    assert np.isfinite(distances[0]).all()
    np.testing.assert_array_equal(*distances)


def test_a_sample_does_not_depend_on_the_others(plant, laws):
    laws.any_batch(VFGA(), plant(seed=5), "l0")


def test_passes_per_feature_are_those_promised(plant, laws):
    planted = plant(seed=6, features=20)
    ledger = laws.attack(VFGA(candidates=3), planted, "l0")
    assert ledger.found.numpy().all()
    assert (ledger.steps > 1).any()
    np.testing.assert_array_equal(ledger.forwards, 7 * ledger.steps)
    np.testing.assert_array_equal(ledger.backwards, ledger.steps)
    assert VFGA().within(100).steps == 4


def test_serves_other_criteria(plant, laws):
    planted = plant(seed=7, classes=4)
    ledger = laws.attack(VFGA(), planted, "l0", TopK(as_tensor(planted.y), k=2))
    logits = planted.logits(ledger.best.numpy())
    own = logits[np.arange(len(logits)), planted.y]
    assert ((logits > own[:, None]).sum(axis=1) >= 2).all()


@pytest.mark.slow
def test_a_real_network_whose_exact_distances_are_known(shared):
    known = shared.exact("linear", "l0")
    model = TorchModel(shared.exact_model("linear").double())
    x = as_tensor(torch.tensor(known["x"][:24].astype(np.float64)))
    criterion = Misclassification(as_tensor(torch.tensor(known["y"][:24]).long()))
    problem = Problem(model, x, criterion, get_norm("l0"))
    distance = run(VFGA(), problem).distance.numpy()
    assert (distance >= known["distance"][:24]).all()
    assert np.median(distance - known["distance"][:24]) <= 2
