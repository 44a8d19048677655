import numpy as np
import pytest
import torch

import robustkit as rk
from robustkit.errors import BadInput
from robustkit.models.wrappers import MajorityVote, Preprocessed


def test_torch_in_torch_out(planted):
    module = torch.nn.Linear(6, 3, bias=False).eval()
    module.weight.data = torch.from_numpy(planted.w.T.copy())
    x, y = torch.from_numpy(planted.x), torch.from_numpy(planted.y)
    result = rk.run(rk.FMN(steps=200), module, x, y, norm="l2")
    assert isinstance(result.x_adversarial, torch.Tensor)
    assert isinstance(result.distance, torch.Tensor)
    assert bool(result.found.all())
    ratio = result.distance.numpy() / planted.exact("l2")
    assert ratio.min() >= 1 - 1e-5
    assert np.median(ratio) < 1.001
    assert result.ledger.forwards.tolist() == [200] * 24


def test_jax_in_jax_out(planted):
    jax = pytest.importorskip("jax")
    x, y = jax.numpy.asarray(planted.x), jax.numpy.asarray(planted.y)
    weights = jax.numpy.asarray(planted.w)
    result = rk.run("fmn", lambda v: v @ weights, x, y, norm="linf")
    assert isinstance(result.distance, jax.Array)
    reference = rk.run("fmn", planted.model(), planted.x, planted.y, norm="linf")
    np.testing.assert_allclose(result.distance, reference.distance, rtol=1e-4)


def test_targets_budgets_and_names(planted):
    criterion = rk.Targeted(rk.TorchModel(lambda x: x).to_tensor(planted.y * 0))
    x = torch.from_numpy(planted.x)
    weights = torch.from_numpy(planted.w)
    result = rk.run("fmn", lambda v: v @ weights, x, criterion, budget=10)
    assert (result.ledger.forwards <= 10).all()
    already = planted.y == 0
    assert (result.distance.numpy()[already] == 0).all()
    assert (result.ledger.forwards[already] == 0).all()
    assert (result.ledger.distance_after(0)[already] == 0).all()


@pytest.mark.parametrize(("name", "attack"), [("auto", "auto"), ("fmn", ["fmn"])])
def test_names_are_planned_as_in_an_evaluation(planted, name, attack):
    given = {"norm": "l2", "budget": 330}
    for model in (
        rk.Estimated(planted.model(), 10),
        rk.MajorityVote(planted.model(), 5),
        rk.EOT(planted.model(), 4),
    ):
        if name == "fmn" and model.access < rk.Access.GRADIENT:
            continue
        results = rk.evaluate(model, (planted.x, planted.y), attacks=attack, **given)
        result = rk.run(name, model, planted.x, planted.y, **given)
        assert np.allclose(result.distance, results.distances("l2", name), rtol=1e-4)


@pytest.mark.parametrize("budget", ["many", 0, 1.5])
@pytest.mark.parametrize("name", ["auto", "fmn"])
def test_budgets_that_are_none(planted, name, budget):
    with pytest.raises(BadInput, match="the budget must be"):
        rk.run(name, planted.model(), planted.x, planted.y, budget=budget)


@pytest.mark.parametrize("kind", [torch.tensor, np.array, list])
def test_a_criterion_may_hold_arrays_of_any_kind(planted, kind):
    module = torch.nn.Linear(6, 3, bias=False).eval()
    module.weight.data = torch.from_numpy(planted.w.T.copy())
    x, targets = torch.from_numpy(planted.x), (planted.y + 1) % 3
    aimed = rk.Targeted(kind(targets.tolist()))
    result = rk.run("fmn", module, x, aimed, norm="linf")
    own = rk.Targeted(rk.TorchModel(module).to_tensor(targets))
    assert torch.equal(result.distance, rk.run("fmn", module, x, own).distance)
    surer = rk.AllOf(aimed, rk.Confident(aimed, 0.1))
    logits = module(rk.run("fmn", module, x, surer, norm="linf").x_adversarial)
    best, second = logits.topk(2, dim=1).values.T
    assert logits.argmax(dim=1).tolist() == targets.tolist()
    assert (best - second > 0.1 - 1e-5).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_for_models_not_for_distances(planted, dtype):
    x, y = torch.from_numpy(planted.x).to(dtype), torch.from_numpy(planted.y)
    module = torch.nn.Linear(6, 3, bias=False).eval()
    module.weight.data = torch.from_numpy(planted.w.T.copy())
    result = rk.run("fmn", module, x, y, budget=10, starts=x, pool=x)
    same = rk.run("fmn", module, x.float(), y, budget=10)
    assert result.distance.dtype == result.x_adversarial.dtype == torch.float32
    assert torch.equal(result.distance, same.distance)


def test_the_classes_of_a_pool_say_whom_to_try_first(planted):
    rare, often = np.argsort(np.bincount(planted.y, minlength=3))[-2:]
    x = planted.x[planted.y == often]
    aimed = rk.Targeted(np.full(len(x), rare))
    settings = {"norm": "l2", "budget": 1}
    model, named = planted.model(), (planted.x, planted.y)
    blind = rk.run("blend", model, x, aimed, pool=planted.x, **settings)
    seeing = rk.run("blend", model, x, aimed, pool=named, **settings)
    assert seeing.found.all()
    assert not blind.found.all()


def test_a_pool_with_classes_is_a_pair_of_both(planted):
    for match, pool in {
        "a tuple of 3": (planted.x, planted.y, planted.y),
        r"must be \(24,\) integers; got an array of shape \(23,\)": (
            planted.x,
            planted.y[1:],
        ),
        "dtype float64": (planted.x, planted.y * 1.0),
        "pool must be any number of inputs": (planted.x[:, 1:], planted.y),
        r"inputs of shape \(6,\); got an array of shape \(\)": (None, planted.y),
    }.items():
        with pytest.raises(BadInput, match=match):
            rk.run("blend", planted.model(), planted.x, planted.y, pool=pool)


def test_lists_are_arrays(planted):
    model = planted.model()
    listed = rk.run("fmn", model, planted.x.tolist(), planted.y.tolist(), budget=10)
    assert isinstance(listed.distance, np.ndarray)
    plain = rk.run("fmn", model, planted.x, planted.y, budget=10)
    np.testing.assert_allclose(listed.distance, plain.distance, rtol=1e-4)


def test_all_criteria_within_another_are_checked(planted):
    right, wrong = rk.Targeted(planted.y), rk.Targeted(np.full(24, 5))
    for criterion in (
        rk.AllOf(right, wrong),
        rk.AnyOf(wrong, right),
        rk.AllOf(right, rk.Confident(rk.AnyOf(right, wrong), 0.1)),
        rk.Matching(wrong, planted.logits(planted.x)),
    ):
        with pytest.raises(BadInput, match="0 to 2; sample 0 has 5"):
            rk.run("fmn", planted.model(), planted.x, criterion)


class TestModelsThatNameOneClass:
    x = np.random.default_rng(1).random((4, 3))

    def criteria(self):
        y = self.x.argmax(axis=1)
        return rk.TopK(y, 1), rk.TopK(y, 2)

    def check(self, model, **options):
        first, second = self.criteria()
        assert rk.run("rays", model, self.x, first, **options).found.all()
        with pytest.raises(BadInput, match=r"names one class.*TopK"):
            rk.run("rays", model, self.x, second, **options)
        with pytest.raises(BadInput, match=r"names one class.*TopK"):
            rk.evaluate(
                model,
                (self.x, self.x.argmax(axis=1)),
                criterion=lambda labels: rk.TopK(labels, 2),
                budget=5,
            )

    def test_never_show_who_comes_second(self):
        model = rk.LabelModel(lambda x: x.argmax(axis=1), 3)
        self.check(model)
        self.check(Preprocessed(model, 0, 1))

    def test_votes_do(self):
        model = rk.LabelModel(lambda x: x.argmax(axis=1), 3)
        rk.run("rays", MajorityVote(model, 3), self.x, self.criteria()[1], budget=9)


def test_settings_of_criteria_may_be_numbers_of_numpy(planted):
    found = [
        rk.evaluate(
            planted.model(),
            (planted.x, planted.y),
            attacks=["fmn"],
            budget=20,
            criterion=lambda labels, k=k: rk.TopK(labels, k),
        ).distance
        for k in (2, np.int64(2))
    ]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32])
def test_classes_in_any_kind_of_integers(planted, dtype):
    matrix = torch.tensor(planted.w)
    model = rk.TorchModel(lambda x: x @ matrix, rk.Bounds(-3, 5))
    found = [
        rk.run("fmn", model, planted.x, rk.TopK(planted.y.astype(kind), 2), budget=5)
        for kind in (dtype, np.int64)
    ]
    np.testing.assert_array_equal(*(result.distance for result in found))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.full((2, 6), 2.0)}, "outside the bounds"),
        ({"x": np.full((2, 6), np.nan)}, "finite"),
        ({"x": np.zeros(6)}, r"\(n, ...\)"),
        ({"criterion": np.zeros(24)}, "integers"),
        ({"criterion": np.zeros(1, dtype=int)}, "integers"),
        ({"criterion": np.full(24, 3)}, "0 to 2"),
        (
            {"criterion": np.full(24, 2**64 - 1, np.uint64)},
            "label 18446744073709551615",
        ),
        ({"criterion": rk.Targeted([1, 2])}, "24 samples must hold one row for each"),
        ({"criterion": rk.Targeted(np.array(1))}, r"of shape \(\)"),
        ({"criterion": rk.Targeted(np.full(24, 9))}, "3 classes.* sample 0 has 9"),
        ({"criterion": rk.Targeted(np.full(24, -1))}, "0 to 2; sample 0 has -1"),
        ({"criterion": rk.Misclassification(np.full(24, 3))}, "Misclassification"),
        ({"criterion": rk.TopK(np.full(24, 3), 1)}, "0 to 2; sample 0 has 3"),
        ({"criterion": rk.Undetected(np.full(24, 3))}, "0 to 2; sample 0 has 3"),
        ({"criterion": rk.OrderedTopK([[0, 1]] * 23 + [[0, 3]])}, "sample 23 has 3"),
        ({"criterion": rk.Confident(rk.Targeted(np.full(24, 4)), 1.0)}, "has 4"),
        ({"criterion": rk.Targeted(np.zeros(24))}, "integers.* float64"),
        ({"criterion": rk.Targeted(np.zeros((24, 1), int))}, r"\(24, 1\)"),
        ({"criterion": rk.Targeted(1)}, r"\(24,\) integers"),
        ({"criterion": rk.TopK(None, 2)}, r"\(24,\) integers"),
        ({"criterion": rk.Targeted(["cat"] * 24)}, "must be numbers"),
        ({"x": np.zeros((24, 6), dtype=int)}, "floats"),
        ({"starts": np.zeros((3, 6))}, "starts must be 24"),
        ({"pool": np.zeros((3, 5))}, "pool must be"),
        ({"pool": np.full((3, 6), np.nan)}, "finite inputs; pool has NaN"),
        ({"starts": np.full((24, 6), 9.0)}, r"inputs in \[.*\]; starts ranges from 9"),
        ({"norm": "l5"}, "unknown norm"),
        ({"attack": "pgdd"}, "did you mean 'pgd'"),
        ({"attack": "boundary", "norm": "l0"}, "cannot minimise"),
        ({"attack": rk.FMN}, "expected an attack, or the name of one; got <class"),
        ({"budget": 0}, "at least 1"),
        ({"budget": 2.5}, "whole number"),
        ({"seed": "a"}, "the seed must be a whole number; got 'a'"),
        ({"bounds": (0, 1, 2)}, r"two numbers .* got \(0, 1, 2\)"),
        ({"bounds": ("a", 1)}, "two finite numbers"),
    ],
)
def test_bad_input(planted, change, message):
    settings = {
        "attack": "fmn",
        "model": planted.model(),
        "x": planted.x,
        "criterion": planted.y,
        **change,
    }
    with pytest.raises(BadInput, match=message):
        rk.run(**settings)


def test_auto_is_what_suits_norm_and_access(plant):
    planted = plant(samples=4)
    found = rk.run("auto", planted.model(), planted.x, planted.y, norm="l2", budget=60)
    assert found.found.all()
    assert (found.ledger.forwards <= 60).all()
    blind = rk.NumPyModel(planted.logits, (planted.lower, planted.upper))
    found = rk.run("auto", blind, planted.x, planted.y, norm="l0", budget=60)
    assert not found.ledger.backwards.any()
    with pytest.raises(BadInput, match="'standard' is a choice that depends"):
        rk.run("standard", blind, planted.x, planted.y)


def test_a_named_attack_plans_for_the_budget(plant):
    planted = plant(samples=4)
    found = rk.run("square", planted.model(), planted.x, planted.y, budget=80)
    assert found.found.any()


def test_auto_by_name_is_the_plan_for_the_budget(plant):
    planted = plant(seed=3)
    model = planted.model()
    for budget in (30, 60):
        named, made = (
            rk.run(attack, model, planted.x, planted.y, norm="linf", budget=budget)
            for attack in ("auto", rk.auto("linf", budget))
        )
        assert (named.ledger.forwards == budget).all()
        assert (named.distance == made.distance).all()


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (lambda x: x[:, :1], "one number per input"),
        (lambda x: x[:, 0], "one number per input"),
        (lambda x: x[:1], r"expected logits of shape \(24, classes\)"),
        (lambda x: x > 0.5, "values of dtype bool"),
    ],
)
def test_a_model_must_return_two_or_more_numbers_for_each_input(
    planted, logits, message
):
    model = rk.NumPyModel(logits, (planted.lower, planted.upper))
    for criterion in (np.zeros(24, int), rk.Misclassification(np.zeros(24, int))):
        with pytest.raises(BadInput, match=message):
            rk.run("boundary", model, planted.x, criterion, norm="l2", budget=20)
