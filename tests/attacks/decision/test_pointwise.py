import contextlib

import numpy as np
import pytest
import torch

import robustkit as rk
from robustkit.attacks.decision.pointwise import Pointwise
from robustkit.engine.criteria import Misclassification
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.models.numpy import NumPyModel
from robustkit.models.torch import TorchModel
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor


def attacked(model, x, y, norm, budget=None, **more):
    criterion = Misclassification(as_tensor(y))
    p = Problem(model, as_tensor(x), criterion, get_norm(norm), **more)
    return run(Pointwise(), p, budget=budget)


def test_many_useless_changes_are_reset_in_few_questions():
    # Two of 4,096 features matter; one by one it would take thousands of questions.
    def function(x):
        score = 1.5 - x[:, 100] - x[:, 3000]
        return np.stack([score, np.zeros_like(score)], axis=1)

    x = np.full((3, 4096), 0.5)
    starts = as_tensor(np.ones_like(x))
    y = np.zeros(3, dtype=np.int64)
    ledger = attacked(NumPyModel(function), x, y, "l0", budget=150, starts=starts)
    assert (ledger.distance.raw == 2).all()
    ledger = attacked(NumPyModel(function), x, y, "l1", budget=250, starts=starts)
    assert ledger.distance.raw == pytest.approx(0.5, rel=0.02)


def test_a_pixel_is_reset_with_all_its_channels():
    # The first channel of one pixel decides; the others of it cost nothing more.
    def function(x):
        score = 0.9 - x[:, 0, 1, 2]
        return np.stack([score, np.zeros_like(score)], axis=1)

    x = np.full((2, 3, 4, 4), 0.5)
    y = np.zeros(2, dtype=np.int64)
    starts = as_tensor(np.ones_like(x))
    ledger = attacked(NumPyModel(function), x, y, "l0-pixels", 60, starts=starts)
    assert (ledger.distance.raw == 1).all()
    changed = (ledger.best.raw != x).any(axis=1)
    assert (changed.sum(axis=(1, 2)) == 1).all()
    assert changed[:, 1, 2].all()


def test_the_rounds_begin_anew_where_another_feature_is_enough():
    # Three features of 0.5 each, or a fourth one alone.
    def function(x):
        score = 1.4 - x[:, :3].sum(axis=1) * 0.5 - 2 * (x[:, 3] - 0.5) * (x[:, 3] > 0.9)
        return np.stack([score, np.zeros_like(score)], axis=1)

    x = np.full((1, 8), 0.5)
    starts = np.where(np.arange(8) < 3, 1.0, 0.5)[None]
    y = np.zeros(1, dtype=np.int64)
    options = {"starts": as_tensor(starts)}
    early = attacked(NumPyModel(function), x, y, "l0", 8, **options)
    assert early.distance.raw[0] == 3
    late = attacked(NumPyModel(function), x, y, "l0", 300, **options)
    assert late.distance.raw[0] == 1


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["l0", "l1"])
def test_at_least_as_good_as_foolbox_at_equal_questions(shared, norm):
    import torch

    foolbox = pytest.importorskip("foolbox")
    model = shared.torch_model("mnist_cnn_a_adv")
    images, labels = shared.images("mnist")
    with torch.no_grad():
        right = model(torch.tensor(images[:60])).argmax(1).numpy() == labels[:60]
    rows = np.flatnonzero(right)[:8]
    x, y = torch.tensor(images[rows]), torch.tensor(labels[rows])
    marks = (500, 1000)
    theirs, questions = {mark: np.full(8, np.inf) for mark in marks}, 0

    class Watched(torch.nn.Module):
        def forward(self, points):
            nonlocal questions
            if questions >= max(marks):
                raise StopIteration
            logits, questions = model(points), questions + 1
            distance = get_norm(norm)(as_tensor(points - x)).numpy().copy()
            distance[(logits.argmax(1) == y).numpy()] = np.inf
            for mark in marks:
                if questions <= mark:
                    theirs[mark] = np.minimum(theirs[mark], distance)
            return logits

    with torch.random.fork_rng(), torch.no_grad():
        torch.random.default_generator.manual_seed(0)
        attack = foolbox.attacks.PointwiseAttack(
            foolbox.attacks.SaltAndPepperNoiseAttack(steps=100)
        )
        with contextlib.suppress(StopIteration):
            attack.run(
                foolbox.PyTorchModel(Watched().eval(), bounds=(0, 1)),
                x,
                foolbox.criteria.Misclassification(y),
            )
    ledger = attacked(TorchModel(model), x, y, norm, budget=1000)
    for mark in marks:
        ours = np.median(ledger.distance_after(mark))
        assert ours <= 1.02 * np.median(theirs[mark])


def test_a_start_of_small_changes_goes_to_the_bounds():
    """Where 14 of 16 features must change, 16 that change a little are no answer."""
    scores = torch.nn.Linear(16, 2).eval()
    scores.weight.data = torch.stack([torch.ones(16), torch.zeros(16)])
    scores.bias.data = torch.tensor([-(0.9 * 2 + 0.45), 0.0])
    x = torch.full((6, 16), 0.9) + 0.01 * torch.arange(6)[:, None] / 6
    result = rk.run(
        Pointwise(), scores, x, torch.zeros(6).long(), norm="l0", budget=200
    )
    assert (result.distance == 14).all()
