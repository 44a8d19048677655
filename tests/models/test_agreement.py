import numpy as np
import pytest

from robustkit.models.base import Access
from robustkit.models.numpy import NumPyModel
from robustkit.models.torch import TorchModel
from robustkit.models.wrappers import Preprocessed
from robustkit.numerics.tensors import as_tensor, like, to_numpy


def in_torch(weights):
    return TorchModel(weights.module())


def in_jax(weights):
    function = weights.jax_function()
    from robustkit.models.jax import JaxModel

    return JaxModel(function)


def in_numpy(weights):
    return NumPyModel(weights.logits, gradient=weights.gradient)


def central_differences(weights, x, slopes):
    weights.w, weights.b = weights.w.astype(np.float64), weights.b.astype(np.float64)
    gradient = np.zeros(x.shape)
    for index in np.ndindex(x.shape[1:]):
        shift = np.zeros(x.shape)
        shift[:, *index] = 1e-6
        rise = weights.logits(x + shift) - weights.logits(x - shift)
        gradient[:, *index] = (rise * slopes).sum(axis=1) / 2e-6
    return gradient


@pytest.mark.parametrize("build", [in_torch, in_jax, in_numpy])
class TestEveryFramework:
    def test_logits(self, build, weights, batch):
        model = build(weights)
        x = model.to_tensor(batch)
        assert model.access is Access.GRADIENT
        np.testing.assert_allclose(
            to_numpy(model.logits(x)), weights.logits(batch), atol=1e-5
        )
        assert to_numpy(model.logits(x)).dtype == np.float32

    def test_gradient(self, build, weights, batch, slopes):
        model = build(weights)
        x = model.to_tensor(batch)
        logits, pull_back = model.linearise(x)
        gradient = pull_back(like(x, slopes))
        np.testing.assert_allclose(to_numpy(logits), weights.logits(batch), atol=1e-5)
        np.testing.assert_allclose(
            to_numpy(gradient), weights.gradient(batch, slopes), atol=1e-5
        )
        np.testing.assert_allclose(
            to_numpy(gradient), central_differences(weights, batch, slopes), atol=1e-4
        )
        assert to_numpy(gradient).dtype == np.float32

    def test_one_forward_pass_serves_several_backward_passes(
        self, build, weights, batch, slopes
    ):
        model = build(weights)
        x = model.to_tensor(batch)
        _, pull_back = model.linearise(x)
        once, again = pull_back(like(x, slopes)), pull_back(like(x, 2 * slopes))
        np.testing.assert_allclose(to_numpy(again), 2 * to_numpy(once), rtol=1e-6)

    def test_preprocessed_is_the_chain_rule(self, build, weights, batch, slopes):
        mean, std = [0.1, 0.4], [0.5, 2.0]
        model = Preprocessed(build(weights), mean, std)
        shown = (batch - np.reshape(mean, (2, 1))) / np.reshape(std, (2, 1))
        x = model.to_tensor(batch)
        logits, pull_back = model.linearise(x)
        expected = weights.gradient(shown, slopes) / np.reshape(std, (2, 1))
        np.testing.assert_allclose(to_numpy(logits), weights.logits(shown), atol=1e-5)
        np.testing.assert_allclose(
            to_numpy(model.logits(x)), weights.logits(shown), atol=1e-5
        )
        np.testing.assert_allclose(
            to_numpy(pull_back(like(x, slopes))), expected, atol=1e-5
        )

    def test_rows_do_not_depend_on_the_batch(self, build, weights, batch, slopes):
        model = build(weights)
        for rows in ([0, 1, 2], [3], [4, 2]):
            x = model.to_tensor(batch[rows])
            logits, pull_back = model.linearise(x)
            np.testing.assert_allclose(
                to_numpy(logits), weights.logits(batch)[rows], atol=1e-5
            )
            np.testing.assert_allclose(
                to_numpy(pull_back(like(x, slopes[rows]))),
                weights.gradient(batch, slopes)[rows],
                atol=1e-5,
            )

    def test_tensors_lie_in_memory_in_the_order_of_their_axes(
        self, build, weights, batch
    ):
        model = build(weights)
        moved = np.ascontiguousarray(batch.transpose(0, 2, 1)).transpose(0, 2, 1)
        for x in (np.asfortranarray(batch), moved, batch[:, ::-1]):
            raw = model.to_tensor(x).raw
            assert np.asarray(raw).flags.c_contiguous
            np.testing.assert_array_equal(np.asarray(raw), x)

    def test_to_tensor_copies(self, build, weights, batch):
        x = build(weights).to_tensor(batch)
        before = batch.copy()
        batch[:] = 7
        np.testing.assert_array_equal(to_numpy(x), before)

    def test_asking_leaves_the_input_alone(self, build, weights, batch, slopes):
        model = build(weights)
        x = model.to_tensor(batch)
        model.logits(x)
        model.linearise(x)[1](like(x, slopes))
        np.testing.assert_array_equal(to_numpy(x), batch)


def test_numpy_tensors_are_what_numpy_models_take(weights, batch):
    model = in_numpy(weights)
    assert to_numpy(model.logits(as_tensor(batch))).shape == (5, 4)
