"""Programs by themselves: without the attack that usually knows the answer already."""

import itertools

import numpy as np
import pytest

from robustkit.active_tests.networks import ReluNetwork, balanced
from robustkit.active_tests.programs import (
    Ball,
    interval_bounds,
    lead_bound,
    solve,
    tightened,
)
from robustkit.active_tests.regions import polyhedron, size
from robustkit.numerics.bounds import Bounds

NORMS = ("l0", "l1", "linf")
BOX = Bounds(-1, 1)


def network(seed, widths=(3, 3, 2, 2)):
    rng = np.random.default_rng(seed)
    return ReluNetwork(
        [
            (rng.normal(size=(outs, ins)), rng.normal(size=outs) * 0.3)
            for ins, outs in itertools.pairwise(widths)
        ]
    )


def case(seed):
    """A network, an input, and the pair (other class, own class)."""
    net = network(seed)
    x = np.random.default_rng(seed).uniform(-1, 1, 3)
    own = int(net.logits(x[None])[0].argmax())
    return net, x, [(1 - own, own)]


def ball_of(x, norm, radius):
    return Ball(norm, BOX.lower - x, BOX.upper - x, radius)


def by_pieces(net, x, goal, norm):
    """The exact distance: each linear piece is a polyhedron."""
    (won, lost), best = goal[0], np.inf
    widths = [len(bias) for _, bias in net.layers[:-1]]
    for signs in itertools.product([0.0, 1.0], repeat=sum(widths)):
        weight, bias, rows, levels, at = np.eye(3), np.zeros(3), [], [], 0
        for (w, b), width in zip(net.layers[:-1], widths, strict=True):
            on = np.array(signs[at : at + width])
            at += width
            weight, bias = w @ weight, w @ bias + b
            rows.append(weight * (1 - 2 * on)[:, None])
            levels.append(bias * (1 - 2 * on))
            weight, bias = weight * on[:, None], bias * on
        w, b = net.layers[-1]
        weight, bias = w @ weight, w @ bias + b
        region = polyhedron(
            np.vstack([*rows, weight[lost] - weight[won]]),
            np.concatenate([*levels, [bias[lost] - bias[won]]]),
        )
        point = region.nearest(x, norm, BOX)
        if point is not None:
            best = min(best, size(point - x, norm))
    return best


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("seed", [0, 1, 4])
def test_the_program_finds_what_all_pieces_hold(seed, norm):
    net, x, goal = case(seed)
    exact = by_pieces(net, x, goal, norm)
    # Just too small a ball, and one just large enough.
    radii = [1.0, 2.0] if exact == np.inf else [exact * (1 - 1e-4), exact * (1 + 1e-4)]
    if norm == "l0":
        radii = [1, 2] if exact == np.inf else [exact - 1, exact]
    for radius in radii:
        ball = ball_of(x, norm, radius)
        hidden = interval_bounds(net, x, ball)
        narrow = tightened(net, x, ball, hidden, goal, seconds=60)
        relaxed = solve(net, x, ball, hidden, goal, relaxed=True, seconds=60)
        for bounds in (hidden, narrow):
            answer = solve(net, x, ball, bounds, goal, relaxed=False, seconds=60)
            assert answer.empty == (radius < exact)
            assert answer.empty or not relaxed.empty
            if not answer.empty:
                assert size(answer.delta.round(6), norm) <= radius + 1e-5
                moved = net.logits((x + answer.delta)[None])[0]
                (won, lost) = goal[0]
                assert moved[won] - moved[lost] > -1e-5


@pytest.mark.parametrize("norm", NORMS)
def test_bounds_hold_in_the_ball_and_narrow_ones_at_adversarials(norm):
    rng = np.random.default_rng(0)
    for seed in (1, 2):
        net, x, goal = case(seed)
        radius = 2 if norm == "l0" else 0.6
        ball = ball_of(x, norm, radius)
        hidden = interval_bounds(net, x, ball)
        every = tightened(net, x, ball, hidden, None, seconds=60)
        wrong = tightened(net, x, ball, hidden, goal, seconds=60)
        delta = rng.uniform(-1, 1, (4000, 3))
        if norm == "l0":
            delta[np.arange(4000), rng.integers(3, size=4000)] = 0
            delta *= 3
        elif norm == "l1":
            delta *= radius / np.abs(delta).sum(axis=1, keepdims=True)
        else:
            delta *= radius
        points = (x + delta).clip(-1, 1)
        given, scores = points, net.logits(points)
        lead = scores[:, goal[0][0]] - scores[:, goal[0][1]]
        assert lead.max() <= lead_bound(net, x, ball, goal) + 1e-12
        for at, (weight, bias) in enumerate(net.layers[:-1]):
            before = given @ weight.T + bias
            for low, high in (hidden[at], every[at]):
                assert (before >= low - 1e-9).all()
                assert (before <= high + 1e-9).all()
            assert (every[at][0] >= hidden[at][0]).all()
            assert (every[at][1] <= hidden[at][1]).all()
            assert (before[lead >= 0] >= wrong[at][0] - 1e-9).all()
            assert (before[lead >= 0] <= wrong[at][1] + 1e-9).all()
            given = np.maximum(before, 0)


@pytest.mark.parametrize("norm", NORMS)
def test_first_layer_bounds_are_reached(norm):
    rng = np.random.default_rng(3)
    net, x, _ = case(3)
    radius = 2 if norm == "l0" else 0.7
    ball = ball_of(x, norm, radius)
    low, high = interval_bounds(net, x, ball)[0]
    # Corners of the ball and the box.
    room = np.stack([ball.low, np.zeros(3), ball.high])
    best = np.full(3, -np.inf)
    for _ in range(20_000):
        delta = room[rng.integers(3, size=3), np.arange(3)]
        if norm == "l1":
            order = rng.permutation(3)
            used = np.minimum(np.abs(delta[order]).cumsum(), radius)
            delta[order] = np.sign(delta[order]) * np.diff(used, prepend=0)
        if norm == "l0" and np.count_nonzero(delta) > radius:
            continue
        best = np.maximum(best, net.layers[0][0] @ (x + delta) + net.layers[0][1])
    np.testing.assert_allclose(best, high, atol=1e-9)
    assert (low <= high).all()


def test_nothing_is_said_to_be_empty_because_of_a_number_that_is_not_whole():
    """The solver's best point was none, once the signs were whole numbers."""
    rng, x = np.random.default_rng(13), np.random.default_rng(0).random((14, 3))[-1]
    layers = [
        (rng.normal(size=size), rng.normal(size=size[0]) * 0.3e-5)
        for size in ((6, 3), (4, 6), (3, 4))
    ]
    layers[0] = (layers[0][0] * 1e-5, layers[0][1])
    net = balanced(ReluNetwork(layers), x, 1.0)
    ball = Ball("l1", -x, 1 - x, 0.48393245838578186)
    hidden = tightened(net, x, ball, interval_bounds(net, x, ball), None, 10)
    answer = solve(net, x, ball, hidden, [(1, 0)], relaxed=False, seconds=10)
    assert answer.delta is not None
    scores = net.logits((x + answer.delta)[None])[0]
    assert scores[1] > scores[0]
