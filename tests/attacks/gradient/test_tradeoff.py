import numpy as np
import pytest

from robustkit.attacks.gradient.carlini_wagner import CarliniWagnerL2
from robustkit.attacks.gradient.ead import EAD
from robustkit.attacks.gradient.tradeoff import Tradeoff
from robustkit.engine.criteria import Misclassification
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor


def test_closes_in_on_the_weight_where_winning_begins():
    edge = np.array([0.003, 1.0, 700.0])
    one = as_tensor(np.ones(3))
    tradeoff = Tradeoff(one, one * 0, one * np.inf)
    for _ in range(40):
        won = as_tensor(tradeoff.weight.numpy() >= edge)
        tradeoff = tradeoff.after(won)
    np.testing.assert_allclose(tradeoff.weight.numpy(), edge, rtol=1e-6)


def test_stays_finite_where_nothing_ever_wins():
    one = as_tensor(np.ones(2))
    tradeoff = Tradeoff(one, one * 0, one * np.inf)
    for _ in range(400):
        tradeoff = tradeoff.after(as_tensor(np.array([False, False])))
    assert np.isfinite(tradeoff.weight.numpy()).all()


@pytest.mark.parametrize(
    ("kind", "norm", "budget"), [(EAD, "l1", 9), (CarliniWagnerL2, "l2", 2)]
)
def test_with_few_passes_it_asks_about_more_than_the_original(
    plant, kind, norm, budget
):
    planted, asked = plant(seed=8, classes=2), []
    model = planted.model()
    answer = model.linearise

    def linearise(x):
        asked.append(x.numpy())
        return answer(x)

    model.linearise = linearise
    x = as_tensor(planted.x)
    labels = Misclassification(as_tensor(planted.y))
    run(kind().within(budget), Problem(model, x, labels, get_norm(norm)))
    assert len(asked) == budget
    assert any((one != planted.x).any() for one in asked)
