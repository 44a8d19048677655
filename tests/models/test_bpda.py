import numpy as np
import pytest
import torch

import robustkit as rk
from robustkit.errors import BadInput
from robustkit.models.base import NoGradient
from robustkit.models.bpda import BPDA, torch_module
from robustkit.models.eot import EOT
from robustkit.models.numpy import NumPyModel
from robustkit.models.torch import TorchModel
from robustkit.models.wrappers import Preprocessed
from robustkit.numerics.tensors import as_tensor, like, to_numpy

W = torch.tensor([[1.0, -1.0], [0.5, 2.0], [-2.0, 0.3]])
X = torch.tensor([[0.31, 0.62, 0.11], [0.9, 0.4, 0.77]])
SLOPES = torch.tensor([[1.0, -1.0], [0.0, 2.0]])
STRAIGHT = SLOPES @ W.T


class Step(torch.nn.Module):
    def __init__(self, change):
        super().__init__()
        self.change = change

    def forward(self, x):
        return self.change(x)


class Net(torch.nn.Module):
    """A step of some kind, then a linear layer."""

    def __init__(self, change):
        super().__init__()
        self.quantise = Step(change)
        self.linear = torch.nn.Linear(3, 2, bias=False)
        self.linear.weight.data = W.T.contiguous()
        self.eval()

    def forward(self, x):
        return self.linear(self.quantise(x))


def rounded(x):
    return (4 * x).round() / 4


def gradient(model, x=X, slopes=SLOPES):
    with model.session():
        logits, pull_back = model.linearise(as_tensor(x))
        out = pull_back(as_tensor(slopes)).raw
    torch.testing.assert_close(logits.raw, model.logits(as_tensor(x)).raw)
    return out


STEPS = {
    "rounding": rounded,
    "floor": lambda x: (4 * x).floor() / 4,
    "numpy": lambda x: torch.from_numpy(np.round(4 * x.detach().numpy()) / 4),
    "detached": lambda x: x.detach(),
    "eight bits": lambda x: (255 * x).to(torch.uint8).float() / 255,
    "division": lambda x: torch.div(x, 0.25, rounding_mode="floor") * 0.25,
}


@pytest.mark.parametrize("step", STEPS)
def test_a_named_layer_counts_as_the_identity(step):
    plain = TorchModel(Net(STEPS[step]))
    model = BPDA(plain, layer="quantise")
    assert torch.equal(model.logits(as_tensor(X)).raw, plain.logits(as_tensor(X)).raw)
    torch.testing.assert_close(gradient(model), STRAIGHT)
    try:
        without = gradient(plain)
    except NoGradient:
        return
    assert (without == 0).all()


@pytest.mark.parametrize("step", STEPS)
def test_all_before_a_layer_counts_as_the_identity(step):
    class Function(Net):
        def forward(self, x):
            return self.linear(STEPS[step](x))

    model = BPDA(TorchModel(Function(None)), before="linear")
    torch.testing.assert_close(gradient(model), STRAIGHT)


@pytest.mark.parametrize("step", [step for step in STEPS if step != "numpy"])
def test_operations_are_found_by_themselves(step):
    def function(x):
        return STEPS[step](x) @ W

    model = BPDA(TorchModel(function))
    found = gradient(model)
    torch.testing.assert_close(found, STRAIGHT)
    assert model.replaced


def test_no_grad_inside_is_ignored():
    @torch.no_grad()
    def function(x):
        return x @ W

    with pytest.raises(NoGradient):
        gradient(TorchModel(function))
    model = BPDA(TorchModel(function))
    torch.testing.assert_close(gradient(model), STRAIGHT)
    assert model.replaced == ("no_grad",)
    # Nothing of it stays behind.
    with torch.no_grad():
        assert not torch.is_grad_enabled()
        assert not (X.clone().requires_grad_() * 2).requires_grad
    with pytest.raises(NoGradient):
        gradient(TorchModel(function))


def test_thresholds_count_as_sigmoids():
    levels = torch.tensor([0.25, 0.5, 0.75])

    def thermometer(x):
        return (x[:, :, None] > levels).float().sum(dim=2) @ W

    with pytest.raises(NoGradient):
        gradient(TorchModel(thermometer))
    found = gradient(BPDA(TorchModel(thermometer)))
    assert ((found > 0) == (STRAIGHT > 0)).all()


def test_what_has_gradients_keeps_them():
    """Ordinary networks are differentiated as they are."""
    net = torch.nn.Sequential(
        torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.LayerNorm(8),
        torch.nn.Dropout(), torch.nn.Linear(8, 2), torch.nn.Softmax(dim=1),
    ).eval()  # fmt: skip
    model = BPDA(TorchModel(net))
    torch.testing.assert_close(gradient(model), gradient(TorchModel(net)))
    assert model.replaced == ()


def test_a_function_of_ones_own_goes_backwards():
    def double(x):
        return 2 * x

    model = BPDA(TorchModel(Net(rounded)), layer="quantise", backward=double)
    torch.testing.assert_close(gradient(model), 2 * STRAIGHT)
    reached = BPDA(TorchModel(Net(rounded)), before="linear", backward=double)
    torch.testing.assert_close(gradient(reached), 2 * STRAIGHT)


def test_a_preprocessing_step_goes_before_the_model():
    rest = TorchModel(lambda x: x @ W)
    model = BPDA(rest, layer=rounded)
    expected = rounded(X) @ W
    torch.testing.assert_close(model.logits(as_tensor(X)).raw, expected)
    torch.testing.assert_close(gradient(model), STRAIGHT)
    squared = BPDA(rest, layer=rounded, backward=lambda x: x**2)
    torch.testing.assert_close(gradient(squared), 2 * X * STRAIGHT)


def test_a_preprocessing_step_in_numpy():
    weights = W.numpy().astype(np.float64)
    rest = NumPyModel(lambda x: x @ weights, gradient=lambda x, s: s @ weights.T)
    x, slopes = X.numpy().astype(np.float64), SLOPES.numpy().astype(np.float64)
    for backward, factor in (("identity", 1), (lambda x: 3 * x, 3)):
        model = BPDA(rest, layer=lambda x: np.round(x, 1), backward=backward)
        logits, pull_back = model.linearise(as_tensor(x))
        np.testing.assert_allclose(logits.raw, np.round(x, 1) @ weights)
        found = to_numpy(pull_back(as_tensor(slopes)))
        np.testing.assert_allclose(found, factor * STRAIGHT.numpy(), rtol=1e-5)


@pytest.mark.parametrize("ask", ["logits", "linearise"])
def test_a_preprocessing_step_in_place_leaves_the_input(ask):
    model = BPDA(TorchModel(Net(lambda x: x)), lambda x: x.mul_(4).round_().div_(4))
    x = as_tensor(X.clone())
    getattr(model, ask)(x)
    assert torch.equal(x.raw, X)


def test_it_composes_with_other_wrappers():
    def shaken(x):
        return rounded(x + 0.01 * torch.randn_like(x))

    model = EOT(BPDA(TorchModel(Net(shaken)), layer="quantise"), samples=20)
    torch.testing.assert_close(gradient(model), STRAIGHT)
    assert model.passes_per_question == 20
    normalised = BPDA(Preprocessed(TorchModel(Net(rounded)), [0.0], [0.5]), "quantise")
    torch.testing.assert_close(gradient(normalised), 2 * STRAIGHT)
    assert isinstance(torch_module(model), Net)
    assert torch_module(NumPyModel(lambda x: x)) is None
    both = BPDA(BPDA(TorchModel(Net(rounded))), before="linear")
    torch.testing.assert_close(gradient(both), STRAIGHT)


def test_hooks_are_removed():
    net = Net(rounded)
    gradient(BPDA(TorchModel(net), layer="quantise"))
    gradient(BPDA(TorchModel(net), before="linear"))
    for module in net.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_an_attack_gets_through():
    x, labels = X, (rounded(X) @ W).argmax(dim=1)
    plain = TorchModel(Net(rounded))
    blocked = rk.run(rk.FMN(steps=50), plain, x, labels, norm="l2")
    model = BPDA(plain, "quantise")
    found = rk.run(rk.FMN(steps=50), model, x, labels, norm="l2")
    assert found.found.all()
    assert not blocked.found.any()
    assert (plain.logits(as_tensor(found.x_adversarial)).raw.argmax(1) != labels).all()
    assert (found.ledger.backwards == 50).all()


class ByName(Net):
    def forward(self, x):
        return self.linear(input=self.quantise(x=x))


@pytest.mark.parametrize("part", [{"layer": "quantise"}, {"before": "linear"}])
def test_layers_that_are_called_with_names(part):
    plain = TorchModel(ByName(rounded))
    model = BPDA(plain, **part)
    logits, pull_back = model.linearise(as_tensor(X))
    assert torch.equal(logits.raw, plain.logits(as_tensor(X)).raw)
    torch.testing.assert_close(pull_back(as_tensor(SLOPES)).raw, STRAIGHT)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: (8 * x).round_() / 8,
        lambda x: torch.floor_divide(x, other=torch.tensor(0.125)) / 8,
        lambda x: torch.div(x, other=0.125, rounding_mode="floor") / 8,
    ],
)
def test_operations_in_place_and_with_named_arguments(change):
    plain = TorchModel(Net(change))
    model = BPDA(plain)
    logits, pull_back = model.linearise(as_tensor(X))
    assert torch.equal(logits.raw, plain.logits(as_tensor(X)).raw)
    torch.testing.assert_close(pull_back(as_tensor(SLOPES)).raw, STRAIGHT)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: (8 * x).int() / 8.0,
        lambda x: x.data * 1.0,
        lambda x: x.clone().detach_(),
        lambda x: torch.round(input=8 * x) / 8,
        lambda x: torch.special.round(8 * x) / 8,
        lambda x: (8 * x).int().mul_(2) / 16.0,
        lambda x: (8 * x).int().type_as(x) / 8,
        lambda x: torch.stack([(8 * x).int(), (4 * x).int()]).sum(dim=0) / 12.0,
    ],
)
def test_what_counts_as_the_identity_is_followed_through_arithmetic(change):
    torch.testing.assert_close(gradient(BPDA(TorchModel(Net(change)))), STRAIGHT)


LEVELS = torch.tensor([0.25, 0.5, 0.75])


@pytest.mark.parametrize(
    "change",
    [
        lambda x: (x > 0.5) * 1.0,
        lambda x: torch.where(x > 0.5, 1.0, 0.0),
        lambda x: torch.lt(torch.tensor(0.5), x).float(),
        lambda x: torch.heaviside(x - 0.5, torch.tensor(0.0)),
        lambda x: (~(x < 0.5)) * 1.0,
        lambda x: ((x > 0.5) & (x > 0.2)).float(),
        lambda x: ((x > 0.5) | (x > 0.2)).float(),
        lambda x: ((8 * x).int() > 3).float(),
        lambda x: (x[:, :, None] > LEVELS).sum(dim=2) / 3,
    ],
)
def test_thresholds_are_followed_through_logic_and_choices(change):
    found = gradient(BPDA(TorchModel(Net(change))), slopes=torch.eye(2))
    assert ((found > 0) == (W.T > 0)).all()


def test_a_number_divided_by_inputs_as_integers():
    for change in (lambda x: 1 // x, lambda x: torch.tensor(1.0) // x):
        model = BPDA(TorchModel(Net(change)))
        torch.testing.assert_close(gradient(model), -STRAIGHT / X**2)


def test_choices_and_masks_of_what_has_gradients_keep_them():
    def relu(x):
        return torch.where(x > 0.5, x, 0.0) * (x > 0.2)

    plain = TorchModel(Net(relu))
    torch.testing.assert_close(gradient(BPDA(plain)), gradient(plain))


def test_what_works_in_place_is_done_once():
    def counted(x):
        total = torch.zeros_like(x).detach()
        total += x > 0.5
        return total + x

    model = BPDA(TorchModel(Net(counted)))
    torch.testing.assert_close(gradient(model), STRAIGHT)


def test_there_is_no_way_back_through_a_table():
    table = torch.arange(9.0)
    with pytest.raises(NoGradient):
        gradient(BPDA(TorchModel(Net(lambda x: table[(8 * x).long()]))))


def test_a_threshold_with_a_named_argument():
    model = BPDA(TorchModel(Net(lambda x: torch.gt(x, other=0.5).float())))
    assert model.linearise(as_tensor(X))[1](as_tensor(SLOPES)).raw.any()


def test_bad_settings():
    model = TorchModel(Net(rounded))
    with pytest.raises(BadInput, match="no layer 'quantize'; did you mean 'quantise'"):
        BPDA(model, "quantize")
    with pytest.raises(BadInput, match="either the layer, or"):
        BPDA(model, "quantise", before="linear")
    for part in (5, [5]):
        with pytest.raises(BadInput, match=r"layer.*5"):
            BPDA(model, part)
    with pytest.raises(BadInput, match="unknown backward pass 5"):
        BPDA(model, backward=5)
    with pytest.raises(BadInput, match="unknown backward pass 'zero'"):
        BPDA(model, "quantise", backward="zero")
    with pytest.raises(BadInput, match="no torch module"):
        BPDA(NumPyModel(lambda x: x), "quantise")
    with pytest.raises(BadInput, match=r"'linear' makes \(2, 2\) of \(2, 3\)"):
        gradient(BPDA(model, "linear"))
    with pytest.raises(BadInput, match="cannot count as the identity"):
        gradient(BPDA(TorchModel(lambda x: x @ W[:2]), layer=lambda x: x[:, :2]))


def test_what_is_verified_is_the_model_itself():
    model = TorchModel(torch.nn.Linear(3, 2).eval(), autocast=torch.bfloat16)
    for exact in (BPDA(model).precise(), BPDA(model, rounded).precise()):
        assert isinstance(exact, BPDA)
        assert exact.wraps is not model
    plain = BPDA(TorchModel(Net(rounded)), "quantise")
    assert plain.precise() is plain
    assert plain.fingerprint() != BPDA(TorchModel(Net(rounded))).fingerprint()


class Deep(Net):
    """A net whose logits can be tapped."""

    def __init__(self, change):
        super().__init__(change)
        self.last = Step(torch.relu).eval()

    def forward(self, x):
        return self.last(super().forward(x))


@pytest.mark.parametrize(
    "part",
    [
        {"layer": "quantise"},
        {"layer": ["quantise"], "backward": lambda x: 2 * x},
        {"before": "linear"},
        {"layer": rounded},
        {},
    ],
)
def test_layers_behind_what_is_replaced_can_be_tapped(part):
    change = torch.nn.Identity() if callable(part.get("layer")) else rounded
    model = BPDA(TorchModel(Deep(change)), **part)
    tapped = model.at_layer("linear")
    torch.testing.assert_close(tapped.logits(as_tensor(X)).raw, rounded(X) @ W)
    factor = 2 if "backward" in part else 1
    torch.testing.assert_close(gradient(tapped), factor * STRAIGHT)
    assert tapped.notes == model.notes
    features = rk.WithFeatures(model, "linear")
    logits, pull_back = features.linearise(as_tensor(X))
    assert logits.shape == (2, 4)
    slopes = torch.cat([torch.zeros(2, 2), SLOPES], dim=1)
    torch.testing.assert_close(pull_back(as_tensor(slopes)).raw, factor * STRAIGHT)


def test_what_is_replaced_can_be_tapped_itself():
    tapped = BPDA(TorchModel(Net(rounded)), "quantise").at_layer("quantise")
    ones = torch.ones(2, 3)
    torch.testing.assert_close(gradient(tapped, slopes=ones), ones)


def test_operations_are_looked_for_in_torch_only():
    jnp = pytest.importorskip("jax.numpy")
    from robustkit.models.jax import JaxModel

    for inner in (JaxModel(jnp.round), NumPyModel(np.round), EOT(NumPyModel(id), 2)):
        with pytest.raises(BadInput, match=r"operations of torch.*layer=function"):
            BPDA(inner)


def test_functions_in_jax_are_given_arrays_of_jax():
    jnp = pytest.importorskip("jax.numpy")
    from robustkit.models.jax import JaxModel

    weights = np.float32([[1.0, -1.0], [2.0, 0.5]])
    step = lambda x: jnp.round(x).at[:, 0].multiply(3.0)  # noqa: E731
    backward = lambda x: (x**2).at[:, 0].multiply(3.0)  # noqa: E731
    model = BPDA(JaxModel(lambda x: x @ weights), step, backward=backward)
    x = model.to_tensor(np.float32([[0.8, 0.3]]))
    logits, pull_back = model.linearise(x)
    assert np.allclose(to_numpy(logits), [[3.0, -3.0]])
    gradient = to_numpy(pull_back(like(x, np.float32([[1.0, 0.0]]))))
    assert np.allclose(gradient, [[3 * 2 * 0.8, 2 * 2 * 0.3]])


@pytest.mark.parametrize("kind", [lambda x: x, torch.Tensor.numpy, torch.Tensor.tolist])
def test_a_step_may_leave_the_framework(kind):
    model = BPDA(TorchModel(torch.nn.Linear(3, 2).eval()), lambda x: kind(x.round()))
    x = as_tensor(torch.tensor([[0.2, 0.7, 0.9]]))
    rounded = model.wraps.logits(as_tensor(torch.tensor([[0.0, 1.0, 1.0]])))
    logits, pull_back = model.linearise(x)
    assert torch.equal(logits.raw, rounded.raw)
    assert pull_back(as_tensor(torch.ones(1, 2))).raw.any()


def test_a_layer_of_several_outputs_cannot_be_replaced():
    class Recurrent(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.GRU(3, 2, batch_first=True)

        def forward(self, x):
            return self.inner(x[:, None])[0][:, 0]

    model = BPDA(TorchModel(Recurrent().eval()), layer="inner")
    with pytest.raises(BadInput, match="the layer 'inner' makes a tuple"):
        model.linearise(as_tensor(torch.zeros(1, 3)))
