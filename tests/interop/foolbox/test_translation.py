"""Criteria and tensors between ours and foolbox's."""

import numpy as np
import pytest

import robustkit as rk
from robustkit.numerics.tensors import as_tensor

pytest.importorskip("foolbox", reason="foolbox is optional")

from robustkit.interop.foolbox import foolbox_attack


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


def test_targets_reach_a_guest(digits):
    module, x, y = digits
    targets = (y + 1) % 10
    targeted = rk.Targeted(as_tensor(targets))
    result = rk.run(foolbox_attack("LinfFMN", steps=60), module, x, targeted)
    assert result.found.all()
    assert (module(result.x_adversarial).argmax(1) == targets).all()


@pytest.mark.parametrize("name", ["Gen", "NewtonFool"])
def test_guests_that_want_a_class_refuse_other_criteria(digits, name):
    module, x, y = digits
    attack = foolbox_attack(name)
    norm = min(attack.norms)
    with pytest.raises(rk.BadInput, match="does not serve the criterion TopK"):
        rk.run(attack, module, x, rk.TopK(as_tensor(y), k=2), norm=norm)


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
        pytest.importorskip("jax")
        from robustkit.models.jax import JaxModel

        model = JaxModel(lambda x: x @ weights)
    else:
        model = rk.NumPyModel(
            lambda x: x @ weights, gradient=lambda x, s: s @ weights.T
        )
    inputs, labels = model.to_tensor(x.numpy()), model.to_tensor(y.numpy())
    for name in ("L2DeepFool", "SaltAndPepperNoise"):
        attack = foolbox_attack(name, steps=5)
        result = rk.run(attack, model, inputs.raw, labels.raw, norm="l2")
        same = rk.run(attack, module, x, y, norm="l2")
        assert same.found.any()
        np.testing.assert_allclose(
            np.asarray(result.distance), same.distance.numpy(), rtol=1e-3
        )
    assert type(result.x_adversarial) is type(inputs.raw)
