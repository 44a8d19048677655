import dataclasses

import numpy as np
import pytest

from robustkit.attacks.decision import compass, descents, probing
from robustkit.attacks.decision.compass import Compass
from robustkit.engine.criteria import Misclassification
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.models.numpy import NumPyModel
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor


def problem(function, x, bounds=(-10, 10), **more):
    labels = as_tensor(np.zeros(len(x), dtype=np.int64))
    model = NumPyModel(function, Bounds(*bounds))
    criterion = Misclassification(labels)
    return Problem(model, as_tensor(x), criterion, get_norm("l2"), **more)


def two_classes(score):
    return np.stack([score, -score], axis=1)


def test_a_descent_that_goes_no_further_gives_way_to_another_start(monkeypatch):
    """One half-space is met head-on at distance 1, another at a slant but nearer."""
    shape = (1, 4, 4)
    head_on, slanted = np.zeros(shape), np.zeros(shape)
    head_on[0, 0, 0], slanted[0, 3, 3], slanted[0, 2, 2] = 1.0, 1.0, 0.2

    def function(x):
        first = 1.0 - (x * head_on).sum(axis=(1, 2, 3))
        second = 0.7 - (x * slanted).sum(axis=(1, 2, 3))
        return two_classes(np.minimum(first, second))

    x = np.zeros((3, *shape))
    start, other = np.zeros((3, *shape)), np.zeros((1, *shape))
    start[:, 0, 0, 0] = 3.0
    other[0, 0, 3, 3], other[0, 0, 1, 1:3] = 2.0, -2.5
    nearest = 0.7 / np.sqrt(1.04)

    def distance():
        p = problem(
            function,
            x,
            starts=as_tensor(start),
            pool=as_tensor(other),
            keys=np.arange(3, dtype=np.uint64),
        )
        return run(Compass(), p, budget=3000).distance.raw

    assert distance() == pytest.approx(nearest, rel=0.01)
    monkeypatch.setattr(compass, "_CHECK", 10**9)
    assert distance() == pytest.approx(1.0, rel=0.01)


def half_spaces():
    """Four of them in directions of their own, at distances from 1 to 1.4."""
    ways = np.random.default_rng(0).normal(size=(4, 64))
    ways /= np.linalg.norm(ways, axis=1, keepdims=True)
    away = np.linspace(1, 1.4, 4)

    def function(x):
        return two_classes((away - x.reshape(len(x), -1) @ ways.T).min(axis=1))

    return function


def test_of_two_starts_the_one_whose_first_steps_come_nearer_goes_on():
    function, x = half_spaces(), np.zeros((32, 1, 8, 8))

    def nearest(rivals, **more):
        keys = np.arange(32, dtype=np.uint64)
        p = problem(function, x, bounds=(-3, 3), keys=keys, **more)
        return run(Compass(rivals=rivals), p, budget=1200).distance.raw

    alone, contested = nearest(0), nearest(1)
    assert np.mean(contested < 1.1) > np.mean(alone < 1.1) + 0.1
    # Who was given a start has no rival.
    pool = as_tensor(np.random.default_rng(1).uniform(-1, 1, (5, 1, 8, 8)))
    starts = as_tensor(np.full_like(x, 2.0))
    for given in ({"pool": pool}, {"starts": starts}):
        assert (nearest(0, **given) == nearest(1, **given)).all()


def test_another_start_of_who_has_no_rival_is_kept(monkeypatch):
    """A start where nothing is left to gain is given up before trials would end."""
    function, x = half_spaces(), np.zeros((8, 1, 8, 8))
    ways = np.random.default_rng(0).normal(size=(4, 64))
    farthest = 1.4001 * ways[3] / np.linalg.norm(ways[3])
    starts = as_tensor(np.tile(farthest.reshape(1, 1, 8, 8), (8, 1, 1, 1)))
    renewed, begun = [], compass._another_start

    def another_start(p, asked, t, tries):
        renewed.append(t)
        return begun(p, asked, t, tries)

    monkeypatch.setattr(compass, "_another_start", another_start)

    def found(rivals):
        keys = np.arange(8, dtype=np.uint64)
        p = problem(function, x, bounds=(-3, 3), keys=keys, starts=starts)
        return run(Compass(rivals=rivals), p, budget=600).distance.raw

    alone = found(0)
    assert 6 in renewed
    assert (found(1) == alone).all()


def test_what_is_known_has_no_rival():
    function, x = half_spaces(), np.zeros((4, 1, 8, 8))
    asked = []
    for rivals in (0, 1):
        p = problem(function, x, bounds=(-3, 3), keys=np.arange(4, dtype=np.uint64))
        p.limit(Compass.access, 600)
        p.decide(as_tensor(np.full_like(x[:2], 2.0)), rows=np.arange(2))
        attack = Compass(rivals=rivals)
        state = attack.init(p)
        assert state.contested.raw.tolist() == [False, False, True, True]
        for t in range(5):
            state = attack.step(p, state, t)
        asked.append(p.ledger.forwards)
    assert (asked[0][:2] == asked[1][:2]).all()
    assert (asked[0][2:] < asked[1][2:]).all()


def test_few_questions_are_for_one_start():
    planned = [Compass().within(budget).rivals for budget in (2499, 2500, 9000)]
    assert planned == [0, 1, 1]
    assert Compass(rivals=0).within(5000).rivals == 0


def test_the_sample_itself_is_no_other_start():
    def function(x):
        return two_classes(1.0 - x.sum(axis=(1, 2, 3)))

    x = np.zeros((2, 1, 4, 4))
    p = problem(function, x, pool=as_tensor(x))
    p.limit(Compass.access, None)
    _, found = compass._another_start(p, as_tensor(np.ones(2, dtype=bool)), 0, 5)
    assert not found.raw.any()
    assert (p.ledger.forwards == 0).all()


def test_probes_learn_where_the_model_looks(monkeypatch):
    """Only a corner matters: the same number of questions brings it nearer.

    Where everything does, probes that are everywhere and of every frequency help.
    """
    shape = (1, 16, 16)
    rng = np.random.default_rng(0)
    corner = np.zeros(shape)
    corner[0, :5, :5] = rng.normal(size=(5, 5))
    everywhere = rng.normal(size=shape)

    def ratio(weights):
        def function(x):
            return two_classes((x * weights).sum(axis=(1, 2, 3)) + 0.5)

        p = problem(
            function,
            np.zeros((8, *shape)),
            bounds=(-1, 1),
            keys=np.arange(8, dtype=np.uint64),
        )
        exact = 0.5 / np.linalg.norm(weights)
        return np.median(run(Compass(), p, budget=1500).distance.raw) / exact

    assert ratio(corner) < 1.04
    assert ratio(everywhere) < 1.1
    monkeypatch.setattr(descents, "_SHARES", descents._SHARES[:3])
    monkeypatch.setattr(descents, "_FIRST", descents._FIRST[:3])
    assert ratio(everywhere) > 1.13


def test_what_probes_have_in_common_counts_once(monkeypatch):
    """As many probes in a step as half the features: sums of them overlap."""
    shape = (1, 8, 8)
    weights = np.random.default_rng(0).normal(size=shape)

    def function(x):
        return two_classes((x * weights).sum(axis=(1, 2, 3)) + 0.5)

    def ratio():
        keys = np.arange(16, dtype=np.uint64)
        p = problem(function, np.zeros((16, *shape)), bounds=(-1, 1), keys=keys)
        exact = 0.5 / np.linalg.norm(weights)
        return np.median(run(Compass(rivals=0), p, budget=400).distance.raw) / exact

    assert ratio() < 1.3
    # With so much noise it is a sum.
    monkeypatch.setattr(probing, "_NOISE", 1e9)
    assert ratio() > 1.45


def test_probes_are_centred_where_both_sides_are_seen(monkeypatch):
    """The boundary bends away, so that around a point on it no probe is adversarial."""
    shape = (1, 8, 8)
    ahead = np.zeros(shape)
    ahead[0, 2, 2], ahead[0, 6, 1] = 0.8, 0.6

    def function(x):
        along = (x * ahead).sum(axis=(1, 2, 3))
        beside = (x**2).sum(axis=(1, 2, 3)) - along**2
        return two_classes(1 + 2 * beside - along)

    shares = []
    estimate = descents.estimate_normal

    def noted(*args, **more):
        normal = estimate(*args, **more)
        shares.append(normal.share.raw.mean())
        return normal

    monkeypatch.setattr(descents, "estimate_normal", noted)
    monkeypatch.setattr(compass, "_CHECK", 10**9)

    def seen():
        keys = np.arange(4, dtype=np.uint64)
        starts = as_tensor(np.stack([1.5 * ahead + 0.02] * 4))
        shares.clear()
        p = problem(function, np.zeros((4, *shape)), starts=starts, keys=keys)
        distance = run(Compass(), p, budget=700).distance.raw
        return np.mean(shares[-5:]), np.median(distance)

    share, distance = seen()
    assert 0.3 < share < 0.7
    monkeypatch.setattr(descents, "_LIFTING", 0.0)
    monkeypatch.setattr(descents, "_LEAST_LIFT", 0.0)
    on_the_boundary, further = seen()
    assert on_the_boundary < 0.05
    assert distance - 1 < 0.7 * (further - 1)


def test_smooth_noise_is_tried_only_where_no_inputs_are_given():
    def function(x):
        return two_classes(1.0 - x.sum(axis=(1, 2, 3)))

    x = np.zeros((1, 1, 4, 4))
    given = problem(function, x, pool=as_tensor(np.ones((1, 1, 4, 4))))
    alone = problem(function, x)
    asked = []
    for p in (given, alone):
        p.limit(Compass.access, None)
        Compass(tries=15).init(p)
        asked.append(p.ledger.forwards[0])
    assert asked[0] + 10 < asked[1]


def test_the_state_is_per_sample():
    def function(x):
        return two_classes(1.0 - x.sum(axis=(1, 2, 3)))

    p = problem(function, np.zeros((3, 2, 4, 4)))
    p.limit(Compass.access, None)
    attack = Compass()
    state = attack.step(p, attack.init(p), 0)
    assert state.contested.shape == (3,)
    for descent in (state.now, state.ahead):
        for field in dataclasses.fields(descent):
            assert getattr(descent, field.name).shape[0] == 3


def test_probes_of_all_chunks_are_different(monkeypatch):
    """Inputs may be so large that probes are drawn a few at a time."""
    monkeypatch.setattr(probing, "_AT_ONCE", 256 * 4)
    shown = []

    def function(x):
        shown.extend(image.tobytes() for image in x)
        return two_classes(1.0 - x.sum(axis=(1, 2, 3)))

    keys = np.arange(2, dtype=np.uint64)
    p = problem(function, np.zeros((2, 1, 16, 16)), keys=keys)
    p.limit(Compass.access, None)
    attack = Compass(probes=20)
    state = attack.init(p)
    before = len(shown)
    attack.step(p, state, 0)
    probes = shown[before : before + 40]
    assert len(set(probes)) == 40
