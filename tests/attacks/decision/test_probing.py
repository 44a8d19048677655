import numpy as np
import pytest
import torch

from robustkit.attacks.decision.cgba import CGBA, CGBAH
from robustkit.attacks.decision.compass import Compass
from robustkit.attacks.decision.geoda import GeoDA
from robustkit.attacks.decision.hopskipjump import HopSkipJump
from robustkit.attacks.decision.probing import (
    across,
    cross,
    estimate_normal,
    follow,
    noise,
    semicircle,
    steps_for,
    subspace_of,
    unit,
)
from robustkit.attacks.decision.sign_opt import SignOPT
from robustkit.engine.criteria import Misclassification
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.models.base import Access
from robustkit.models.numpy import NumPyModel
from robustkit.models.torch import TorchModel
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor, take

WEIGHTS = np.random.default_rng(0).normal(size=(1, 3, 4))


def problem(count=3, shift=0.0, budget=None):
    """Originals whose adversarial side is x . WEIGHTS < shift, and wide bounds."""

    def function(x):
        score = (x * WEIGHTS).sum(axis=(1, 2, 3)) - shift
        return np.stack([score, -score], axis=1)

    x = np.tile(WEIGHTS / np.linalg.norm(WEIGHTS), (count, 1, 1, 1))
    labels = as_tensor(np.zeros(count, dtype=np.int64))
    model = NumPyModel(function, Bounds(-100, 100))
    keys = np.arange(count, dtype=np.uint64)
    p = Problem(
        model, as_tensor(x), Misclassification(labels), get_norm("l2"), keys=keys
    )
    p.limit(Access.DECISION, budget)
    return p


def at_boundary(p):
    return p.x - p.x.raw.reshape(p.size, -1)[0] @ WEIGHTS.ravel() * as_tensor(
        WEIGHTS / (WEIGHTS**2).sum()
    )


def cosine(x):
    flat = x.raw.reshape(len(x.raw), -1)
    lengths = np.linalg.norm(flat, axis=1) * np.linalg.norm(WEIGHTS)
    return -flat @ WEIGHTS.ravel() / lengths


def estimated(p, center, count, *, decorrelated=False, **more):
    size = as_tensor(np.full(p.size, 0.1))
    draw = noise(subspace_of(p, "all", 1.0), **more)
    return estimate_normal(
        p,
        center,
        size,
        np.array(count),
        p.rng(0),
        draw,
        decorrelated=decorrelated,
    )


@pytest.mark.parametrize("uniform", [False, True])
def test_the_normal_of_a_plane(uniform):
    p = problem()
    normal = estimated(p, at_boundary(p), [400, 400, 3000], uniform=uniform)
    assert (normal.probes == [400, 400, 3000]).all()
    assert (p.ledger.decisions == [400, 400, 3000]).all()
    assert (cosine(normal.direction)[:2] > 0.97).all()
    assert cosine(normal.direction)[2] > 0.995
    assert normal.share.raw == pytest.approx(0.5, abs=0.1)
    lengths = np.linalg.norm(normal.direction.raw.reshape(3, -1), axis=1)
    assert lengths == pytest.approx(1)


def test_an_unequal_share_of_answers_is_taken_out():
    p = problem()
    shifted = at_boundary(p) - 0.02 * unit(as_tensor(np.stack([WEIGHTS] * 3)))
    normal = estimated(p, shifted, [2000] * 3)
    assert (normal.share.raw > 0.6).all()
    assert (cosine(normal.direction) > 0.98).all()


def test_where_all_probes_agree_the_direction_is_their_mean_or_against_it():
    p = problem()
    inside = estimated(p, p.x * -10.0, [5] * 3)
    outside = estimated(p, p.x * 10.0, [5] * 3)
    assert (inside.share.raw == 1).all()
    assert (outside.share.raw == 0).all()
    assert inside.direction.raw == pytest.approx(-outside.direction.raw)


def test_probes_are_the_same_in_any_company_and_within_the_budget():
    p = problem(budget=40)
    whole = estimated(p, at_boundary(p), [30, 10, 100])
    assert (whole.probes == [30, 10, 40]).all()
    alone = problem(budget=40)
    alone.drop(np.array([True, False, True]))
    part = estimated(alone, at_boundary(alone), [10])
    assert (part.direction.raw[0] == whole.direction.raw[1]).all()


def test_in_several_chunks_the_same_normal_comes_out(monkeypatch):
    probes = np.random.default_rng(3).normal(size=(1, 50, *WEIGHTS.shape))

    def found():
        p, counts = problem(), [0]

        def draw(rng, number, rows):
            counts.append(counts[-1] + number)
            return as_tensor(probes[rows, counts[-2] : counts[-1]].copy())

        size, count = as_tensor(np.full(1, 0.1)), np.array([50])
        p.drop(np.array([False, True, True]))
        assert p.size == 1
        center = at_boundary(p)
        return estimate_normal(p, center, size, count, p.rng(0), draw), len(counts) - 1

    whole, once = found()
    # Twelve features: seven probes at once.
    monkeypatch.setattr("robustkit.attacks.decision.probing._AT_ONCE", 84)
    parts, often = found()
    assert (once, often) == (1, 8)
    assert 0 < whole.share.raw[0] < 1
    assert parts.share.raw == whole.share.raw
    assert parts.direction.raw == pytest.approx(whole.direction.raw, abs=1e-9)


def test_decorrelated_probes_are_a_ridge_regression():
    """Noise as strong as a probe's mean square, and a share of answers of its own."""
    probes = np.random.default_rng(4).normal(size=(3, 8, *WEIGHTS.shape))
    # Most of a sample's probes point one way, which a sum would take for the normal.
    probes[1, :6] = probes[1, 0] + 0.1 * probes[1, :6]
    p = problem()
    center = at_boundary(p)
    size, count = as_tensor(np.full(3, 0.1)), np.full(3, 8)
    normal = estimate_normal(
        p,
        center,
        size,
        count,
        p.rng(0),
        lambda rng, number, rows: as_tensor(probes[rows, :number].copy()),
        decorrelated=True,
    )
    for row in range(3):
        flat = probes[row].reshape(8, -1)
        flat = flat / np.linalg.norm(flat, axis=1, keepdims=True)
        answers = flat @ WEIGHTS.ravel() < 0
        assert 0 < answers.sum() < 8
        apart = flat - flat.mean(axis=0)
        noise_size = np.sqrt((apart**2).sum() / 8)
        # By least squares, with one more equation for each feature.
        stacked = np.concatenate([apart, noise_size * np.eye(12)])
        wanted = np.concatenate([answers - answers.mean(), np.zeros(12)])
        solved = np.linalg.lstsq(stacked, wanted, rcond=None)[0]
        found = normal.direction.raw[row].ravel()
        assert found == pytest.approx(solved / np.linalg.norm(solved), abs=1e-9)


def test_too_many_probes_for_a_regression_are_summed_up(monkeypatch):
    monkeypatch.setattr("robustkit.attacks.decision.probing._AT_ONCE", 400)
    p, same = problem(), problem()
    # Twenty-five probes of twelve features: too many products, not too many numbers.
    normal = estimated(p, at_boundary(p), [25, 20, 12], decorrelated=True)
    summed = estimated(same, at_boundary(same), [25, 20, 12])
    changed = (normal.direction.raw != summed.direction.raw).any(axis=(1, 2, 3))
    assert changed.tolist() == [False, True, True]


def test_decorrelated_probes_tell_more():
    p = problem(count=40)
    plain = cosine(estimated(p, at_boundary(p), [12] * 40).direction)
    p = problem(count=40)
    normal = estimated(p, at_boundary(p), [12] * 40, decorrelated=True)
    assert np.mean(cosine(normal.direction)) > 1.05 * np.mean(plain)


def test_decorrelated_probes_that_agree_and_single_ones():
    p = problem(shift=-1.0)
    normal = estimated(p, at_boundary(p), [20, 1, 1], decorrelated=True)
    same = estimated(problem(shift=-1.0), at_boundary(p), [20, 1, 1])
    assert (normal.share.raw == 0).all()
    assert normal.direction.raw == pytest.approx(same.direction.raw)


def test_short_probes_tell_the_normal_in_single_precision():
    """A probe is a thousandth of a millionth of what the center is, in square."""
    rng = np.random.default_rng(0)
    shape = (3, 32, 32)
    weights = rng.normal(size=shape)
    center = torch.tensor(rng.uniform(0.2, 0.8, size=(1, *shape)).astype(np.float32))
    towards, there = torch.tensor(weights), center.double()

    def scores(x):
        gap = ((x.double() - there) * towards).sum(dim=(1, 2, 3))
        return torch.stack([gap, 0 * gap], dim=1)

    labels = as_tensor(torch.tensor([0]))
    x = as_tensor(torch.zeros(1, *shape))
    p = Problem(TorchModel(scores), x, Misclassification(labels), get_norm("l2"))
    size = as_tensor(torch.tensor([2e-5]))
    draw = noise(subspace_of(p, "all", 1.0))
    count = np.array([600])
    normal = estimate_normal(p, as_tensor(center), size, count, p.rng(0), draw)
    flat = normal.direction.raw.double().numpy().ravel()
    length = np.linalg.norm(flat) * np.linalg.norm(weights)
    assert abs(flat @ weights.ravel()) / length > 0.3


def test_no_probe_shows_nothing():
    p = problem()
    normal = estimated(p, at_boundary(p), [0] * 3)
    assert (normal.direction.raw == 0).all()
    assert (p.ledger.forwards == 0).all()


def test_the_circle_has_the_perturbation_as_diameter():
    p = problem()
    rng = np.random.default_rng(1)
    delta = as_tensor(rng.normal(size=p.x.shape))
    direction = as_tensor(rng.normal(size=p.x.shape))
    path = semicircle(p, delta, direction)
    rows = np.arange(3)
    assert path(rows, np.zeros(3)).raw == pytest.approx((p.x + delta).raw)
    for slope in (0.1, 1.0, 7.0):
        point = path(rows, np.full(3, slope))
        assert path(rows[1:2], np.full(1, slope)).raw[0] == pytest.approx(point.raw[1])
        moved = (point - p.x).raw.reshape(3, -1)
        flat = delta.raw.reshape(3, -1)
        radius = np.linalg.norm(flat, axis=1) / 2
        assert np.linalg.norm(moved - flat / 2, axis=1) == pytest.approx(radius)
        along = (moved * flat).sum(axis=1) / np.linalg.norm(flat, axis=1)
        total = np.linalg.norm(moved, axis=1)
        assert np.sqrt(total**2 - along**2) / along == pytest.approx(slope)


def test_a_path_is_followed_to_where_it_leaves():
    p = problem()
    ends = np.array([0.3, 5.0, 1e-9])
    along = at_boundary(p) - p.x

    def path(rows, place):
        share = as_tensor(1 + ends[rows] - place).reshape((-1, 1, 1, 1))
        return take(p.x, rows) + take(along, rows) * share

    found = follow(p, path, np.full(3, 0.5), 0.01)
    assert (found[:2] <= ends[:2]).all()
    assert (found[:2] > ends[:2] * 0.98).all()
    assert found[2] == 0
    assert (p.ledger.forwards < 20).all()


def test_bisection_between_two_places():
    p = problem()
    along = at_boundary(p) - p.x

    def path(rows, place):
        return take(p.x, rows) + take(along, rows) * as_tensor(
            place[:, None, None, None]
        )

    asked = np.array([True, True, False])
    found = cross(p, path, np.full(3, 3.0), np.zeros(3), asked, 1e-4)
    assert found[:2] == pytest.approx(1, rel=2e-4)
    assert (found[:2] >= 1).all()
    assert found[2] == 3
    assert p.ledger.forwards[2] == 0


def test_probes_across_a_perturbation():
    rng = np.random.default_rng(2)
    probes, delta = rng.normal(size=(3, 5, 1, 3, 4)), rng.normal(size=(3, 1, 3, 4))
    rest = across(as_tensor(probes.copy()), unit(as_tensor(delta))).raw
    assert (rest * delta[:, None]).sum(axis=(2, 3, 4)) == pytest.approx(0, abs=1e-12)
    removed = (probes - rest).reshape(3, 5, -1)
    parallel = np.einsum("nki,ni->nk", removed, delta.reshape(3, -1))
    lengths = np.linalg.norm(removed, axis=2) * np.linalg.norm(
        delta.reshape(3, 1, -1), axis=2
    )
    assert np.abs(parallel) == pytest.approx(lengths)


def test_steps_for_so_many_questions():
    for budget, steps in ((1, 1), (30, 1), (31, 2), (90, 3)):
        assert steps_for(budget, lambda _: 30) == steps
    assert steps_for(62, lambda t: 10 * 2**t) == 3
    assert steps_for(71, lambda t: 10 * 2**t) == 4
    # A step that may ask nothing counts as one question.
    assert steps_for(5, lambda _: 0) == 5


@pytest.mark.parametrize("attack", [HopSkipJump, GeoDA, SignOPT, CGBA, CGBAH, Compass])
def test_attacks_are_planned_for_questions_and_use_them_up(attack):
    for budget in (20, 400):
        planned = attack().within(budget)
        free = run(planned, problem(shift=-1.0)).forwards
        assert (free >= budget).all()
        # Beside the probes each step asks some others, and starts are searched for.
        assert (free < 4 * budget + 400).all()
