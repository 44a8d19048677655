"""foolbox's models and attacks as ours, and our attacks as foolbox's."""

import dataclasses
import inspect
import subprocess
import sys

import numpy as np
import pytest
import torch

import robustkit as rk
from robustkit import demo
from robustkit.engine import loop
from robustkit.engine.problem import Problem
from robustkit.models.base import NoGradient
from robustkit.models.load import as_model
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor, to_numpy

pytest.importorskip("foolbox", reason="foolbox is optional")

from robustkit.interop import foolbox as interop
from robustkit.interop.foolbox import FoolboxModel, as_foolbox, foolbox_attack

# foolbox warns when it is imported; robustkit.interop.foolbox has done so silently.
import foolbox  # isort: skip


class Counting(torch.nn.Module):
    """A module that counts its own rows, forward and backward."""

    def __init__(self, module):
        super().__init__()
        self.module, self.forwards, self.backwards = module, 0, 0
        self.eval()

    def forward(self, x):
        self.forwards += len(x)
        logits = self.module(x)
        if logits.requires_grad:
            logits.register_hook(self._went_back)
        return logits

    def _went_back(self, gradient):
        self.backwards += len(gradient)


@pytest.fixture(scope="module")
def digits():
    """The demo network and six images it gets right."""
    module = demo.load_model("digits")
    x, y = demo.load_data("digits")
    x, y = torch.from_numpy(x[:20]), torch.from_numpy(y[:20])
    right = torch.nonzero(module(x).argmax(1) == y).flatten()[:6]
    return module, x[right], y[right]


@pytest.fixture(scope="module")
def linear():
    """A linear model, inputs far from the bounds, and their exact distances."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(12, 3)).astype(np.float32)
    module = torch.nn.Linear(12, 3, bias=False).eval()
    module.weight.data = torch.from_numpy(weights.T.copy())
    x = rng.uniform(0.4, 0.6, size=(8, 12)).astype(np.float32)
    logits = x.astype(np.float64) @ weights
    y = logits.argmax(1)

    def exact(dual):
        distances = np.full((len(x), 3), np.inf)
        for row, label in enumerate(y):
            for other in {0, 1, 2} - {label}:
                slope = (weights[:, label] - weights[:, other]).astype(np.float64)
                gap = logits[row, label] - logits[row, other]
                distances[row, other] = gap / np.linalg.norm(slope, dual)
        return distances.min(1)

    exact_distances = {"l1": exact(np.inf), "l2": exact(2), "linf": exact(1)}
    return module, torch.from_numpy(x), torch.from_numpy(y), exact_distances


def guest_model(module, **settings):
    return foolbox.PyTorchModel(module, bounds=(0, 1), device="cpu", **settings)


# models


def test_a_torch_model_is_asked_through_its_preprocessing(digits):
    module, x, _ = digits
    native = guest_model(
        module, preprocessing={"mean": [0.5], "std": [0.2], "axis": -3}
    )
    model = FoolboxModel(native)
    scaled = ((x - 0.5) / 0.2).requires_grad_()
    expected = module(scaled)
    slopes = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad(expected, scaled, slopes)
    logits, pull_back = model.linearise(as_tensor(x))
    np.testing.assert_allclose(logits.raw, expected.detach(), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(model.logits(as_tensor(x)).raw, logits.raw)
    back = pull_back(as_tensor(slopes)).raw
    np.testing.assert_allclose(back, gradient / 0.2, rtol=1e-4, atol=1e-5)


def test_parameters_are_frozen_while_asked_and_restored(digits):
    module, x, _ = digits
    model = FoolboxModel(guest_model(module))
    with model.session():
        assert not any(p.requires_grad for p in module.parameters())
    assert all(p.requires_grad for p in module.parameters())
    _, pull_back = model.linearise(as_tensor(x))
    pull_back(as_tensor(torch.ones(len(x), 10)))
    assert all(p.grad is None for p in module.parameters())


def test_it_is_named_after_its_module_and_recognised(digits):
    model = as_model(guest_model(digits[0]))
    assert isinstance(model, FoolboxModel)
    assert model.name == "Sequential"
    assert as_model(guest_model(digits[0]), name="mine").name == "mine"


def test_a_module_in_training_mode_is_evaluated_with_a_warning():
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout())
    with pytest.warns(UserWarning, match="training mode"):
        native = guest_model(module)
    with pytest.warns(UserWarning, match="training mode"):
        model = FoolboxModel(native)
    x = as_tensor(torch.ones(50, 2))
    assert np.ptp(to_numpy(model.logits(x)), axis=0).max() == 0


def test_bounds_come_from_the_foolbox_model(digits):
    module, x, _ = digits
    native = guest_model(module).transform_bounds((0, 255), wrapper=True)
    model = FoolboxModel(native)
    assert model.bounds == rk.Bounds(0, 255)
    np.testing.assert_allclose(
        model.logits(as_tensor(x * 255)).raw, module(x).detach(), rtol=1e-4, atol=1e-4
    )
    assert FoolboxModel(native, rk.Bounds(0, 255)).bounds == model.bounds
    with pytest.raises(rk.BadInput, match="transform_bounds"):
        FoolboxModel(native, rk.Bounds(0, 1))


def test_a_thresholding_wrapper_gives_scores_but_no_gradients(digits):
    module, x, _ = digits
    model = FoolboxModel(foolbox.models.ThresholdingWrapper(guest_model(module), 0.5))
    expected = module((x >= 0.5).float()).detach()
    np.testing.assert_allclose(model.logits(as_tensor(x)).raw, expected, rtol=1e-5)
    with pytest.raises(NoGradient):
        model.linearise(as_tensor(x))


def test_a_numpy_model_gives_scores_only():
    weights = np.eye(4, 3, dtype=np.float32)
    model = FoolboxModel(foolbox.NumPyModel(lambda x: x @ weights, bounds=(0, 1)))
    x = np.random.default_rng(0).random((5, 4), dtype=np.float32)
    np.testing.assert_array_equal(model.logits(model.to_tensor(x)).raw, x @ weights)
    assert model.access is rk.Access.SCORE
    assert model.fingerprint() is None


def test_a_jax_model_gives_gradients():
    jnp = pytest.importorskip("jax.numpy")
    weights = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    native = foolbox.JAXModel(
        lambda x: x @ jnp.asarray(weights),
        bounds=(0, 1),
        preprocessing={"mean": jnp.full(4, 0.5), "std": jnp.full(4, 2.0)},
    )
    model = FoolboxModel(native)
    x = model.to_tensor(np.full((2, 4), 0.25, np.float32))
    logits, pull_back = model.linearise(x)
    np.testing.assert_allclose(to_numpy(logits)[0], -0.125 * weights.sum(0), rtol=1e-5)
    slopes = model.to_tensor(np.eye(2, 3, dtype=np.float32))
    back = to_numpy(pull_back(slopes))
    np.testing.assert_allclose(back, weights.T[:2] / 2, rtol=1e-5)


def test_a_foolbox_model_of_a_torch_function_gives_gradients():
    class Doubling(foolbox.models.base.ModelWithPreprocessing):
        def __init__(self):
            dummy = as_tensor(torch.zeros(0))
            super().__init__(lambda x: 2 * x, (0, 1), dummy, {"mean": 0.5})

    model = FoolboxModel(Doubling())
    x = as_tensor(torch.rand(2, 3, generator=torch.Generator().manual_seed(0)))
    logits, pull_back = model.linearise(x)
    assert torch.equal(logits.raw, 2 * (x.raw - 0.5))
    assert torch.equal(
        pull_back(as_tensor(torch.ones(2, 3))).raw, torch.full((2, 3), 2.0)
    )
    assert model.fingerprint() is None


def test_other_foolbox_models_are_refused():
    class Exotic(foolbox.models.Model):
        bounds = (0, 1)

        def __call__(self, inputs):
            return inputs

    with pytest.raises(rk.BadInput, match="a foolbox Exotic cannot be used"):
        FoolboxModel(Exotic())


def test_the_fingerprint_knows_weights_and_settings(digits):
    module = digits[0]

    def fingerprint(native):
        return FoolboxModel(native).fingerprint()

    one = fingerprint(guest_model(module))
    assert one == fingerprint(guest_model(demo.load_model("digits")))
    others = {
        fingerprint(guest_model(demo.load_model("digits-robust"))),
        fingerprint(guest_model(module, preprocessing={"mean": 0.5, "std": 0.2})),
        fingerprint(guest_model(module).transform_bounds((0, 2), wrapper=True)),
        fingerprint(foolbox.models.ThresholdingWrapper(guest_model(module), 0.5)),
        fingerprint(foolbox.models.ThresholdingWrapper(guest_model(module), 0.6)),
    }
    assert len(others | {one}) == 6


def test_evaluate_and_run_take_a_foolbox_model_as_they_take_its_module(digits):
    module, x, y = digits
    attack = rk.FMN(steps=20)
    one = rk.evaluate(module, (x, y), norm="l2", attacks={"fmn": attack})
    two = rk.evaluate(guest_model(module), (x, y), norm="l2", attacks={"fmn": attack})
    np.testing.assert_array_equal(one.distance, two.distance)
    alone = rk.run(attack, guest_model(module), x, y, norm="l2")
    np.testing.assert_allclose(alone.distance, two.distance, rtol=1e-6)


# attacks


CASES = [
    ("LinfFMN", {"steps": 20}, "linf"),
    ("L1FMN", {"steps": 20}, "l1"),
    ("L2DeepFoolAttack", {"steps": 10}, "l2"),
    ("LinfPGD", {"steps": 5}, "linf"),
    ("DDN", {"steps": 20}, "l2"),
    ("L2CarliniWagner", {"steps": 20, "binary_search_steps": 2}, "l2"),
    ("EAD", {"steps": 10, "binary_search_steps": 2}, "l1"),
    ("VirtualAdversarial", {"steps": 3}, "l2"),
    ("NewtonFool", {"steps": 20}, "l2"),
    ("LinearSearchBlendedUniformNoise", {"steps": 50}, "linf"),
    ("Boundary", {"steps": 60}, "l2"),
    ("HopSkipJump", {"steps": 1}, "l2"),
    ("SaltAndPepperNoise", {"steps": 50}, "l2"),
    ("L2AdditiveGaussianNoise", {}, "l2"),
    ("InversionAttack", {}, "l1"),
    ("Spatial", {}, "l2"),
    ("GaussianBlur", {"steps": 20}, "linf"),
    ("Pointwise", {}, "l0"),
]


@pytest.mark.parametrize(("name", "settings", "norm"), CASES, ids=lambda v: str(v)[:30])
def test_every_pass_is_billed_and_what_is_found_holds(digits, name, settings, norm):
    module, x, y = digits
    counting = Counting(module)
    model = as_model(counting)
    problem = Problem(
        model, as_tensor(x), rk.Misclassification(as_tensor(y)), get_norm(norm)
    )
    ledger = loop.run(foolbox_attack(name, **settings), problem)
    assert ledger.forwards.sum() == counting.forwards > 0
    assert ledger.backwards.sum() == counting.backwards
    best, found = ledger.best.raw, to_numpy(ledger.found)
    assert found.sum() >= 4
    assert torch.isfinite(best).all()
    assert best.min() >= 0
    assert best.max() <= 1
    assert (module(best).argmax(1) != y)[found].all()
    delta = as_tensor(best - x)
    np.testing.assert_allclose(
        ledger.distance.raw[found], get_norm(norm)(delta).raw[found], rtol=1e-6
    )
    assert all(p.grad is None and p.requires_grad for p in module.parameters())


@pytest.mark.parametrize(
    "guest",
    [
        foolbox.attacks.LInfFMNAttack(steps=20),
        foolbox.attacks.L2FMNAttack(steps=20),
        foolbox.attacks.DDNAttack(steps=20),
        foolbox.attacks.L2DeepFoolAttack(),
        foolbox.attacks.L2CarliniWagnerAttack(steps=20, binary_search_steps=2),
    ],
    ids=lambda guest: type(guest).__name__,
)
def test_a_guest_behaves_as_it_does_at_home(digits, guest):
    module, x, y = digits
    counting = Counting(module)
    home, _, success = guest(guest_model(counting), x, y, epsilons=None)
    passes = counting.forwards, counting.backwards
    norm = {np.inf: "linf", 2: "l2"}[guest.distance.p]
    result = rk.run(foolbox_attack(guest), module, x, y, norm=norm)
    assert (result.ledger.forwards.sum(), result.ledger.backwards.sum()) == passes
    assert success.all()
    # Ours is the nearest adversarial of the same walk, so it can only be nearer.
    at_home = guest.distance(x, home)
    assert (result.distance <= at_home * (1 + 1e-6)).all()
    same = (result.x_adversarial - home).abs().amax((1, 2, 3)) < 1e-6
    assert (same | (result.distance < at_home)).all()
    assert same.any()


@pytest.mark.parametrize(
    ("name", "settings", "norm", "near"),
    [
        ("LinfFMN", {"steps": 100}, "linf", 1.2),
        ("L2DeepFool", {}, "l2", 1.05),
        ("DDN", {"steps": 100}, "l2", 1.3),
        ("LinfBasicIterative", {}, "linf", 1.2),
        ("L2PGD", {"steps": 8}, "l2", np.inf),
        ("L1FastGradient", {}, "l1", np.inf),
        ("Boundary", {"steps": 200}, "l2", np.inf),
    ],
)
def test_no_distance_is_below_the_exact_one(linear, name, settings, norm, near):
    module, x, y, exact = linear
    result = rk.run(foolbox_attack(name, **settings), module, x, y, norm=norm)
    ratio = result.distance.numpy() / exact[norm]
    assert (ratio >= 1 - 1e-5).all()
    assert np.median(ratio) <= near


def test_nan_never_counts_even_where_foolbox_counts_it(linear):
    """NewtonFool divides zero by zero where the gradient vanishes."""
    module, x, y, _ = linear

    class NanIsBright(torch.nn.Module):
        def forward(self, point):
            return torch.where(point < 0.9, point, torch.ones_like(point))

    flat = torch.nn.Hardtanh(-1e-3, 1e-3)
    guest = foolbox.attacks.NewtonFoolAttack(steps=20, stepsize=0.5)
    for layers in ((module, flat), (NanIsBright(), module, flat)):
        model = torch.nn.Sequential(*layers).eval()
        home, _, success = guest(guest_model(model), x, y, epsilons=None)
        assert (success & torch.isnan(home).any(1)).any()
        result = rk.run(foolbox_attack(guest), model, x, y, norm="l2")
        assert torch.isfinite(result.x_adversarial).all()
        assert not torch.isnan(result.distance).any()
        moved = (result.x_adversarial != x).any(1)
        verified = model(result.x_adversarial).argmax(1) != y
        assert (verified | ~moved).all()


def test_a_fixed_epsilon_attack_is_bisected_for_each_sample(linear):
    three, x, _, _ = linear
    module = torch.nn.Linear(12, 2, bias=False).eval()
    module.weight.data = three.weight.data[:2].clone()
    logits = module(x).detach()
    y = logits.argmax(1)
    # With two classes one signed step of the exact size reaches the boundary.
    slope = (module.weight[0] - module.weight[1]).detach()
    exact = (logits[:, 0] - logits[:, 1]).abs() / slope.abs().sum()
    attack = foolbox_attack("LinfFastGradient")
    coarse, fine = (
        rk.run(dataclasses.replace(attack, steps=steps), module, x, y, norm="linf")
        for steps in (3, 10)
    )
    assert (fine.distance >= exact * (1 - 1e-5)).all()
    # 10 halvings of 5 decades leave 1.1 %.
    assert (fine.distance <= exact * 1.012).all()
    assert (fine.distance < coarse.distance).all()
    # Each run costs two passes, and one to check; some need not be made.
    assert fine.ledger.forwards.max() <= 10 * 2
    assert fine.ledger.backwards.max() <= 10


def test_evaluate_names_a_foolbox_attack(digits, tmp_path):
    module, x, y = digits
    wrong = torch.cat([y[:-1], (y[-1:] + 1) % 10])
    attacks = ["foolbox:LinfFMNAttack", "foolbox:linfdeepfool"]
    results = rk.evaluate(module, (x, wrong), attacks=attacks, out=tmp_path / "run")
    assert results.clean_accuracy.estimate == pytest.approx(5 / 6)
    assert results.distance[-1] == 0
    assert np.isfinite(results.distance).all()
    assert (results.distance[:-1] > 0).all()
    summary = results.summary()
    assert set(summary["norms"]["linf"]["attacks"]) == set(attacks)


def test_the_evaluator_isolates_samples_at_which_a_guest_raises(digits):
    """BoundaryAttack gives up on all samples if one has no starting point."""
    module, x, y = digits

    def stuck(point):
        # No other image has this grey level.
        return (point[:, 0, 0, 0] - 0.3).abs() < 1e-6

    class Stubborn(torch.nn.Module):
        """Never changes its mind about one image."""

        def forward(self, point):
            own = torch.eye(10)[y[:1]]
            return torch.where(stuck(point)[:, None], own, module(point))

    class NeverMoves(foolbox.attacks.InversionAttack):
        def run(self, model, inputs, criterion, *, early_stop=None, **kwargs):
            moved = torch.where(
                stuck(inputs.raw)[:, None, None, None], inputs.raw, 1 - inputs.raw
            )
            return as_tensor(moved)

    x = x.clone()
    x[0, 0, 0, 0] = 0.3
    model = Stubborn().eval()
    attack = foolbox_attack("Boundary", init_attack=NeverMoves(), steps=20)
    with pytest.raises(ValueError, match="init_attack failed"):
        rk.run(attack, model, x, y, norm="l2")
    results = rk.evaluate(model, (x, y), norm="l2", attacks={"boundary": attack})
    assert np.isnan(results.distance[0])
    assert np.isfinite(results.distance[1:]).all()


@pytest.mark.parametrize("name", ["LinfPGD", "Boundary", "Spatial"])
def test_runs_repeat_for_a_seed_and_leave_global_generators_alone(digits, name):
    module, x, y = digits
    settings = {"Spatial": {"grid_search": False}, "Boundary": {"steps": 30}}
    attack = foolbox_attack(name, **settings.get(name, {"steps": 3}))
    norm = "linf" if name == "LinfPGD" else "l2"
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002

    def points(seed):
        return rk.run(attack, module, x, y, norm=norm, seed=seed).x_adversarial

    first = points(seed=1)
    assert torch.equal(first, points(seed=1))
    assert not torch.equal(first, points(seed=2))
    assert torch.equal(torch_before, torch.get_rng_state())
    for old, new in zip(numpy_before, np.random.get_state(), strict=True):  # noqa: NPY002
        np.testing.assert_array_equal(old, new)


def test_generators_are_restored_when_a_guest_raises(digits):
    module, x, y = digits

    class Raising(foolbox.attacks.InversionAttack):
        def run(self, model, inputs, criterion, **kwargs):
            torch.rand(3)
            raise RuntimeError("on purpose")

    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="on purpose"):
        rk.run(foolbox_attack(Raising()), module, x, y)
    assert torch.equal(before, torch.get_rng_state())


def test_a_guest_is_stopped_when_the_budget_is_spent(digits):
    module, x, y = digits
    counting = Counting(module)
    attack = foolbox_attack("LinfFMN", steps=1000)
    assert attack.within(7) is attack
    result = rk.run(attack, counting, x, y, budget=7)
    assert (result.ledger.forwards == 7).all()
    # One look at the originals is not billed.
    assert counting.forwards == 8 * len(x)
    longer = rk.run(attack, module, x, y, budget=50)
    np.testing.assert_allclose(
        result.distance, longer.ledger.distance_after(7), rtol=1e-6
    )


def test_a_decision_based_guest_sees_decisions_only(digits):
    """Two models that decide alike but score differently are attacked alike."""
    module, x, y = digits
    seen = []

    class Peeking(foolbox.attacks.SaltAndPepperNoiseAttack):
        def run(self, model, inputs, criterion, **kwargs):
            seen.append(model(inputs).raw)
            return super().run(model, inputs, criterion, **kwargs)

    attack = foolbox_attack(Peeking(steps=5))
    result = rk.run(attack, module, x, y, norm="l2")
    assert attack.access is rk.Access.DECISION
    assert torch.equal(seen[0], torch.tensor([[1.0, 0.0]]).expand(len(x), 2))
    assert (result.ledger.decisions == result.ledger.forwards).all()


def test_decisions_follow_any_criterion(digits):
    module, x, y = digits
    top = rk.TopK(as_tensor(y), k=3)
    result = rk.run(
        foolbox_attack("SaltAndPepperNoise", steps=200), module, x, top, norm="l2"
    )
    assert result.found.any()
    best = result.x_adversarial[result.found]
    places = module(best).argsort(1, descending=True)[:, :3]
    assert not (places == y[result.found][:, None]).any()


def test_criteria_are_translated(digits):
    module, x, y = digits
    targets = (y + 1) % 10
    targeted = rk.Targeted(as_tensor(targets))
    result = rk.run(foolbox_attack("LinfFMN", steps=60), module, x, targeted)
    assert result.found.all()
    assert (module(result.x_adversarial).argmax(1) == targets).all()
    genetic = foolbox_attack("Gen", steps=5, population=4)
    assert genetic.access is rk.Access.SCORE
    ledger = rk.run(genetic, module, x, targeted).ledger
    assert ledger.forwards.min() > 0
    assert ledger.backwards.max() == ledger.decisions.max() == 0
    for attack in (genetic, foolbox_attack("NewtonFool")):
        norm = min(attack.norms)
        wrong = rk.TopK(as_tensor(y), k=2)
        with pytest.raises(rk.BadInput, match="does not serve the criterion TopK"):
            rk.run(attack, module, x, wrong, norm=norm)


def test_other_criteria_reach_guests_that_only_ask_whether(digits):
    module, x, y = digits
    sure = rk.Confident(rk.Misclassification(as_tensor(y)), kappa=1.0)
    attack = foolbox_attack("L2DeepFool", overshoot=0.5)
    result = rk.run(attack, module, x, sure, norm="l2")
    assert result.found.any()
    assert (sure.margin(as_tensor(module(result.x_adversarial))).raw < 0)[
        result.found
    ].all()


@pytest.mark.parametrize("framework", ["numpy", "jax"])
def test_gradient_attacks_work_on_models_of_any_framework(linear, framework):
    module, x, y, _ = linear
    weights = module.weight.detach().numpy().T
    if framework == "jax":
        from robustkit.models.jax import JaxModel

        model = JaxModel(lambda x: x @ weights)
    else:
        model = rk.NumPyModel(
            lambda x: x @ weights, gradient=lambda x, s: s @ weights.T
        )
    inputs, labels = model.to_tensor(x.numpy()), model.to_tensor(y.numpy())
    for name in ("L2DeepFool", "SaltAndPepperNoise"):
        attack = foolbox_attack(name, steps=20)
        result = rk.run(attack, model, inputs.raw, labels.raw, norm="l2")
        same = rk.run(attack, module, x, y, norm="l2")
        np.testing.assert_allclose(
            np.asarray(result.distance), same.distance.numpy(), rtol=1e-3
        )
    assert type(result.x_adversarial) is type(inputs.raw)


def test_a_gradient_attack_refuses_a_model_without_gradients():
    model = rk.NumPyModel(lambda x: x[:, :2])
    x, y = np.full((1, 4), 0.5), np.zeros(1, dtype=int)
    with pytest.raises(rk.BadInput, match="L2DeepFoolAttack needs gradient access"):
        rk.run(foolbox_attack("L2DeepFool"), model, x, y, norm="l2")


def test_access_counts_the_attack_that_finds_starting_points():
    init = foolbox.attacks.L2DeepFoolAttack()
    assert foolbox_attack("Boundary").access is rk.Access.DECISION
    assert foolbox_attack("Boundary", init_attack=init).access is rk.Access.GRADIENT


def test_starting_points_are_passed_on(digits):
    module, x, y = digits
    starts = rk.run("fmn", module, x, y, norm="l2").x_adversarial
    attack = foolbox_attack("Boundary", steps=1)
    with_starts = rk.run(attack, module, x, y, norm="l2", starts=starts)
    without = rk.run(attack, module, x, y, norm="l2")
    assert (with_starts.distance < without.distance).all()


def test_other_numbers_of_points_are_attributed_sample_by_sample(digits):
    module, x, y = digits

    class Pairs(foolbox.attacks.L2DeepFoolAttack):
        """Asks about two points per sample at once before it starts."""

        def run(self, model, inputs, criterion, **kwargs):
            both = torch.cat([inputs.raw, 1 - inputs.raw])
            assert model(as_tensor(both)).shape == (len(both), 10)
            return super().run(model, inputs, criterion, **kwargs)

    counting = Counting(module)
    result = rk.run(foolbox_attack(Pairs(steps=3)), counting, x, y, norm="l2")
    assert result.ledger.forwards.sum() == counting.forwards - len(x)
    assert result.ledger.backwards.sum() == counting.backwards
    own = [
        rk.run(
            foolbox_attack(Pairs(steps=3)),
            module,
            x[i : i + 1],
            y[i : i + 1],
            norm="l2",
        )
        for i in range(len(x))
    ]
    np.testing.assert_array_equal(
        result.ledger.forwards, [int(one.ledger.forwards[0]) for one in own]
    )


def test_norms_are_those_of_the_distance():
    assert foolbox_attack("LinfFMN").norms == {"linf"}
    assert foolbox_attack("HopSkipJump", constraint="linf").norms == {"linf"}
    assert foolbox_attack("Inversion").norms == {"l0", "l1", "l2", "linf"}
    own = foolbox_attack("Inversion", distance=foolbox.distances.l1)
    assert own.norms == {"l1"}
    odd = foolbox.distances.LpDistance(3)
    with pytest.raises(rk.BadInput, match="L3 distance"):
        foolbox_attack("Inversion", distance=odd)
    with pytest.raises(rk.BadInput, match="cannot minimise the norm l2"):
        rk.evaluate("digits", "digits", samples=1, norm="l2", attacks="foolbox:LinfFMN")


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("LinfFNM", {}, "did you mean 'linffmn'"),
        ("Attack", {}, "abstract"),
        ("VirtualAdversarial", {}, "missing a required argument: 'steps'"),
        ("LinfFMN", {"stepz": 3}, "unexpected keyword argument 'stepz'"),
        ("Dataset", {}, "pool"),
    ],
)
def test_what_cannot_be_built_is_refused(name, settings, message):
    with pytest.raises(rk.BadInput, match=message):
        foolbox_attack(name, **settings)


def test_an_attack_that_refines_adversarials_asks_for_them(digits):
    module, x, y = digits
    attack = foolbox_attack("BinarizationRefinement")
    with pytest.raises(rk.BadInput, match="starts"):
        rk.run(attack, module, x, y, norm="l2")
    with pytest.raises(rk.BadInput, match="built already"):
        foolbox_attack(foolbox.attacks.InversionAttack(), steps=3)


def test_every_class_that_is_said_to_need_decisions_only_exists():
    names = {
        ancestor.__name__
        for value in vars(foolbox.attacks).values()
        if inspect.isclass(value)
        for ancestor in value.__mro__
    }
    assert names >= interop._DECIDES | interop._SCORES


def test_the_label_says_how_to_make_it_again():
    attack = foolbox_attack("LinfPGD", steps=3)
    assert repr(attack) == (
        "foolbox:LinfProjectedGradientDescentAttack(steps=3), 10 runs"
    )
    assert attack.source == "foolbox 3.3.4, LinfProjectedGradientDescentAttack"


# our attacks as foolbox's


def test_a_lent_attack_finds_what_run_finds(digits):
    module, x, y = digits
    attack = rk.FMN(steps=30)
    lent = as_foolbox(attack, "l2")
    assert isinstance(lent, foolbox.attacks.base.MinimizationAttack)
    assert lent.distance == foolbox.distances.l2
    raw, clipped, is_adv = lent(guest_model(module), x, y, epsilons=None)
    result = rk.run(attack, module, x, y, norm="l2")
    assert torch.equal(raw, result.x_adversarial)
    assert torch.equal(clipped, raw)
    assert torch.equal(is_adv, result.found)
    one = float(result.distance.median()) * 1.001
    _, _, within = lent(guest_model(module), x, y, epsilons=one)
    assert torch.equal(within, result.distance <= one)
    raws, clips, table = lent(guest_model(module), x, y, epsilons=[1e-3, one, 100.0])
    assert len(raws) == len(clips) == 3
    assert table.shape == (3, len(x))
    assert table.sum(1).tolist() == [0, int(within.sum()), len(x)]
    assert (clips[0] - x).flatten(1).norm(dim=1).max() <= 1e-3 * 1.001


def test_lent_attacks_take_foolbox_criteria(digits):
    module, x, y = digits
    native = guest_model(module)
    lent = as_foolbox(rk.FMN(steps=60), "linf")
    by_label = lent(native, x, y, epsilons=None)[0]
    criterion = foolbox.Misclassification(y)
    assert torch.equal(lent(native, x, criterion, epsilons=None)[0], by_label)
    targets = (y + 1) % 10
    targeted = foolbox.TargetedMisclassification(targets)
    _, points, is_adv = lent(native, x, criterion & targeted, epsilons=None)
    assert is_adv.all()
    assert (module(points).argmax(1) == targets).all()

    class Odd(foolbox.Criterion):
        def __repr__(self):
            return "Odd()"

        def __call__(self, perturbed, outputs):
            return outputs.argmax(axis=-1) == 1

    with pytest.raises(rk.BadInput, match=r"Odd\(\) has no margin"):
        lent(native, x, Odd(), epsilons=None)


def test_a_lent_attack_returns_misclassified_inputs_as_they_are(digits):
    module, x, y = digits
    wrong = (y + 1) % 10
    lent = as_foolbox(rk.FMN(steps=3), "l2")
    raw, _, is_adv = lent(guest_model(module), x, wrong, epsilons=None)
    assert torch.equal(raw, x)
    assert is_adv.all()


def test_repeat_keeps_the_nearest_of_several_seeds(digits):
    module, x, y = digits
    attack = foolbox_attack("SaltAndPepperNoise", steps=30)
    native = guest_model(module)

    def distances(lent):
        points, _, is_adv = lent(native, x, y, epsilons=None)
        found = torch.full((len(x),), torch.inf)
        size = (points - x).flatten(1).norm(dim=1)
        return torch.where(is_adv, size, found)

    thrice = distances(as_foolbox(attack, "l2").repeat(3))
    each = [distances(as_foolbox(attack, "l2", seed=seed)) for seed in range(3)]
    assert torch.equal(thrice, torch.stack(each).amin(0))
    assert torch.equal(distances(as_foolbox(attack, "l2").repeat(3).repeat(1)), thrice)
    with pytest.raises(rk.BadInput, match="at least once"):
        as_foolbox(attack, "l2").repeat(0)


def test_starting_points_and_budget_reach_a_lent_attack(digits):
    module, x, y = digits
    native = guest_model(module)
    starts = rk.run("fmn", module, x, y, norm="l2").x_adversarial
    boundary = as_foolbox(foolbox_attack("Boundary", steps=5), "l2")
    points, _, is_adv = boundary(native, x, y, epsilons=None, starting_points=starts)
    assert is_adv.all()
    assert ((points - x).flatten(1).norm(dim=1) < 3.0).all()
    short = as_foolbox(rk.FMN(steps=60), "l2", budget=1)
    assert not short(native, x, y, epsilons=None)[2].any()
    with pytest.raises(TypeError, match="unexpected"):
        boundary(native, x, y, epsilons=None, nonsense=1)


def test_lent_attacks_keep_to_the_inputs_framework():
    weights = np.eye(4, 3, dtype=np.float32)
    native = foolbox.NumPyModel(lambda x: x @ weights, bounds=(0, 1))
    x = np.random.default_rng(0).random((5, 4), dtype=np.float32)
    y = (x @ weights).argmax(1)
    lent = as_foolbox(foolbox_attack("SaltAndPepperNoise", steps=30), "l2")
    raw, _, is_adv = lent(native, x, y, epsilons=None)
    assert isinstance(raw, np.ndarray)
    assert is_adv.any()
    assert (((raw @ weights).argmax(1) != y) == is_adv).all()


def test_foolbox_lacks_some_distances():
    with pytest.raises(rk.BadInput, match="l0-pixels"):
        as_foolbox(rk.FMN(), "l0-pixels")
    assert as_foolbox(rk.FMN(), "l0").distance == foolbox.distances.l0


# the package


def python(code):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True
    )


def test_without_foolbox_the_message_says_what_to_install():
    done = python(
        "import sys; sys.modules['foolbox'] = None\n"
        "import robustkit as rk\n"
        "try: rk.get_attack('foolbox:LinfFMN')\n"
        "except rk.BadInput as error: print(error)\n"
    )
    assert "pip install 'robustkit[foolbox]'" in done.stdout, done.stderr


def test_foolbox_is_imported_only_when_needed_and_then_in_silence():
    done = python(
        "import sys, robustkit as rk\n"
        "rk.evaluate, rk.run, rk.FMN, rk.get_attack('fmn')\n"
        "print('foolbox' in sys.modules)\n"
        "rk.get_attack('foolbox:LinfFMN')\n"
        "print('foolbox' in sys.modules)\n"
    )
    assert done.stdout.split() == ["False", "True"], done.stderr
    assert done.stderr == ""
