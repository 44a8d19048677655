"""Carlini-Wagner's attack in L0, beside the least number of features that suffices.

The peer spares one feature after another and searches each time anew: four images took
more than six minutes.
So both are asked about planted models.
"""

import numpy as np
import pytest
import torch

from robustkit.attacks.gradient.carlini_wagner_l0 import CarliniWagnerL0
from robustkit.engine.criteria import Misclassification
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.models.torch import TorchModel
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor


class Columns(torch.nn.Module):
    """Linear, for inputs (n, features, 1, 1) too; counts questions."""

    def __init__(self, planted):
        super().__init__()
        self.linear = torch.nn.Linear(*planted.w.shape)
        self.linear.weight.data = torch.tensor(planted.w.T).float()
        self.linear.bias.data = torch.tensor(planted.b).float()
        self.passes = 0

    def forward(self, x):
        self.passes += 1
        return self.linear(x.flatten(1))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_not_worse_than_art(peer, plant, beside):
    art = peer("art.attacks.evasion")
    estimators = peer("art.estimators.classification")
    planted = plant(samples=8, features=40, classes=3, bounds=(0.0, 1.0))
    x, y = planted.x.astype(np.float32), planted.y
    module = Columns(planted).requires_grad_(False)
    classifier = estimators.PyTorchClassifier(
        module,
        loss=torch.nn.CrossEntropyLoss(),
        input_shape=(x.shape[1], 1, 1),
        nb_classes=3,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    attack = art.CarliniL0Method(
        classifier,
        binary_search_steps=5,
        max_iter=10,
        initial_const=10.0,
        learning_rate=0.1,
        batch_size=len(x),
        verbose=False,
    )
    points = attack.generate(x[:, :, None, None], y)[:, :, 0, 0]
    passes = module.passes
    with torch.no_grad():
        wrong = module(torch.tensor(points)).argmax(dim=1).numpy() != y
    changed = (np.abs(points - x) > 1e-6).sum(axis=1)
    theirs = np.where(wrong, changed, np.inf)

    criterion = Misclassification(as_tensor(torch.tensor(y).long()))
    problem = Problem(
        TorchModel(module), as_tensor(torch.tensor(x)), criterion, get_norm("l0")
    )
    ours = run(CarliniWagnerL0(steps=passes), problem, budget=passes).distance.numpy()
    exact = planted.exact("l0")
    assert (ours >= exact).all()
    ratio = np.median(ours / theirs)
    beside("C-W", "ART", "l0", "planted, linear", f"{ratio:.3f}")
    assert ratio <= 1.02
    assert np.median(ours / exact) <= 1.3
