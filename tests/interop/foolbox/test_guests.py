"""foolbox's attacks as ours: names, settings, access, norms, and the bisection."""

import dataclasses
import inspect

import numpy as np
import pytest
import torch

import robustkit as rk
from robustkit.numerics.tensors import as_tensor

pytest.importorskip("foolbox", reason="foolbox is optional")

from robustkit.interop.foolbox import foolbox_attack, guests

# foolbox warns when it is imported; robustkit.interop.foolbox has done so silently.
import foolbox  # isort: skip


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


def test_a_gradient_attack_refuses_a_model_without_gradients():
    model = rk.NumPyModel(lambda x: x[:, :2])
    x, y = np.full((1, 4), 0.5), np.zeros(1, dtype=int)
    with pytest.raises(rk.BadInput, match="L2DeepFoolAttack needs gradient access"):
        rk.run(foolbox_attack("L2DeepFool"), model, x, y, norm="l2")


def test_access_counts_the_attack_that_finds_starting_points():
    init = foolbox.attacks.L2DeepFoolAttack()
    assert foolbox_attack("Boundary").access is rk.Access.DECISION
    assert foolbox_attack("Boundary", init_attack=init).access is rk.Access.GRADIENT


def test_norms_are_those_of_the_distance():
    assert foolbox_attack("LinfFMN").norms == {"linf"}
    assert foolbox_attack("HopSkipJump", constraint="linf").norms == {"linf"}
    assert foolbox_attack("Inversion").norms == {"l0", "l1", "l2", "linf"}
    own = foolbox_attack("Inversion", distance=foolbox.distances.l1)
    assert own.norms == {"l1"}
    # It forgets that its distance may be missing.
    assert foolbox_attack("Pointwise").norms == {"l0", "l1", "l2", "linf"}
    odd = foolbox.distances.LpDistance(3)
    with pytest.raises(rk.BadInput, match="L3 distance"):
        foolbox_attack("Inversion", distance=odd)
    with pytest.raises(rk.BadInput, match="cannot minimise the norm l2"):
        rk.evaluate("digits", "digits", samples=1, norm="l2", attacks="foolbox:LinfFMN")


@pytest.mark.parametrize(
    ("attack", "settings", "message"),
    [
        ("LinfFNM", {}, "did you mean 'linffmn'"),
        ("Attack", {}, "abstract"),
        ("VirtualAdversarial", {}, "missing 1 required positional argument: 'steps'"),
        ("LinfFMN", {"stepz": 3}, "unexpected keyword argument 'stepz'"),
        ("Dataset", {}, "pool"),
        (foolbox.attacks.InversionAttack(), {"steps": 3}, "built already"),
    ],
)
def test_what_cannot_be_built_is_refused(attack, settings, message):
    with pytest.raises(rk.BadInput, match=message):
        foolbox_attack(attack, **settings)


def test_every_class_that_is_said_to_need_decisions_only_exists():
    names = {
        ancestor.__name__
        for value in vars(foolbox.attacks).values()
        if inspect.isclass(value)
        for ancestor in value.__mro__
    }
    assert names >= guests._DECIDES | guests._SCORES


def test_the_label_says_how_to_make_it_again():
    attack = foolbox_attack("LinfPGD", steps=3)
    assert repr(attack) == (
        "foolbox:LinfProjectedGradientDescentAttack(steps=3), 10 runs"
    )
    assert attack.source == "foolbox 3.3.4, LinfProjectedGradientDescentAttack"
