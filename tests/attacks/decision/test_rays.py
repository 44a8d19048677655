import numpy as np
import pytest
import torch

from robustkit.attacks.decision.rays import RayS, _order
from robustkit.combine import Cascade
from robustkit.demo import load_data, load_model
from robustkit.engine.criteria import Misclassification, Targeted
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.errors import BadInput
from robustkit.models.numpy import NumPyModel
from robustkit.models.torch import TorchModel
from robustkit.numerics.bounds import Bounds
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor, where


def attacked(model, x, y, budget=None, attack=None, **more):
    criterion = Misclassification(as_tensor(y))
    p = Problem(model, as_tensor(x), criterion, get_norm("linf"), **more)
    return run(attack or RayS(), p, budget=budget)


def test_it_finds_the_exact_minimum_of_linear_models_to_its_tolerance(plant):
    planted = plant(classes=2)
    ledger = attacked(planted.model(), planted.x, planted.y)
    ratio = ledger.distance.raw / planted.exact("linf")
    assert (ratio >= 1 - 1e-9).all()
    assert (ratio <= 1 + 3 * RayS().tolerance).all()
    # A whole round without a better ray ends the search: 2 * 8 - 1 turns.
    assert (ledger.forwards < 400).all()


def test_a_pool_is_for_those_who_have_no_other_start(plant):
    planted = plant(samples=20, features=16)
    aimed = Targeted(as_tensor((planted.y + 1) % 3))

    def found(pool):
        x = as_tensor(planted.x)
        p = Problem(planted.model(), x, aimed, get_norm("linf"), pool=pool)
        return run(RayS(), p, budget=200)

    plain, pooled = found(None), found(as_tensor(planted.x))
    begun = plain.distance_after(2) < np.inf
    same = plain.distance.raw == pooled.distance.raw
    assert begun.any()
    assert same[begun].all()
    assert not same[~begun].any()


def test_a_large_pool_of_the_class_to_be_left_does_not_take_the_budget():
    def apart(x):
        """Neither brighter nor darker is a start, and one in two random signs is."""
        far = np.abs(x[:, 0] - x[:, 1])
        return np.stack([0.5 + 0 * far, far], axis=1)

    x, pool = np.full((3, 2), 0.5), as_tensor(np.full((500, 2), 0.4))
    settings = {"budget": 60, "pool": pool, "keys": np.arange(3, dtype=np.uint64)}
    ledger = attacked(NumPyModel(apart), x, np.zeros(3, int), **settings)
    assert ledger.found.raw.all()


def test_noise_is_a_start_where_no_corner_is_one():
    x = np.random.default_rng(0).uniform(0.4, 0.6, (3, 64))

    def between(points):
        """Class 1 neither next to the originals nor far from them."""
        apart = np.abs(points - 0.5).mean(axis=1)
        score = np.abs(apart - 0.2) - 0.06
        return np.stack([score, np.zeros_like(score)], axis=1)

    assert attacked(NumPyModel(between), x, np.zeros(3, int), 500).found.all()


def test_with_several_classes_it_stops_in_a_near_local_minimum(plant):
    planted = plant(samples=20, features=16)
    ledger = attacked(planted.model(), planted.x, planted.y, budget=1000)
    ratio = ledger.distance.raw / planted.exact("linf")
    assert (ratio >= 1 - 1e-9).all()
    assert np.median(ratio) < 1.01
    assert (ledger.forwards < 1000).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_few_questions_do_where_whole_blocks_point_one_way(plant, dtype):
    # 64 features, two blocks: the corner is found within the first levels.
    planted = plant(features=64, classes=2, dtype=dtype)
    signs = np.where(np.arange(64) < 32, 1, -1)[:, None]
    planted.w = (np.abs(planted.w) * signs * [1, -1]).astype(dtype)
    planted.b = (-(planted.x @ planted.w).mean(axis=0)).astype(dtype)
    planted.y = planted.logits(planted.x).argmax(axis=1)
    ledger = attacked(planted.model(), planted.x, planted.y, budget=100)
    ratio = ledger.distance.raw / planted.exact("linf")
    assert (ratio >= 1 - 1e-5).all()
    assert (ratio <= 1.005).all()


def test_it_is_coarse_first_and_finds_the_boundary_to_its_tolerance_in_the_end(plant):
    planted = plant(samples=20, features=64, classes=4)
    early, late = [], []
    for rough in (1e-3, 0.05):
        ledger = attacked(
            planted.model(), planted.x, planted.y, attack=RayS(rough=rough)
        )
        exact = planted.exact("linf")
        early.append(np.median(ledger.distance_after(60) / exact))
        late.append(np.median(ledger.distance.raw / exact))
    assert early[1] < 0.97 * early[0]
    assert max(late) < 1 + 3 * RayS().tolerance


def test_turns_of_single_features_count_though_each_brings_little(plant):
    planted = plant(samples=4, features=1024, classes=2)
    planted.w = np.sign(planted.w)
    planted.b = -(planted.x @ planted.w).mean(axis=0)
    planted.y = planted.logits(planted.x).argmax(axis=1)

    def ratio(attack):
        ledger = attacked(planted.model(), planted.x, planted.y, 4000, attack)
        return ledger.distance.raw / planted.exact("linf")

    assert (ratio(RayS()) < 1.001).all()
    # A turn of one brings two in 1024.
    assert np.median(ratio(RayS(tolerance=3e-3))) > 1.005


def test_turns_that_help_alone_are_not_kept_where_they_do_not_help_together():
    x, model = load_data("digits")[0][:40], TorchModel(load_model("digits-robust"))
    x = as_tensor(torch.from_numpy(x))
    labels = model.logits(x).raw.argmax(dim=1)
    p = Problem(model, x, Misclassification(as_tensor(labels)), get_norm("linf"))
    attack = RayS()
    state = attack.init(p)
    for step in range(150):
        state = attack.step(p, state, step)
        edge = state.radius[:, None] * (1 + 1e-6)
        point = x.raw.flatten(1).numpy() + state.ray.clip(-edge, edge)
        point = as_tensor(torch.from_numpy(point.clip(0, 1)).reshape(x.shape))
        assert (model.logits(point).raw.argmax(dim=1) != labels).all()


def test_within_a_budget_it_begins_anew_and_leaves_valleys(plant):
    planted = plant(samples=20, features=16)
    exact, ratio = planted.exact("linf"), {}
    for name, attack in {"once": RayS(), "anew": RayS().within(3000)}.items():
        ledger = attacked(planted.model(), planted.x, planted.y, 3000, attack)
        ratio[name] = ledger.distance.raw / exact
        assert (ratio[name] >= 1 - 1e-9).all()
    assert ratio["once"].max() > 1.05
    assert ratio["anew"].max() < 1.001
    assert (ledger.forwards == 3000).all()


def test_it_begins_anew_as_often_as_told(plant):
    planted = plant(samples=20, features=16)
    asked = []
    for restarts in (0, 1, 3):
        attack = RayS(restarts=restarts)
        ledger = attacked(planted.model(), planted.x, planted.y, 3000, attack)
        asked.append(ledger.forwards)
    assert (asked[0] < asked[1]).all()
    assert (asked[1] < asked[2]).all()
    assert (asked[2] < 3000).all()


def test_no_question_beyond_the_budget(plant):
    planted = plant(samples=20, features=64, classes=3)
    for budget in range(60, 140, 4):
        attack = RayS().within(budget)
        ledger = attacked(planted.model(), planted.x, planted.y, budget, attack)
        assert (ledger.forwards <= budget).all()


def test_the_radius_stays_positive_however_much_helps_at_once():
    rng = np.random.default_rng(0)
    model = NumPyModel(lambda x: rng.normal(size=(len(x), 2)))
    x, y = np.full((4, 256), 0.5), np.zeros(4, dtype=np.int64)
    p = Problem(model, as_tensor(x), Misclassification(as_tensor(y)), get_norm("linf"))
    attack = RayS(tolerance=0.1, rough=0.1)
    state = attack.init(p)
    for step in range(150):
        state = attack.step(p, state, step)
        assert (state.radius > 0).all()


@pytest.mark.parametrize(("features", "most"), [(256, 16), (2**15, 8)])
def test_blocks_are_asked_about_several_at_a_time(plant, features, most):
    # Fewer of large inputs, whose points would fill the memory.
    planted = plant(samples=1, features=features, classes=2)
    gain = np.diff(planted.w)[:, 0] * (1 - 2 * planted.y[0])
    start = as_tensor(np.where(gain > 0, planted.upper, planted.lower)[None])
    asked = []

    def logits(x):
        asked.append(len(x))
        return planted.logits(x)

    model = NumPyModel(logits, bounds=Bounds(planted.lower, planted.upper))
    ledger = attacked(model, planted.x, planted.y, 500, starts=start)
    assert ledger.forwards == [sum(asked)] == [500]
    assert max(asked) == most
    assert len(asked) < 0.7 * sum(asked)


@pytest.mark.parametrize("shape", [(1,), (7,), (3, 8, 8), (5, 6, 3), (1, 28, 28)])
def test_the_order_of_features_is_a_permutation(shape):
    assert sorted(_order(shape)) == list(range(np.prod(shape)))


def test_blocks_are_compact():
    rank = np.argsort(_order((3, 8, 8))).reshape(3, 8, 8)
    # A quarter of the features is a quarter of the image, in all channels.
    corner = rank[:, :4, :4]
    assert sorted(corner.ravel()) == list(range(48))
    # Down to squares of four pixels.
    assert sorted(rank[:, 2:4, 6:8].ravel() - rank[:, 2:4, 6:8].min()) == list(
        range(12)
    )


def test_one_feature_is_enough():
    model = NumPyModel(lambda x: np.concatenate([x, 0.4 + 0 * x], axis=1))
    ledger = attacked(model, np.array([[0.9]]), np.zeros(1, dtype=np.int64))
    assert 0.5 < ledger.distance.raw[0] < 0.501


def test_a_cascade_goes_on_where_no_ray_is_adversarial():
    model = NumPyModel(lambda x: np.stack([0 * x[:, 0] + 1, 0 * x[:, 0]], axis=1))
    x, y = np.full((2, 3), 0.4, np.float32), np.zeros(2, int)
    ledger = attacked(model, x, y, attack=Cascade((RayS(steps=5), RayS(steps=5))))
    assert not ledger.found.numpy().any()


def test_starts_need_not_lie_in_a_corner():
    # Adversarial in a ball around a grey image only, which no corner is near to.
    centre = np.full((1, 9), 0.5)
    centre[0, :5] = 0.6

    def function(x):
        score = np.abs(x - centre).max(axis=1) - 0.05
        return np.stack([score, np.zeros_like(score)], axis=1)

    x = np.linspace(0.1, 0.9, 9)[None]
    model, y = NumPyModel(function), np.zeros(1, dtype=np.int64)
    assert not attacked(model, x, y, 200).found.raw.any()
    ledger = attacked(model, x, y, 200, starts=as_tensor(centre))
    exact = (np.abs(x - centre) - 0.05).max()
    assert exact <= ledger.distance.raw[0] <= 1.01 * exact


def test_the_best_known_is_a_start_and_no_business_of_others(plant):
    planted = plant(classes=2, samples=8)
    far = np.where(planted.x > 1, planted.lower, planted.upper)

    def begun(known):
        labels = Misclassification(as_tensor(planted.y))
        x = as_tensor(planted.x)
        p = Problem(planted.model(), x, labels, get_norm("linf"))
        # One question for each sample, but only some are asked about a far point.
        p.decide(where(as_tensor(known), as_tensor(far), x))
        found = p.ledger.found.numpy()
        return RayS().init(p), p.ledger.forwards, found

    nobody = np.zeros(8, dtype=bool)
    _, _, useful = begun(~nobody)
    assert useful.any()
    state, asked, found = begun(useful & (np.arange(8) == useful.argmax()))
    assert found.sum() == 1
    plain, fewer, _ = begun(nobody)
    assert (asked > fewer).tolist() == found.tolist()
    assert (state.radius <= plain.radius * (1 + 1e-2)).all()


@pytest.mark.parametrize(
    ("tolerance", "message"),
    [
        (0.0, "its tolerance to be above 0"),
        (-1e-3, "its tolerance to be above 0"),
        (float("nan"), "the tolerance of RayS must be a finite number"),
    ],
)
def test_bad_settings(plant, tolerance, message):
    planted = plant(classes=2)
    with pytest.raises(BadInput, match=message):
        attacked(
            planted.model(), planted.x, planted.y, attack=RayS(tolerance=tolerance)
        )
