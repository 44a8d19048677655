import warnings

import numpy as np
import pytest
import torch

from robustkit.errors import BadInput
from robustkit.evaluation.evaluate import evaluate
from robustkit.models.base import NoGradient
from robustkit.models.torch import TorchModel
from robustkit.models.wrappers import Preprocessed
from robustkit.numerics.fused import compiler_missing
from robustkit.numerics.tensors import as_tensor, to_numpy


def linear(**options):
    return torch.nn.Linear(3, 2, **options)


def state(module):
    return (
        [layer.training for layer in module.modules()],
        [parameter.requires_grad for parameter in module.parameters()],
    )


def gradient(model, x):
    logits, pull_back = model.linearise(x)
    return pull_back(logits.ones_like())


class Watching(torch.nn.Module):
    """Writes down in what state it is asked; fails on demand."""

    def __init__(self, fails=False):
        super().__init__()
        self.inner, self.fails, self.seen = linear(), fails, None

    def forward(self, x):
        self.seen = state(self)
        if self.fails:
            raise RuntimeError("out of order")
        return self.inner(x)


class Viewing(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.arange(36.0).cos().reshape(12, 3))

    def forward(self, x):
        return x.view(len(x), -1) @ self.weight


def test_parameters_are_frozen_while_asked_and_restored():
    module = Watching().eval()
    module.inner.bias.requires_grad_(False)
    before = state(module)
    model = TorchModel(module)
    x = as_tensor(torch.ones(2, 3))
    for ask in (model.logits, lambda x: gradient(model, x)):
        ask(x)
        assert module.seen == ([False, False], [False, False])
        assert state(module) == before
    with model.session():
        gradient(model, x)
        assert state(module)[1] == [False, False]
    assert state(module) == before
    assert all(parameter.grad is None for parameter in module.parameters())


def test_everything_is_restored_when_the_model_fails():
    module = Watching(fails=True)
    with pytest.warns(UserWarning, match="training mode"):
        model = TorchModel(module)
    before = state(module)
    for ask in (model.logits, model.linearise):
        with pytest.raises(RuntimeError, match="out of order"):
            ask(as_tensor(torch.ones(2, 3)))
        assert state(module) == before == ([True, True], [True, True])
    module.fails = False
    assert model.logits(as_tensor(torch.ones(2, 3))).shape == (2, 2)


def test_gradients_of_parameters_that_were_there_stay():
    module = linear()
    module(torch.ones(1, 3)).sum().backward()
    before = module.weight.grad.clone()
    gradient(TorchModel(module.eval()), as_tensor(torch.ones(2, 3)))
    assert torch.equal(module.weight.grad, before)


def test_training_mode_is_left_per_layer_and_restored():
    module = torch.nn.Sequential(linear(), torch.nn.Dropout(0.9))
    module[0].eval()
    with pytest.warns(UserWarning, match="Sequential.*training mode"):
        model = TorchModel(module)
    x = as_tensor(torch.ones(4, 3))
    expected = module[0](x.raw)
    assert torch.equal(model.logits(x).raw, expected)
    assert [layer.training for layer in module.modules()] == [True, False, True]


def test_a_single_layer_in_training_mode_is_told():
    module = torch.nn.Sequential(linear(), torch.nn.Dropout()).eval()
    module[1].train()
    with pytest.warns(UserWarning, match="a layer of it, is in training mode"):
        TorchModel(module)


def test_training_mode_can_be_kept():
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = TorchModel(module, training=True)
    with torch.random.fork_rng():
        out = model.logits(as_tensor(torch.ones(1, 1000))).raw
    assert (out == 0).any()


@pytest.mark.parametrize("ask", ["logits", "linearise"])
@pytest.mark.parametrize(
    "module",
    [
        torch.nn.Sequential(torch.nn.ReLU(inplace=True), linear()).eval(),
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.ReLU(True), linear()).eval(),
    ],
)
def test_a_model_that_writes_into_its_input_is_refused(module, ask):
    x = as_tensor(torch.full((2, 3), -1.0))
    with pytest.raises(BadInput, match="in place"):
        getattr(TorchModel(module), ask)(x)


def test_writing_without_gradients_into_the_input_is_refused():
    def sneaky(x):
        with torch.no_grad():
            x.clamp_(0, 1)
        return x * 2

    with pytest.raises(BadInput, match="in place"):
        TorchModel(sneaky).linearise(as_tensor(torch.ones(2, 3)))


def halved_by_numpy(x):
    values = x.detach().numpy()
    values *= 0.5
    return torch.from_numpy(values) + 0 * x


def halved_by_data(x):
    x.data.mul_(0.5)
    return 1 * x


@pytest.mark.parametrize("ask", ["logits", "linearise"])
@pytest.mark.parametrize("function", [halved_by_numpy, halved_by_data])
def test_writing_behind_the_back_of_torch_is_refused(function, ask):
    x = as_tensor(torch.ones(2, 3))
    with pytest.raises(BadInput, match="in place"):
        getattr(TorchModel(function), ask)(x)


def test_inputs_that_are_no_numbers_are_no_sign_of_writing():
    x = as_tensor(torch.full((2, 3), torch.nan))
    assert TorchModel(lambda x: 2 * x).logits(x).raw.isnan().all()


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.detach() * 2,
        lambda x: torch.nn.functional.one_hot(x.argmax(1), 3).float(),
        torch.no_grad()(lambda x: x * 2),
    ],
)
def test_outputs_without_a_way_back_have_no_gradient(function):
    with pytest.raises(NoGradient, match="differentiable"):
        TorchModel(function).linearise(as_tensor(torch.ones(2, 3)))


def test_outputs_that_ignore_the_input_have_gradient_zero():
    module = linear()
    free = torch.ones(2, 2, requires_grad=True)
    model = TorchModel(lambda x: module(x) * 0 + free)
    assert not to_numpy(gradient(model, as_tensor(torch.ones(2, 3)))).any()


def test_double_precision_modules_take_single_precision_inputs():
    module = linear(dtype=torch.float64).eval()
    model, x = TorchModel(module), torch.rand(2, 3, generator=torch.Generator())
    logits, pull_back = model.linearise(as_tensor(x))
    found = pull_back(logits.ones_like()).raw
    assert logits.raw.dtype == model.logits(as_tensor(x)).raw.dtype == torch.float32
    assert found.dtype == torch.float32
    torch.testing.assert_close(logits.raw, module(x.double()).float())
    torch.testing.assert_close(
        found, module.weight.detach().sum(0).float().expand(2, 3)
    )


@pytest.mark.parametrize("first", [torch.arange(3), torch.ones(3) + 0j])
def test_inputs_have_the_precision_of_the_first_floats(first):
    class Tabled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Parameter(first, requires_grad=False)
            self.inner = linear().double()

        def forward(self, x):
            return self.inner(x)

    module, x = Tabled().eval(), torch.full((2, 3), 0.5)
    out = TorchModel(module).logits(as_tensor(x)).raw
    torch.testing.assert_close(out, module(x.double()).float())


def test_device():
    module = linear()
    model = TorchModel(module.eval(), device="cpu")
    assert model.to_tensor(np.zeros((1, 3), np.float32)).raw.device.type == "cpu"
    meta = TorchModel(torch.nn.Linear(3, 2, device="meta").eval())
    assert meta.to_tensor(np.zeros((1, 3), np.float32)).raw.device.type == "meta"
    moved = torch.nn.Linear(3, 2)
    TorchModel(moved.eval(), device="meta")
    assert moved.weight.device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_the_gradients_of_the_cpu():
    module = linear().eval()
    x = np.random.default_rng(0).random((4, 3), dtype=np.float32)
    model = TorchModel(module)
    expected = to_numpy(gradient(model, model.to_tensor(x)))
    model = TorchModel(module, device="cuda")
    found = gradient(model, model.to_tensor(x))
    assert found.raw.device.type == "cuda"
    np.testing.assert_allclose(to_numpy(found), expected, atol=1e-5)


def test_gradient_is_that_of_autograd(weights, batch, slopes):
    module = weights.module()
    raw = torch.from_numpy(batch).requires_grad_()
    (expected,) = torch.autograd.grad(
        (module(raw) * torch.from_numpy(slopes)).sum(), raw
    )
    _, pull_back = TorchModel(module).linearise(as_tensor(torch.from_numpy(batch)))
    torch.testing.assert_close(
        pull_back(as_tensor(torch.from_numpy(slopes))).raw, expected
    )


@pytest.mark.parametrize("ask", ["logits", "linearise"])
def test_complex_outputs_are_refused(ask):
    model = TorchModel(lambda x: x + 0j)
    with pytest.raises(BadInput, match="complex64; expected numbers"):
        getattr(model, ask)(as_tensor(torch.ones(2, 3)))


@pytest.mark.parametrize("ask", ["logits", "linearise"])
def test_no_question_is_asked_in_inference_mode(ask):
    module = linear().eval()
    model = TorchModel(module)
    with torch.inference_mode(), pytest.raises(BadInput, match="inference_mode"):
        getattr(model, ask)(model.to_tensor(np.ones((2, 3), np.float32)))
    assert state(module) == ([False], [True, True])


def test_modules_made_in_inference_mode_are_refused():
    with torch.inference_mode():
        module = linear().eval()
    with pytest.raises(BadInput, match="inference_mode"):
        TorchModel(module)


def test_modules_that_view_their_input_take_transposed_images():
    module = Viewing().eval()
    images = np.random.default_rng(0).uniform(size=(3, 2, 2, 3)).astype(np.float32)
    first = images.transpose(0, 3, 1, 2)
    y = module(torch.from_numpy(first.copy())).argmax(dim=1).numpy()
    found = [
        evaluate(module, (x, y), norm="l2", attacks=["fmn"], budget=20).distance
        for x in (first, np.ascontiguousarray(first))
    ]
    np.testing.assert_array_equal(*found)
    assert np.isfinite(found[0]).all()


def test_outputs_with_logits_and_other_outputs():
    class Output:
        def __init__(self, logits):
            self.logits = logits

    x = as_tensor(torch.ones(2, 3))
    assert TorchModel(lambda x: Output(x[:, :2])).logits(x).shape == (2, 2)
    with pytest.raises(BadInput, match="returned a list"):
        TorchModel(lambda x: [x]).logits(x)


def test_fingerprint_follows_the_weights():
    module = torch.nn.Sequential(linear(), torch.nn.BatchNorm1d(2)).eval()
    model = TorchModel(module)
    first = model.fingerprint()
    assert first == model.fingerprint() == TorchModel(module).fingerprint()
    with torch.no_grad():
        module[0].bias[0] += 1
    second = model.fingerprint()
    module[1].running_mean[0] = 3
    assert len({first, second, model.fingerprint()}) == 3


def test_fingerprint_sees_buffers_and_knows_when_there_is_nothing():
    class Fixed(torch.nn.Module):
        def __init__(self, value):
            super().__init__()
            self.register_buffer("scale", torch.tensor(value))

    prints = {TorchModel(Fixed(value).eval()).fingerprint() for value in (1.0, 2.0)}
    assert len(prints) == 2
    assert None not in prints
    assert TorchModel(lambda x: x).fingerprint() is None
    assert TorchModel(torch.nn.Flatten().eval()).fingerprint() is None


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize(
    "change",
    [
        torch.Tensor.to_sparse,
        torch.Tensor.to_sparse_csr,
        torch.Tensor.to_sparse_csc,
        lambda table: (table + 1j).conj(),
    ],
)
def test_fingerprint_sees_tensors_of_every_layout(change):
    def fingerprint(values):
        module = torch.nn.Flatten().eval()
        module.register_buffer("table", change(torch.diag(torch.tensor(values))))
        return TorchModel(module).fingerprint()

    one, same, other = map(fingerprint, ([1.0, 2.0], [1.0, 2.0], [1.0, 3.0]))
    assert one == same != other


class Packed(torch.nn.Module):
    """Keeps its weights as the quantised layers of torch do, or as it likes."""

    def __init__(self, kept):
        super().__init__()
        self.register_buffer("scale", torch.tensor(1.0))
        self.kept = kept

    def get_extra_state(self):
        return self.kept


@pytest.mark.parametrize(
    "pack",
    [
        lambda weights: (weights, None),
        lambda weights: {"bits": 8, "weights": [weights]},
        lambda weights: torch.quantize_per_tensor(
            weights, float(weights.max()) / 100, 0, torch.qint8
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_fingerprint_sees_packed_and_quantised_tensors(pack):
    one, same, other = (
        TorchModel(Packed(pack(torch.tensor(values))).eval()).fingerprint()
        for values in ([1.0, 2.0], [1.0, 2.0], [2.0, 4.0])
    )
    assert one == same != other


def test_modules_that_are_not_made_yet_are_refused():
    with pytest.raises(BadInput, match="call it once"):
        TorchModel(torch.nn.LazyLinear(3).eval())


def test_names():
    def classify(x):
        return x

    assert TorchModel(classify).name == "classify"
    assert TorchModel(linear().eval()).name == "Linear"
    assert TorchModel(classify, name="mine").name == "mine"


SHORTCUTS = [
    {"channels_last": True},
    {"autocast": torch.bfloat16},
    {"autocast": torch.bfloat16, "channels_last": True},
]


def convolutional():
    rng = np.random.default_rng(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(128, 4),
    )
    for parameter in module.parameters():
        values = rng.normal(size=tuple(parameter.shape)) / 10
        parameter.data = torch.from_numpy(values.astype(np.float32))
    return module.eval()


@pytest.mark.parametrize("options", SHORTCUTS)
def test_shortcuts_come_close_and_the_precise_model_is_the_plain_one(options):
    module = convolutional()
    plain, fast = TorchModel(convolutional()), TorchModel(module, **options)
    pixels = np.random.default_rng(1).random((5, 3, 6, 6), dtype=np.float32)
    x = as_tensor(torch.from_numpy(pixels))
    exact, slopes = to_numpy(plain.logits(x)), to_numpy(gradient(plain, x))
    near = 0.03 if "autocast" in options else 1e-6
    assert np.allclose(to_numpy(fast.logits(x)), exact, atol=near)
    # As a whole, since rounding may take a rectified unit to the other side of zero.
    off = np.linalg.norm(to_numpy(gradient(fast, x)) - slopes)
    assert off <= 10 * near * np.linalg.norm(slopes)
    assert fast.logits(x).dtype == torch.float32
    assert gradient(fast, x).raw.is_contiguous()
    assert ("autocast" in options) == (
        not np.allclose(to_numpy(fast.logits(x)), exact, atol=1e-6)
    )
    with fast.session():
        precise = fast.precise()
    assert np.allclose(to_numpy(precise.logits(x)), exact, atol=1e-6)
    assert precise.precise() is precise
    assert plain.precise() is plain
    assert "plain module" in fast.notes[0]
    assert fast.fingerprint() == plain.fingerprint()
    # Made inside of a session, it freezes the parameters for itself afterwards.
    gradient(precise, x)
    assert all(parameter.grad is None for parameter in module.parameters())
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_wrapped_models_are_precise_too():
    fast = TorchModel(convolutional(), autocast=torch.bfloat16)
    wrapped = Preprocessed(fast, [0.5], [2.0])
    plain = Preprocessed(TorchModel(convolutional()), [0.5], [2.0])
    x = as_tensor(torch.rand(5, 3, 6, 6))
    exact = to_numpy(plain.logits(x))
    assert np.allclose(to_numpy(wrapped.precise().logits(x)), exact, atol=1e-6)
    assert plain.precise() is plain


def test_precisions_that_torch_cannot_work_in():
    with pytest.raises(BadInput, match="bfloat16"):
        TorchModel(convolutional(), autocast=torch.float64)


def test_a_compiled_module_is_asked_and_the_plain_one_verifies():
    module, asked = convolutional(), []

    def compile_of(function, **options):
        assert options == {"dynamic": True}
        return lambda x: asked.append(len(x)) or function(x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", compile_of)
        model = TorchModel(module, compiled=True)
    x = as_tensor(torch.rand(5, 3, 6, 6))
    gradient(model, x)
    assert asked == [5]
    model.precise().logits(x)
    assert asked == [5]


@pytest.mark.slow
def test_a_compiled_module_can_be_gone_back_through_more_than_once():
    if reason := compiler_missing():
        pytest.skip(f"torch cannot compile here: {reason}")
    module = convolutional()
    x = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    plain, compiled = TorchModel(module), TorchModel(module, compiled=True)
    with compiled.session():
        for rows in (4, 3):
            some = as_tensor(x[:rows])
            _, expected_back = plain.linearise(some)
            logits, pull_back = compiled.linearise(some)
            assert torch.allclose(logits.raw, module(some.raw), atol=1e-5)
            for column in range(2):
                slopes = as_tensor(torch.eye(logits.shape[1])[[column] * rows])
                expected, got = expected_back(slopes).raw, pull_back(slopes).raw
                assert torch.allclose(got, expected, atol=1e-5)


def test_a_layer_is_seen_as_it_was_before_the_next_worked_in_place():
    network = torch.nn.Sequential(
        torch.nn.Linear(4, 5), torch.nn.ReLU(inplace=True), torch.nn.Linear(5, 3)
    ).eval()
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    seen = TorchModel(network).at_layer("0").logits(as_tensor(x)).raw
    assert torch.equal(seen, network[0](x).detach())
    assert (seen < 0).any()
