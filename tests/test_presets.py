import numpy as np
import pytest
import torch

import robustkit as rk
from robustkit import presets
from robustkit.attacks.gradient.greedy import Greedy
from robustkit.attacks.gradient.pdgd import PDPGD
from robustkit.attacks.gradient.polish import Polish
from robustkit.attacks.gradient.relay import Relay
from robustkit.engine.attack import Attack
from robustkit.engine.criteria import Misclassification, Targeted
from robustkit.engine.loop import run
from robustkit.engine.problem import Problem
from robustkit.errors import BadInput
from robustkit.models.base import Access
from robustkit.models.torch import TorchModel
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor
from robustkit.presets import auto, autoattack
from robustkit.registry import choose_attacks


def plan(attack):
    fields = ("loss", "targets", "steps", "passes", "random_start", "wide")
    return type(attack).__name__, {
        name: getattr(attack, name) for name in fields if hasattr(attack, name)
    }


def test_autoattack_is_the_published_cascade():
    standard = [plan(attack) for attack in autoattack(0.1, "linf").attacks]
    assert [name for name, _ in standard] == ["APGD", "APGD", "TargetedFAB", "Square"]
    assert [s["steps"] for _, s in standard] == [100, 900, 900, 5000]
    assert [s.get("loss") for _, s in standard[:2]] == ["cross-entropy", "dlr"]
    assert [s.get("targets") for _, s in standard[:3]] == [0, 9, 9]
    sparse = [plan(attack) for attack in autoattack(10.0, "l1").attacks]
    assert [s["steps"] for _, s in sparse] == [100] * 5 + [500, 900, 5000]
    assert all(s["wide"] for name, s in sparse if name == "APGD")
    rand = [plan(attack) for attack in autoattack(0.1, version="rand").attacks]
    assert [(s["loss"], s["passes"]) for _, s in rand] == [
        ("cross-entropy", 20),
        ("dlr", 20),
    ]
    assert autoattack(0.1).epsilon == 0.1


@pytest.mark.parametrize("version", ["standard", "rand"])
@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_finds_what_the_budget_holds(plant, norm, version):
    planted = plant(seed=1, classes=4, samples=16)
    exact = planted.exact(norm)
    epsilon = float(np.median(exact))
    cascade = autoattack(epsilon * 1.01, norm, version).within(400)
    bounds = (planted.lower, planted.upper)
    result = rk.run(
        cascade, planted.model(), planted.x, planted.y, norm=norm, bounds=bounds
    )
    broken = result.distance <= epsilon * 1.0101
    assert broken[exact <= epsilon].all()
    assert not broken[exact > epsilon * 1.0101].any()


def test_serves_the_evaluator():
    attacks = {"autoattack": autoattack(0.12).within(100)}
    results = rk.evaluate(
        "digits", "digits", samples=20, attacks=attacks, epsilons=[0.12]
    )
    clean, robust = results.clean_accuracy, results.robust_accuracy(0.12)
    assert 0 < robust.estimate < clean.estimate


# How near the exact distance each comes on a linear model that shows scores only.
_BY_SCORES = {
    "minimum_norm_square": 1.5,
    "minimum_norm_simba": 1.5,
    "minimum_norm_thompson": 1.5,
    "minimum_norm_sparse_rs": 1.0,
}


@pytest.mark.parametrize(
    "name", sorted(set(presets.__all__) - {"autoattack", "minimum_norm_patch_rs"})
)
def test_minimum_norm_presets(plant, name):
    planted = plant(seed=2, classes=4, samples=16)
    attack = getattr(presets, name)()
    assert isinstance(attack, Attack)
    score = name in _BY_SCORES
    norm = "l0" if name == "minimum_norm_sparse_rs" else "linf"
    assert attack.access is (Access.SCORE if score else Access.GRADIENT)
    bounds = (planted.lower, planted.upper)
    result = rk.run(
        attack.within(500 if score else 200),
        planted.model(),
        planted.x,
        planted.y,
        norm=norm,
        bounds=bounds,
    )
    ratio = result.distance / planted.exact(norm)
    assert (ratio >= 1 - 1e-9).all()
    assert np.median(ratio) <= _BY_SCORES.get(name, 1.02)


def test_bad_settings():
    with pytest.raises(BadInput, match="unknown version 'random'"):
        autoattack(0.1, version="random")
    with pytest.raises(BadInput, match="knows l1, l2 and linf; got l0"):
        autoattack(0.1, "l0")
    with pytest.raises(BadInput, match="did you mean 'decision'"):
        auto("l2", 100, "decisions")
    for access in Access:
        with pytest.raises(BadInput, match="the budget must be at least 1; got 0"):
            auto("l2", 0, access)
        with pytest.raises(BadInput, match="budget must be a whole number"):
            auto("l2", 99.5, access)


def test_access_has_a_name():
    for level in Access:
        assert auto("l2", 100, level.name.lower()) == auto("l2", 100, level)


@pytest.mark.parametrize("norm", ["l0", "l1", "l2", "linf"])
@pytest.mark.parametrize("budget", [3, 30, 100, 301])
def test_auto_plans_for_the_budget_and_keeps_to_it(plant, norm, budget):
    planted = plant(seed=1)
    attack = auto(norm).within(budget)
    criterion = Misclassification(as_tensor(planted.y))
    problem = Problem(planted.model(), as_tensor(planted.x), criterion, get_norm(norm))
    ledger = run(attack, problem)
    assert (ledger.forwards <= budget).all()
    assert (ledger.forwards >= 0.9 * budget - 1).all()


def kinds(attack):
    return [(type(part), part.steps) for part in attack.attacks]


def test_auto_leaves_the_valley_where_there_are_passes_for_it():
    (both,) = auto("l0", 600).attacks
    assert kinds(both.free) == [(Relay, 419), (PDPGD, 120), (Greedy, 60)]
    (both,) = auto("l0", 599).attacks
    assert kinds(both.free) == [(Relay, 449), (Greedy, 149)]


def test_auto_goes_far_where_a_class_is_to_be_reached():
    (both,) = auto("l0", 100).attacks
    assert kinds(both.aimed) == [(Relay, 39), (PDPGD, 50), (Greedy, 10)]
    assert kinds(auto("l0", 99)) == [(Relay, 74), (Greedy, 24)]
    (both,) = auto("l1", 600).attacks
    first, middle, *last = kinds(both.aimed)
    assert [first, middle] == [(Relay, 199), (PDPGD, 280)]
    assert last == [(Relay, 95), (Polish, 24)]
    assert kinds(both.free) == [(Relay, 575), (Polish, 24)]
    assert kinds(auto("l1", 599)) == [(Relay, 575), (Polish, 23)]
    for norm in ("l2", "linf"):
        assert kinds(auto(norm, 1000)) == [(Relay, 959), (Polish, 40)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("norm", "passes", "factor"), [("l0", 300, 0.5), ("l1", 600, 0.9)]
)
def test_auto_comes_nearer_to_a_class_than_its_relay_does(shared, norm, passes, factor):
    model = shared.torch_model("mnist_small_kw_0.3").requires_grad_(False)
    x = as_tensor(torch.tensor(shared.images("mnist")[0][100:108]))
    target = Targeted(as_tensor(model(x.raw).argmin(1)))
    distances = []
    for attack in (auto(norm, passes), Relay().within(passes)):
        problem = Problem(TorchModel(model), x, target, get_norm(norm))
        distances.append(run(attack, problem).distance.numpy())
    assert np.isfinite(distances).all()
    assert np.log(distances[0] / distances[1]).mean() <= np.log(factor)


def test_auto_polishes_where_there_are_passes_for_it():
    for norm in ("linf", "l2", "l1"):
        assert [type(part) for part in auto(norm, 49).attacks] == [Relay]
        assert [type(part) for part in auto(norm, 50).attacks] == [Relay, Polish]


@pytest.mark.parametrize("norm", ["l0", "l1"])
def test_where_gradients_lie_few_features_are_set_back_in_the_end(norm):
    """Farther on a network by up to a half where a descent came last."""
    assert isinstance(auto(norm, 400).successor.successor, rk.Pointwise)


@pytest.mark.parametrize(
    ("norm", "factor"), [("l0", 2.0), ("l1", 1.5), ("l2", 1.01), ("linf", 1.01)]
)
def test_auto_with_decisions_only(plant, norm, factor):
    planted = plant(seed=2, samples=20, classes=4)
    attack = auto(norm, 1000, Access.DECISION)
    assert attack.access is Access.DECISION
    criterion = Misclassification(as_tensor(planted.y))
    problem = Problem(planted.model(), as_tensor(planted.x), criterion, get_norm(norm))
    ledger = run(attack, problem, budget=1000)
    ratio = ledger.distance.numpy() / planted.exact(norm)
    assert (ledger.forwards <= 1000).all()
    assert (ratio >= 1 - 1e-9).all()
    assert np.median(ratio) <= factor


@pytest.mark.parametrize("norm", ["l0", "l1", "l2", "linf"])
def test_auto_by_scores_asks_for_no_more(plant, norm):
    planted = plant(seed=3)
    attack = auto(norm, 400, Access.SCORE)
    assert attack.access is Access.SCORE
    criterion = Misclassification(as_tensor(planted.y))
    problem = Problem(planted.model(), as_tensor(planted.x), criterion, get_norm(norm))
    ledger = run(attack, problem, budget=400)
    assert (ledger.backwards == 0).all()
    assert (ledger.forwards <= 400).all()
    ratio = ledger.distance.numpy() / planted.exact(norm)
    assert np.median(ratio) <= {"l0": 1.0, "l1": 2.0, "l2": 1.6, "linf": 1.5}[norm]


@pytest.mark.parametrize("norm", ["l0", "l1", "l2", "linf"])
def test_auto_is_exact_where_the_model_is_linear(plant, norm):
    planted = plant(seed=2, samples=40, classes=4)
    criterion = Misclassification(as_tensor(planted.y))
    problem = Problem(planted.model(), as_tensor(planted.x), criterion, get_norm(norm))
    distance = run(auto(norm), problem).distance.numpy()
    exact = planted.exact(norm)
    assert (distance >= exact * (1 - 1e-9)).all()
    assert np.median(distance / exact) <= 1 + 1e-5
    assert (distance <= exact * 1.01).mean() >= 0.95


@pytest.mark.parametrize("access", Access)
@pytest.mark.parametrize("norm", ["l0", "l1", "l2", "linf"])
def test_by_name_the_plan_is_that_for_the_budget_too(norm, access):
    for budget in (1, 30, 300):
        chosen = choose_attacks("auto", get_norm(norm), access, budget)
        assert chosen == {"auto": auto(norm, budget, access)}


@pytest.mark.parametrize("norm", ["l2", "linf", "l1", "l0"])
def test_auto_asks_about_numbers_where_a_probability_vanishes(norm):
    weights = np.random.default_rng(3).normal(size=(12, 4))
    x = np.random.default_rng(4).uniform(0.3, 0.7, size=(3, 12))
    x[:, 3] = 0.6
    y = (x @ weights).argmax(axis=1)
    shown = []

    def logits(x):
        shown.append(np.isfinite(x).all())
        scores = x @ weights
        scores[x[:, 3] < 0.45, y[0]] = -np.inf
        return scores

    model = rk.NumPyModel(logits, gradient=lambda x, slopes: slopes @ weights.T)
    with np.errstate(invalid="ignore"):
        found = rk.run(auto(norm, 60), model, x, y, norm=norm, budget=60)
    assert all(shown)
    assert found.found.all()
    assert not found.ledger.unknown.any()
