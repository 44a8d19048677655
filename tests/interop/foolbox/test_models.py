"""foolbox's models as ours."""

import numpy as np
import pytest
import torch

import robustkit as rk
from robustkit import demo
from robustkit.models.base import NoGradient
from robustkit.models.load import as_model
from robustkit.numerics.tensors import as_tensor, to_numpy

pytest.importorskip("foolbox", reason="foolbox is optional")

from robustkit.interop.foolbox import FoolboxModel

# foolbox warns when it is imported; robustkit.interop.foolbox has done so silently.
import foolbox  # isort: skip


def test_a_torch_model_is_asked_through_its_preprocessing(digits, guest_model):
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


def test_parameters_are_frozen_while_asked_and_restored(digits, guest_model):
    module, x, _ = digits
    model = FoolboxModel(guest_model(module))
    with model.session():
        assert not any(p.requires_grad for p in module.parameters())
    assert all(p.requires_grad for p in module.parameters())
    _, pull_back = model.linearise(as_tensor(x))
    pull_back(as_tensor(torch.ones(len(x), 10)))
    assert all(p.grad is None for p in module.parameters())


def test_it_is_named_after_its_module_and_recognised(digits, guest_model):
    model = as_model(guest_model(digits[0]))
    assert isinstance(model, FoolboxModel)
    assert model.name == "Sequential"
    assert as_model(guest_model(digits[0]), name="mine").name == "mine"


def test_a_module_in_training_mode_is_evaluated_with_a_warning(guest_model):
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout())
    with pytest.warns(UserWarning, match="training mode"):
        native = guest_model(module)
    with pytest.warns(UserWarning, match="training mode"):
        model = FoolboxModel(native)
    x = as_tensor(torch.ones(50, 2))
    assert np.ptp(to_numpy(model.logits(x)), axis=0).max() == 0


def test_bounds_come_from_the_foolbox_model(digits, guest_model):
    module, x, _ = digits
    native = guest_model(module).transform_bounds((0, 255), wrapper=True)
    model = FoolboxModel(native)
    assert model.bounds == rk.Bounds(0, 255)
    np.testing.assert_allclose(
        model.logits(as_tensor(x * 255)).raw, module(x).detach(), rtol=1e-4, atol=1e-4
    )
    for same in (rk.Bounds(0, 255), (0, 255)):
        assert FoolboxModel(native, same).bounds == model.bounds
    with pytest.raises(rk.BadInput, match="transform_bounds"):
        FoolboxModel(native, rk.Bounds(0, 1))


def test_a_thresholding_wrapper_gives_scores_but_no_gradients(digits, guest_model):
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


def test_the_fingerprint_knows_weights_and_settings(digits, guest_model):
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


def test_evaluate_and_run_take_a_foolbox_model_as_they_take_its_module(
    digits, guest_model
):
    module, x, y = digits
    attack = rk.FMN(steps=20)
    one = rk.evaluate(module, (x, y), norm="l2", attacks={"fmn": attack})
    two = rk.evaluate(guest_model(module), (x, y), norm="l2", attacks={"fmn": attack})
    np.testing.assert_array_equal(one.distance, two.distance)
    alone = rk.run(attack, guest_model(module), x, y, norm="l2")
    np.testing.assert_allclose(alone.distance, two.distance, rtol=1e-6)
