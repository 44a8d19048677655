import numpy as np
import pytest
import torch

import robustkit as rk
from robustkit.active_tests.features import find_features
from robustkit.models.base import NoGradient
from robustkit.models.load import as_model
from robustkit.models.wrappers import Preprocessed
from robustkit.numerics.tensors import as_tensor, to_numpy


@pytest.fixture
def model(network):
    return as_model(network)


def test_a_layer_by_name(model, network, inputs):
    cut, name = find_features(model, "bend", None, inputs[:2])
    x = model.to_tensor(inputs)
    expected = network.bend(network.hidden(x.raw)).detach().numpy()
    assert np.allclose(to_numpy(cut.logits(x)), expected, atol=1e-6)
    assert name == "layer 'bend'"
    slopes = as_tensor(torch.ones(128, 20))
    raw = x.raw.clone().requires_grad_()
    network.bend(network.hidden(raw)).sum().backward()
    back = cut.linearise(x)[1](slopes)
    assert torch.allclose(back.raw, raw.grad, atol=1e-5)
    assert not network.bend._forward_hooks


def test_a_layer_behind_a_normalisation(model, network, inputs):
    cut, _ = find_features(Preprocessed(model, [0.5], [0.25]), "bend", None, inputs[:2])
    x = torch.tensor(inputs)
    expected = network.bend(network.hidden((x - 0.5) / 0.25)).detach().numpy()
    assert np.allclose(to_numpy(cut.logits(as_tensor(x))), expected, atol=1e-5)


def test_a_function_and_its_head(model, network, inputs):
    features = (lambda x: network.hidden(x), lambda f: network.output(network.bend(f)))
    cut, name = find_features(model, features, None, inputs[:2])
    out = to_numpy(cut.logits(model.to_tensor(inputs)))
    assert np.allclose(out, network.hidden(torch.tensor(inputs)).detach(), atol=1e-6)
    assert "lambda" in name
    with pytest.raises(rk.BadInput, match="not the model's features"):
        find_features(model, (features[0], network.output), None, inputs[:2])


def test_images_of_features_are_flattened(inputs):
    model = as_model(torch.nn.Flatten().eval())
    cut, _ = find_features(model, lambda x: x.reshape(-1, 3, 4), None, inputs[:2])
    assert cut.logits(model.to_tensor(inputs)).shape == (128, 12)


def test_a_detector_is_one_more_column_with_its_own_gradient(model, inputs):
    cut, _ = find_features(model, None, lambda x: x.square().sum(1) - 4, inputs[:2])
    x = model.to_tensor(inputs)
    outputs, back = cut.linearise(x)
    score = (inputs**2).sum(axis=1) - 4
    assert np.allclose(to_numpy(outputs)[:, -1], score, atol=1e-5)
    slopes = np.zeros((128, 5), np.float32)
    slopes[:, -1] = 1
    assert np.allclose(to_numpy(back(as_tensor(torch.tensor(slopes)))), 2 * inputs)


def test_a_detector_without_gradients_stops_only_attacks_that_need_them(model, inputs):
    cut, _ = find_features(model, None, lambda x: x.sum(1).round(), inputs[:2])
    flat, _ = find_features(model, None, lambda x: x.detach().sum(1), inputs[:2])
    plain, _ = find_features(model, None, None, inputs[:2])
    x = model.to_tensor(inputs)
    (logits, back), (_, expected) = flat.linearise(x), plain.linearise(x)
    assert np.allclose(to_numpy(logits), to_numpy(flat.logits(x)), atol=1e-6)
    slopes = np.zeros(logits.shape, np.float32)
    slopes[:, 0] = 1
    blind = to_numpy(back(as_tensor(torch.tensor(slopes))))
    wanted = to_numpy(expected(as_tensor(torch.tensor(slopes[:, :-1]))))
    assert np.allclose(blind, wanted)
    slopes[:, -1] = 1
    with pytest.raises(NoGradient, match="detach"):
        back(as_tensor(torch.tensor(slopes)))
    # A gradient of zero is one.
    cut.linearise(x)[1](as_tensor(torch.tensor(slopes)))


def test_numpy_models_take_numpy_functions(inputs):
    model = as_model(lambda x: x[:, :3], example=inputs[:1])
    cut, _ = find_features(model, lambda x: np.tanh(x), None, inputs[:2])
    assert np.allclose(to_numpy(cut.logits(model.to_tensor(inputs))), np.tanh(inputs))


@pytest.mark.parametrize(
    ("features", "detector", "message"),
    [
        ("bent", None, "did you mean 'bend'"),
        (3, None, "name of a layer"),
        ((len, len, len), None, "a pair of such a function and the head"),
        (lambda x: x.sum(), None, "of no dimension"),
        (None, lambda x: x.sum(), "the detector must return one score .*no dimension"),
        (None, lambda x: x[:, :2], "one score per input"),
    ],
)
def test_bad_features(model, inputs, features, detector, message):
    with pytest.raises(rk.BadInput, match=message):
        find_features(model, features, detector, inputs[:2])


def test_models_without_layers_say_so(inputs):
    model = as_model(lambda x: x[:, :3], example=inputs[:1])
    with pytest.raises(rk.BadInput, match="only torch modules do"):
        find_features(model, "fc", None, inputs[:2])


def test_a_layer_that_is_not_called_says_so(network, inputs):
    network = torch.nn.Sequential(network)
    network[0].unused = torch.nn.Identity()
    network[0].forward = lambda x: network[0].output(network[0].hidden(x))
    model = as_model(network.eval())
    try:
        with pytest.raises(rk.BadInput, match="was not called"):
            find_features(model, "0.unused", None, inputs[:2])
    finally:
        del network[0].forward, network[0].unused
