"""Models that fool evaluations by accident, each as people really write them."""

import numpy as np
import pytest
import torch

import robustkit as rk
from robustkit.errors import BadInput


class Normalised(torch.nn.Module):
    """A network behind a batch normalisation."""

    def __init__(self, network):
        super().__init__()
        self.normalise = torch.nn.BatchNorm2d(1, affine=False)
        self.network = network

    def forward(self, x):
        return self.network(self.normalise(x))


class Int8(torch.nn.Module):
    """The last layer's input and weights in 8 bits, as integer hardware computes."""

    def __init__(self, network):
        super().__init__()
        *body, self.head = network.children()
        self.body = torch.nn.Sequential(*body)

    def forward(self, x):
        inner = self.body(x)
        scale, weight = 0.1, self.head.weight.abs().max() / 127
        a = (inner / scale).round().clamp(-127, 127).to(torch.int8)
        w = (self.head.weight / weight).round().to(torch.int8)
        product = a.int() @ w.int().T
        return product.float() * scale * weight + self.head.bias


class Adapting(torch.nn.Module):
    """Takes a step towards surer answers before it answers, on weights of its own."""

    def __init__(self, network, ours):
        super().__init__()
        self.network = network
        self.shift = torch.zeros(1, 1, 8, 8)
        if ours:
            self.shift = torch.nn.Parameter(self.shift)

    def forward(self, x):
        with torch.enable_grad():
            if not isinstance(self.shift, torch.nn.Parameter):
                self.shift = torch.zeros(1, 1, 8, 8, requires_grad=True)
            out = self.network(x.detach() + self.shift)
            loss = torch.distributions.Categorical(logits=out).entropy().sum()
            loss.backward()
        shift = (self.shift - 0.01 * self.shift.grad).detach()
        self.shift.grad = None
        return self.network(x + shift)


def found(model, digits, **settings):
    _, x, y = digits
    return {
        f.id: f for f in rk.check(model, (x, y), samples=len(x), **settings).findings
    }


def test_dropout_left_on_in_a_function_is_named(digits, wrapped):
    drop = torch.nn.functional.dropout
    finding = found(wrapped(lambda n, x: n(drop(x, 0.3))), digits)["R1"]
    assert "it calls dropout" in finding.diagnosis
    assert "training=False" in finding.remedy
    sound = wrapped(lambda n, x: n(drop(x, 0.3, training=False)))
    assert found(sound, digits) == {}


def test_dropout_left_on_in_a_layer_is_switched_off_unless_it_is_meant(digits):
    network, *_ = digits
    module = torch.nn.Sequential(torch.nn.Dropout(0.3), network).train()
    with pytest.warns(UserWarning, match="training mode"):
        assert found(module, digits) == {}
    finding = found(rk.TorchModel(module, training=True), digits)["R1"]
    assert "it calls dropout" in finding.diagnosis


def test_noise_of_a_randomised_model_is_named(digits, wrapped):
    finding = found(wrapped(lambda n, x: n(x + 0.2 * torch.randn_like(x))), digits)[
        "R1"
    ]
    assert "it calls randn_like" in finding.diagnosis
    assert "EOT" in finding.remedy
    assert "MajorityVote" in finding.remedy


def test_batch_statistics_in_training_mode(digits):
    network, *_ = digits
    module = Normalised(network).train()
    finding = found(rk.TorchModel(module, training=True), digits)["R1"]
    assert "depend on the other inputs in the batch" in finding.diagnosis
    assert "it calls batch_norm" in finding.diagnosis
    assert "model.eval()" in finding.remedy
    # As it would be evaluated by default, it is sound.
    with pytest.warns(UserWarning, match="training mode"):
        assert "R1" not in found(module, digits)


def test_a_model_of_which_a_batch_of_one_raises(digits, wrapped):
    """As batch normalisation of features does in training mode."""

    def several(network, x):
        if len(x) < 2:
            raise ValueError("Expected more than 1 value per channel when training")
        return network(x - x.mean(dim=0))

    with pytest.raises(BadInput, match=r"one at a time, .*batch statistics"):
        found(wrapped(several), digits)


def test_no_gradients_inside_forward(digits, wrapped):
    def silent(network, x):
        with torch.no_grad():
            return network(x)

    finding = found(wrapped(silent), digits)["G1"]
    assert "it calls torch.no_grad" in finding.diagnosis
    assert "BPDA" in finding.remedy


def test_a_backward_pass_of_its_own_is_not_called_no_grad(digits, wrapped):
    class Reversed(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            return x * 1

        @staticmethod
        def backward(context, slopes):
            return -slopes

    finding = found(wrapped(lambda n, x: n(Reversed.apply(x))), digits)["G3"]
    assert "it calls torch.autograd.Function)" in finding.diagnosis


def test_no_gradients_in_a_part_of_forward(digits, wrapped):
    """The gradient goes past the part that decides: it is there, and wrong."""

    def partly(network, x):
        with torch.no_grad():
            out = network(x)
        return out + x.flatten(1)[:, :10]

    finding = found(wrapped(partly), digits)["G3"]
    assert "torch.no_grad" in finding.diagnosis


def test_int8_arithmetic(digits):
    network, *_ = digits
    finding = found(Int8(network).eval(), digits)
    assert "int" in finding["G1"].diagnosis
    assert "round" in finding["G1"].diagnosis
    assert "--access decision" in finding["G1"].remedy


def test_quantised_outputs(digits, wrapped):
    finding = found(wrapped(lambda n, x: n(x).round()), digits)
    assert "int8" in finding["O1"].diagnosis
    assert "it calls round" in finding["G2"].diagnosis
    assert "decisions only" in finding["O1"].remedy


@pytest.mark.parametrize("way", ["softmax", "relu"])
def test_outputs_that_hide_the_logits(digits, wrapped, way):
    hide = {
        "softmax": lambda z: z.softmax(dim=1),
        "relu": lambda z: (z - z.mean(dim=1, keepdim=True)).relu(),
    }[way]
    finding = found(wrapped(lambda n, x: hide(n(x))), digits)["O1"]
    assert {"softmax": "leave out the last softmax", "relu": "last rectifier"}[
        way
    ] in finding.remedy


def test_an_input_modified_in_place(digits, wrapped):
    with pytest.raises(BadInput, match=r"let it work on a copy \(x = x.clone\(\)\)"):
        found(wrapped(lambda n, x: n(x.sub_(0.1))), digits)


def test_a_function_of_arrays_that_works_in_place_writes_into_its_own_copy(plant):
    planted = plant(bounds=(0.0, 1.0), dtype=np.float32)
    planted.b[:] = 0

    def logits(x):
        x *= 0.5
        return planted.logits(x)

    def ids(function):
        data = (planted.x, planted.logits(planted.x).argmax(axis=1))
        return [f.id for f in rk.check(rk.NumPyModel(function), data).findings]

    assert ids(logits) == ids(planted.logits)


def test_a_model_that_optimises_at_test_time(digits):
    network, *_ = digits
    finding = found(Adapting(network, ours=False).eval(), digits)["O3"]
    assert "at test time" in finding.diagnosis
    assert "keep the inner steps in the graph" in finding.remedy


def test_a_model_that_trains_its_weights_at_test_time(digits):
    """While questions are asked parameters are frozen, so it cannot; it is told."""
    network, *_ = digits
    with pytest.raises(BadInput, match=r"optimises .* at test time"):
        found(Adapting(network, ours=True).eval(), digits)


def test_names_of_calls_are_those_of_the_model_alone(digits, wrapped):
    """The adapter detaches, too; a sound model may round what does not matter."""
    finding = found(wrapped(lambda n, x: n(x.detach())), digits)["G1"]
    assert "it calls detach" in finding.diagnosis
    zero = found(wrapped(lambda n, x: n((x * 2).round() / 2)), digits)["G2"]
    assert "it calls round)" in zero.diagnosis
