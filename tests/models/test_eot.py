import hashlib

import numpy as np
import pytest
import torch

import robustkit as rk
from robustkit.errors import BadInput
from robustkit.models.base import Access
from robustkit.models.eot import EOT, _scrambled
from robustkit.models.numpy import NumPyModel
from robustkit.models.torch import TorchModel
from robustkit.numerics.random import sample_keys, seeded
from robustkit.numerics.tensors import as_tensor, to_numpy

W = torch.tensor([[1.0, -1.0, 0.5], [-2.0, 1.0, 0.0]]).T.contiguous()


def noisy(x):
    return (x + 0.3 * torch.randn_like(x)) @ W


def once_per_batch(x):
    return (x + 0.3 * torch.randn(1)) @ W


def masked(x):
    """The gradient itself is random."""
    return (x * (torch.rand_like(x) < 0.5)) @ W


def points(count=4):
    return as_tensor(torch.rand(count, 3, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("function", [noisy, once_per_batch, masked])
def test_answers_depend_on_seed_and_input_only(function):
    x = points()
    model = EOT(TorchModel(function), 8)
    whole = to_numpy(model.logits(x))
    some = as_tensor(x.raw[[3, 1]])
    np.testing.assert_array_equal(to_numpy(model.logits(some)), whole[[3, 1]])
    torch.rand(7)
    np.testing.assert_array_equal(to_numpy(model.linearise(x)[0]), whole)
    other = EOT(TorchModel(function), 8, seed=1)
    assert not np.allclose(to_numpy(other.logits(x)), whole)


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("function", [noisy, once_per_batch])
def test_estimated_gradients_depend_on_seed_and_input_only(function, batched):
    def gradient(x, seed=0):
        inner = rk.Estimated(TorchModel(function), 4)
        model = EOT(inner, 3, seed=seed, batched=batched)
        logits, pull_back = model.linearise(x)
        return to_numpy(pull_back(logits.ones_like() * points(1).raw[:, :2]))

    x, before = points(), torch.random.get_rng_state()
    whole = gradient(x)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(7)
    np.testing.assert_array_equal(gradient(x), whole)
    if not batched:
        some = as_tensor(x.raw[[3, 1]])
        np.testing.assert_array_equal(gradient(some), whole[[3, 1]])
    assert not np.allclose(gradient(x, seed=1), whole)


def test_the_generators_are_put_back():
    before = torch.random.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002
    EOT(TorchModel(noisy), 3).logits(points())
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002


@pytest.mark.parametrize("function", [noisy, once_per_batch])
def test_the_mean_is_that_of_independent_draws(function):
    x, exact = points(1), points(1).raw @ W
    errors = [
        to_numpy(EOT(TorchModel(function), 16, seed=seed).logits(x)) - exact.numpy()
        for seed in range(150)
    ]
    # The standard deviation of one draw's logit 1 is 0.3 |w|, of a mean a quarter.
    column = W[:, 1]
    length = column.norm() if function is noisy else column.sum().abs()
    spread = np.std([error[0, 1] for error in errors])
    assert spread == pytest.approx(0.3 * float(length) / 4, rel=0.25)
    assert abs(np.mean([error[0, 1] for error in errors])) < 4 * spread / 12


def test_models_that_draw_once_per_batch_are_asked_draw_by_draw():
    sizes = []

    def counted(x):
        sizes.append(len(x))
        return once_per_batch(x)

    model = EOT(TorchModel(counted), 5)
    model.logits(points(2))
    assert sizes == [8] * 8 + [1] * 10
    sizes.clear()
    apart = EOT(TorchModel(lambda x: sizes.append(len(x)) or noisy(x)), 5)
    apart.logits(points(2))
    assert sizes == [8] * 8 + [5] * 2


@pytest.mark.parametrize("average", ["logits", "probabilities"])
@pytest.mark.parametrize("function", [masked, once_per_batch])
def test_gradients_are_those_of_the_mean(function, average):
    x = points(3).raw.double()
    model = EOT(TorchModel(lambda x: function(x.float()).double()), 6, average=average)
    slopes = torch.tensor([[1.0, -2.0], [0.5, 0.0], [0.0, 1.0]]).double()
    logits, pull_back = model.linearise(as_tensor(x))
    first, again = (to_numpy(pull_back(as_tensor(slopes))) for _ in range(2))
    np.testing.assert_array_equal(first, again)

    # The same draws, averaged by torch itself.
    expected = []
    for row in range(3):
        point = x[row : row + 1].clone().requires_grad_()
        key = int(sample_keys(x[row : row + 1].numpy())[0])
        with seeded(key ^ _scrambled(0)):
            if function is masked:
                drawn = function(point.expand(6, -1).float()).double()
            else:
                drawn = torch.cat([function(point.float()).double() for _ in range(6)])
        mean = drawn.mean(0) if average == "logits" else drawn.softmax(1).mean(0).log()
        torch.testing.assert_close(logits.raw[row], mean)
        expected.append(torch.autograd.grad((mean * slopes[row]).sum(), point)[0])
    np.testing.assert_allclose(first, torch.cat(expected).numpy(), atol=1e-6)


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_batches_are_asked_as_a_whole_where_that_is_wished(average):
    x, sizes = points(4), []

    def function(x):
        sizes.append(len(x))
        return masked(x)

    model = EOT(TorchModel(function), 6, average=average, batched=True)
    logits, pull_back = model.linearise(x)
    assert sizes == [4] * 6
    np.testing.assert_array_equal(logits.raw, model.logits(x).raw)
    slopes = torch.randn(4, 2, generator=torch.Generator().manual_seed(2))
    found = to_numpy(pull_back(as_tensor(slopes)))
    # The draws are those of the whole batch's seed.
    keys = sample_keys(x.raw.numpy())
    together = hashlib.blake2b(keys.tobytes(), digest_size=8).digest()
    point = x.raw.clone().requires_grad_()
    with seeded(int.from_bytes(together, "little") ^ _scrambled(0)):
        drawn = torch.stack([masked(point) for _ in range(6)])
    mean = drawn.mean(0) if average == "logits" else drawn.softmax(2).mean(0).log()
    torch.testing.assert_close(logits.raw, mean.detach())
    (expected,) = torch.autograd.grad((mean * slopes).sum(), point)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_every_draw_is_billed():
    sizes = []
    model = TorchModel(lambda x: sizes.append(len(x)) or noisy(x))
    eot = EOT(rk.MajorityVote(model, 2), 3)
    assert (eot.passes_per_question, eot.access) == (6, Access.SCORE)
    eot = EOT(model, 5)
    x = points(2).raw
    result = rk.run(rk.FMN(steps=4), eot, x, torch.tensor([0, 0]), norm="l2")
    assert (result.ledger.forwards == 20).all()
    assert (result.ledger.backwards == 20).all()
    # One look at the originals is not billed, nor is how the model draws.
    assert sum(sizes) == 40 + 10 + 64
    estimated = EOT(rk.Estimated(model, 4), 5)
    assert (estimated.passes_per_question, estimated.passes_per_gradient) == (5, 20)


def test_the_number_of_draws_follows_from_the_noise_of_the_gradient():
    x = points(6).raw.numpy()
    assert EOT(TorchModel(lambda x: x @ W), example=x).samples == 1
    # Additive noise leaves the gradient of a linear model alone.
    assert EOT(TorchModel(noisy), example=x).samples == 1

    def draws(kept):
        def function(x):
            return (x * (torch.rand_like(x) < kept)) @ W

        return EOT(TorchModel(function), example=x).samples

    # Each feature's variance is (1 - p) / p of its squared mean; 0.64 / 0.36 of that.
    assert draws(0.5) in (1, 2, 3)
    assert 5 <= draws(0.2) <= 11
    assert (
        EOT(TorchModel(lambda x: x @ W * torch.randn(x.shape[0], 1)), example=x).samples
        == 100
    )


def test_bad_settings():
    model = NumPyModel(lambda x: x)
    with pytest.raises(BadInput, match="draws of EOT must be at least 1"):
        EOT(model, 0)
    with pytest.raises(BadInput, match=r"must be a whole number; got 2\.5"):
        EOT(model, 2.5)
    with pytest.raises(BadInput, match="between 0 and"):
        EOT(NumPyModel(lambda x: x), 4, seed=-1)
    with pytest.raises(BadInput, match="cannot average 'votes'"):
        EOT(model, 2, average="votes")
    with pytest.raises(BadInput, match="as `example`, or say how many"):
        EOT(model)
    noisy = TorchModel(lambda x: x + torch.randn_like(x))
    for example in (np.ones((2, 3), np.uint8), "x", [["a", "b"]]):
        with pytest.raises(BadInput, match="example must be floats"):
            EOT(noisy, example=example)


def test_it_breaks_what_hides_behind_noise():
    """A gradient of one draw points anywhere; the mean of 30 finds the half-space."""
    x = torch.full((16, 20), 0.5)

    def hidden(x):
        z = x - 0.5
        flip = torch.randint(2, z.shape).float() * 8 - 3.5
        score = 0.2 + (z * flip).sum(dim=1)
        return torch.stack([score, -score], dim=1)

    labels = torch.zeros(16, dtype=torch.long)
    # The expected score is 0.2 + sum z / 2, so Linf 0.02 is the least.
    eot = EOT(TorchModel(hidden), 400)
    found = rk.run(rk.FMN(steps=20), eot, x, labels, norm="linf").distance
    assert found.median() < 0.04
    assert found.min() > 0.005


def test_wrappers_pass_through():
    module = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(3, 2))
    with pytest.warns(UserWarning, match="training mode"):
        plain = TorchModel(module)
    model = EOT(TorchModel(module, training=True), 4)
    assert model.wraps.wraps is None
    assert model.precise() is model
    assert model.fingerprint() != EOT(plain, 5).fingerprint() != plain.fingerprint()
    assert EOT(NumPyModel(lambda x: x), 2).fingerprint() is None
    tapped = model.at_layer("0")
    assert to_numpy(tapped.logits(points(2))).shape == (2, 3)
    assert to_numpy(model.logits(as_tensor(torch.zeros(0, 3)))).shape == (0, 2)


def test_how_a_model_draws_does_not_depend_on_the_first_sample():
    model = TorchModel(lambda x: x * (0.5 + torch.rand(())))
    x = as_tensor(torch.tensor([[0.0, 0.0], [0.5, 1.0]]))
    # Of zeros, all answers are alike.
    found = EOT(model, 100).logits(x).raw
    np.testing.assert_allclose(found[1], [0.5, 1.0], atol=0.1)
    assert torch.equal(EOT(model, 100).logits(x[1:]).raw, found[1:])


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_a_class_that_is_never_given_does_not_hide_the_others(average):
    allowed = torch.tensor([1.0, 1.0, 0.0])
    masked = EOT(TorchModel(lambda x: x + allowed.log()), 3, average=average)
    x = as_tensor(torch.tensor([[0.1, 0.4, 0.3]]))
    _, pull_back = masked.linearise(x)
    gradient = pull_back(as_tensor(torch.tensor([[1.0, -1.0, 0.0]]))).raw
    torch.testing.assert_close(gradient, torch.tensor([[1.0, -1.0, 0.0]]))
