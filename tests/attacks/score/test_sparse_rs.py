import numpy as np
import pytest
import torch

from robustkit.attacks.score.sparse_rs import SparseRS
from robustkit.combine import Minimise
from robustkit.engine.criteria import Misclassification
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.errors import BadInput
from robustkit.models.torch import TorchModel
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor, take

NORMS = ("l0", "l0-pixels")


def changed(norm, delta):
    units = delta.any(axis=1) if norm == "l0-pixels" else delta
    return units.reshape(len(delta), -1).astype(bool).sum(axis=1)


def walked(attack, problem):
    """The states after each step, without the loop's stopping."""
    states = [attack.init(problem)]
    for t in range(attack.steps):
        states.append(attack.step(problem, states[-1], t))
    return states


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("epsilon", [1, 7.9, 1000])
def test_every_question_changes_as_many_units_as_allowed(watched, norm, epsilon):
    images = watched()
    images.offset = -1e9
    ledger = run(SparseRS(epsilon, steps=40), images.problem(norm))
    assert (ledger.forwards == 40).all()
    units = 30 if norm == "l0-pixels" else 60
    for point in images.asked:
        assert (changed(norm, point != images.x) == min(int(epsilon), units)).all()
        assert np.isin(point[point != images.x], (-1.0, 3.0)).all()


def test_a_feature_at_a_bound_moves_to_the_other_one(watched):
    images = watched(shape=(1, 4, 4))
    images.x[:] = -1.0
    images.offset = -1e9
    run(SparseRS(3, steps=20), images.problem("l0"))
    for point in images.asked:
        assert ((point == 3.0).reshape(5, -1).sum(axis=1) == 3).all()


@pytest.mark.parametrize("norm", NORMS)
def test_keeps_what_lowers_the_margin_and_exchanges_ever_fewer(watched, norm):
    images = watched((2, 8, 8))
    images.offset = -1e9
    problem = images.problem(norm)
    states = walked(SparseRS(20, steps=100), problem)
    margins = np.array([images.margin(images.x + s.delta.raw) for s in states])
    assert (np.diff(margins[1:], axis=0) <= 1e-12).all()
    assert (margins[-1] < margins[1]).all()

    def changed(delta):
        return problem.norm.summed(delta.abs()).raw.reshape(5, -1) > 0

    exchanged = [
        (changed(s.proposal) & ~changed(s.delta)).sum(axis=1) for s in states[1:]
    ]
    # 0.8 / 2 of 20 after the first question, 0.8 / 20 in the end, at least one.
    assert (exchanged[0] == 16).all()
    assert (exchanged[1] <= 8).all()
    assert (exchanged[-1] == 1).all()


def test_finds_the_best_features_of_a_linear_model(plant):
    planted = plant(features=12, samples=8)
    problem = Problem(
        planted.model(),
        as_tensor(planted.x),
        Misclassification(as_tensor(planted.y)),
        get_norm("l0"),
    )
    ledger = run(Minimise(SparseRS(1, steps=300), steps=1500), problem)
    np.testing.assert_array_equal(ledger.distance.numpy(), planted.exact("l0"))
    assert (ledger.backwards == 0).all()


@pytest.mark.parametrize("norm", NORMS)
def test_depends_on_the_sample_and_the_seed_alone(watched, norm):
    images, attack = watched(), SparseRS(6, steps=30, stop=False)

    def last(rows, seed=0):
        return walked(attack, images.problem(norm, rows, seed))[-1].delta

    whole = last(np.arange(5))
    for rows in (np.arange(5)[::-1], np.array([3])):
        assert np.array_equal(last(rows).numpy(), take(whole, rows).numpy())
    assert not np.array_equal(last(np.arange(5), seed=1).numpy(), whole.numpy())


def test_torch_and_numpy_agree(watched):
    images = watched()
    w = torch.tensor(images.w)

    def module(x):
        margin = (x * w).flatten(1).sum(dim=1) - images.offset
        return torch.stack([margin, 0 * margin], dim=1)

    problem = Problem(
        TorchModel(module, images.bounds),
        as_tensor(torch.tensor(images.x)),
        Misclassification(as_tensor(torch.tensor(images.y))),
        get_norm("l0"),
    )
    attack = Minimise(SparseRS(1, steps=50), steps=200)
    theirs = run(attack, problem).distance.numpy()
    ours = run(attack, images.problem("l0")).distance.numpy()
    np.testing.assert_array_equal(theirs, ours)


def test_bad_settings(watched):
    for share, message in (
        (0.0, "share above 0 and at most 1"),
        (1.5, "share above 0 and at most 1"),
        (float("nan"), "the share of SparseRS must be a finite number"),
    ):
        with pytest.raises(BadInput, match=message):
            run(SparseRS(3, share=share), watched().problem("l0"))
    with pytest.raises(BadInput, match="cannot minimise the norm l2"):
        run(SparseRS(3), watched().problem("l2"))


@pytest.mark.parametrize(("features", "needed"), [(2, 2), (5, 5), (16, 14)])
def test_what_needs_nearly_all_features_is_found(features, needed):
    """All of 0.9 must fall to 0: with every feature chosen, only bounds are left."""
    scores = torch.nn.Linear(features, 2).eval()
    scores.weight.data = torch.stack([torch.ones(features), torch.zeros(features)])
    limit = 0.9 * (features - needed) + 0.45
    scores.bias.data = torch.tensor([-limit, 0.0])
    x = torch.full((6, features), 0.9) + 0.01 * torch.arange(6)[:, None] / 6
    attack = Minimise(SparseRS(epsilon=1.0, steps=100), steps=1000)
    problem = Problem(
        TorchModel(scores),
        as_tensor(x),
        Misclassification(as_tensor(torch.zeros(6, dtype=torch.long))),
        get_norm("l0"),
    )
    assert (run(attack, problem).distance.numpy() == needed).all()
