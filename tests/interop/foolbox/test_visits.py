"""What a foolbox attack asks of a problem, and what becomes of it."""

import numpy as np
import pytest
import torch

import robustkit as rk
from robustkit.engine import loop
from robustkit.engine.problem import Problem
from robustkit.models.load import as_model
from robustkit.numerics.norms import get_norm
from robustkit.numerics.tensors import as_tensor, to_numpy

pytest.importorskip("foolbox", reason="foolbox is optional")

from robustkit.interop.foolbox import foolbox_attack

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


CASES = [
    ("LinfFMN", {"steps": 20}, "linf"),
    ("L2DeepFoolAttack", {"steps": 10}, "l2"),
    ("LinfPGD", {"steps": 5}, "linf"),
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
    ("L0FMN", {"steps": 20}, "l0"),
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
        foolbox.attacks.L2DeepFoolAttack(),
        foolbox.attacks.L2CarliniWagnerAttack(steps=20, binary_search_steps=2),
    ],
    ids=lambda guest: type(guest).__name__,
)
def test_a_guest_behaves_as_it_does_at_home(digits, guest, guest_model):
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
        ("LinfBasicIterative", {"steps": 5}, "linf", 1.2),
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


def test_a_guest_without_a_distance_can_run(linear):
    module, x, y, _ = linear
    result = rk.run(foolbox_attack("Pointwise"), module, x, y, norm="l0")
    assert result.found.all()
    moved = result.x_adversarial != x
    assert torch.equal(result.distance, moved.sum(1).to(x.dtype))
    # It stops where no feature can be put back.
    for row, feature in moved.nonzero():
        back = result.x_adversarial[row].clone()
        back[feature] = x[row, feature]
        assert module(back).argmax() == y[row]


def test_nan_never_counts_even_where_foolbox_counts_it(linear, guest_model):
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


@pytest.mark.parametrize("name", ["Boundary", "Spatial"])
def test_runs_repeat_for_a_seed_and_leave_global_generators_alone(digits, name):
    module, x, y = digits
    settings = {"Spatial": {"grid_search": False}, "Boundary": {"steps": 30}}
    attack = foolbox_attack(name, **settings[name])
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002

    def points(seed):
        return rk.run(attack, module, x, y, norm="l2", seed=seed).x_adversarial

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


def test_a_score_based_guest_asks_for_scores_only(digits):
    module, x, y = digits
    genetic = foolbox_attack("Gen", steps=5, population=4)
    assert genetic.access is rk.Access.SCORE
    targeted = rk.Targeted(as_tensor((y[:3] + 1) % 10))
    ledger = rk.run(genetic, module, x[:3], targeted).ledger
    assert ledger.forwards.min() > 0
    assert ledger.backwards.max() == ledger.decisions.max() == 0


def test_starting_points_are_passed_on(digits):
    module, x, y = digits
    starts = rk.run(rk.FMN(steps=20), module, x, y, norm="l2").x_adversarial
    attack = foolbox_attack("Boundary", steps=1)
    with_starts = rk.run(attack, module, x, y, norm="l2", starts=starts)
    without = rk.run(attack, module, x, y, norm="l2")
    assert (with_starts.distance < without.distance).all()


def test_an_attack_that_refines_adversarials_asks_for_them(digits):
    module, x, y = digits
    attack = foolbox_attack("BinarizationRefinement")
    with pytest.raises(rk.BadInput, match="starts"):
        rk.run(attack, module, x, y, norm="l2")


def test_other_numbers_of_points_are_attributed_sample_by_sample(digits):
    module, x, y = digits

    class Pairs(foolbox.attacks.L2DeepFoolAttack):
        """Asks about two points per sample at once before it starts."""

        def run(self, model, inputs, criterion, **kwargs):
            both = torch.cat([inputs.raw, 1 - inputs.raw])
            assert model(as_tensor(both)).shape == (len(both), 10)
            return super().run(model, inputs, criterion, **kwargs)

    x, y = x[:3], y[:3]
    counting = Counting(module)
    attack = foolbox_attack(Pairs(steps=3))
    result = rk.run(attack, counting, x, y, norm="l2")
    assert result.ledger.forwards.sum() == counting.forwards - len(x)
    assert result.ledger.backwards.sum() == counting.backwards
    alone = [
        int(rk.run(attack, module, *one, norm="l2").ledger.forwards[0])
        for one in zip(x.split(1), y.split(1), strict=True)
    ]
    assert result.ledger.forwards.tolist() == alone
