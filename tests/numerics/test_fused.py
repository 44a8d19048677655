import math
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from eagerpy.astensor import astensor

from robustkit.numerics import fused as unit
from robustkit.numerics.fused import compiler_missing, compiles, compiling, fused
from robustkit.numerics.norms import get_norm, tamed
from robustkit.numerics.tensors import (
    as_tensor,
    clip,
    differs,
    expand,
    like,
    reaches,
    to_numpy,
)


@pytest.fixture(scope="module")
def compiler():
    if reason := compiler_missing():
        pytest.skip(f"torch cannot compile here: {reason}")


def tensors(kind, count, features=5, seed=0):
    """A batch, and a number per sample, in one framework."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, features)).astype(np.float32)
    size = rng.uniform(size=count).astype(np.float32)
    if kind == "jax":
        jnp = pytest.importorskip("jax.numpy")
        # Past `as_tensor`, which would lend them to NumPy.
        return astensor(jnp.asarray(x)), astensor(jnp.asarray(size))
    if kind == "torch":
        return as_tensor(torch.from_numpy(x)), as_tensor(torch.from_numpy(size))
    return as_tensor(x), as_tensor(size)


@pytest.fixture(params=["unguarded", "guarded"])
def program(request, monkeypatch, compiler):
    """Each way to a program of torch: the direct one, and where that does not work."""

    def absent(*_):
        raise AttributeError("other versions of torch have no such thing")

    other = {"unguarded": "_guarded", "guarded": "_unguarded"}[request.param]
    monkeypatch.setattr(unit, other, absent)
    return request.param


class Counted:
    """A function that counts how often its Python runs."""

    def __init__(self):
        self.times = 0
        self.call = fused(self.function)

    def function(self, norm, x, size, share):
        self.times += 1
        inside = norm.project(x * share, size)
        return inside, norm(inside)


def both(function, *args):
    plain = function(*args)
    with compiling():
        return plain, function(*args)


@pytest.mark.parametrize("kind", ["torch", "jax"])
@pytest.mark.usefixtures("compiler")
def test_compiled_is_the_same_and_once_for_all_numbers_of_samples(kind):
    counted, norm = Counted(), get_norm("linf")
    with compiling():
        counted.call(norm, *tensors(kind, 40), 2.0)
    assert counted.times == 1
    for count, share in [(40, 0.5), (39, 3.0), (33, 1.0), (12, 0.25), (11, 2.0)]:
        args = (norm, *tensors(kind, count, seed=count), share)
        before = counted.times
        plain, fast = both(counted.call, *args)
        # The plain call; and for JAX one for each size that batches are filled up to.
        assert counted.times - before in ((1,) if kind == "torch" else (1, 2))
        for one, other in zip(plain, fast, strict=True):
            assert type(one) is type(other)
            assert one.shape == other.shape
            assert np.allclose(to_numpy(one), to_numpy(other), rtol=1e-6)


@pytest.mark.usefixtures("program")
def test_a_batch_may_be_as_long_as_its_images_are_wide():
    """Sizes that are equal at first and then are not."""

    @fused
    def turned(x, size):
        return x.transpose((0, 2, 1)) * expand(size, x)

    for count in (5, 3, 4):
        x, size = tensors("torch", count, features=25)
        plain, fast = both(turned, x.reshape((count, 5, 5)), size)
        assert np.array_equal(to_numpy(plain), to_numpy(fast))


@pytest.mark.usefixtures("program")
def test_the_same_tensor_twice_compiles_nothing_anew():
    times = 0

    @fused
    def ahead(x, before):
        nonlocal times
        times += 1
        return x * 2 - before

    x, other = (tensors("torch", 6, seed=seed)[0] for seed in (0, 1))
    with compiling():
        ahead(x, other)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for rows in (6, 4):
        same = x[:rows]
        for pair in ((same, same), (x[:rows], x[:rows])):
            with compiling():
                fast = ahead(*pair)
            assert np.array_equal(to_numpy(fast), to_numpy(same))
    assert times == 1
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs


@pytest.mark.usefixtures("compiler")
def test_arguments_that_look_alike_are_told_apart(recwarn):
    @fused
    def less(x, y):
        return (x - y) * 1.0

    @fused
    def doubled(x, wanted):
        return x * 2 if wanted is True else x * 1.5

    x, size = tensors("torch", 6)
    one = as_tensor(torch.tensor(0.25))
    with compiling():
        for pair in ((size, 0.5), (0.5, size), (size, one), (one, size), (size, size)):
            first, second = (v if isinstance(v, float) else to_numpy(v) for v in pair)
            assert np.allclose(to_numpy(less(*pair)), first - second)
        assert np.array_equal(to_numpy(doubled(x, True)), 2 * to_numpy(x))
        assert np.array_equal(to_numpy(doubled(x, 1)), 1.5 * to_numpy(x))
    assert not recwarn.list


@pytest.mark.usefixtures("compiler")
def test_threads_may_compile_at_once(recwarn):
    filters = len(warnings.filters)
    functions = [fused(lambda x, size, k=k: x * expand(size, x) + k) for k in range(3)]

    def work(function):
        x, size = tensors("torch", 6)
        plain = to_numpy(function(x, size))
        with compiling():
            return np.allclose(to_numpy(function(x, size)), plain)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, functions * 3))
    assert len(warnings.filters) == filters
    assert not recwarn.list


def test_jax_compiles_for_at_most_four_numbers_of_samples():
    counted, norm = Counted(), get_norm("linf")
    with compiling():
        for count in (70, 69, 18, 17, 5, 4, 2, 1):
            inside, size = counted.call(norm, *tensors("jax", count), 1.0)
            assert inside.shape == (count, 5)
            assert size.shape == (count,)
    assert counted.times == 4


def test_arrays_of_numpy_are_worked_on_plainly():
    counted, norm = Counted(), get_norm("linf")
    for times in (1, 2):
        with compiling():
            counted.call(norm, *tensors("numpy", 8), 1.0)
        assert counted.times == times


@pytest.mark.usefixtures("program")
def test_a_single_sample_may_come_first_and_last():
    counted, norm = Counted(), get_norm("linf")
    for count in (1, 7, 1):
        plain, fast = both(counted.call, norm, *tensors("torch", count), 2.0)
        for one, other in zip(plain, fast, strict=True):
            assert np.allclose(to_numpy(one), to_numpy(other), rtol=1e-6)


@pytest.mark.usefixtures("compiler")
def test_what_depends_on_the_number_of_samples_runs_as_it_is():
    """A program would be right for the first number only."""

    @fused
    def scaled(x):
        return x * 2 if x.shape[0] > 30 else x * 3

    with compiling():
        with pytest.warns(UserWarning, match="numbers of samples"):
            scaled(tensors("torch", 40)[0])
        for count, factor in [(20, 3), (40, 2)]:
            x = tensors("torch", count)[0]
            assert np.array_equal(to_numpy(scaled(x)), factor * to_numpy(x))


@pytest.mark.usefixtures("compiler")
def test_what_a_function_calls_is_compiled_with_it():
    inner = Counted()

    @fused
    def outer(norm, x, size):
        return inner.call(norm, x, size, 1.0)[1] * 2

    x, size = tensors("torch", 6)
    with compiling():
        first = outer(get_norm("linf"), x, size)
        again = outer(get_norm("linf"), x, size)
    assert inner.times == 1
    assert np.allclose(to_numpy(first), to_numpy(again))


@pytest.mark.usefixtures("compiler")
def test_what_cannot_be_compiled_runs_as_it_is_and_says_so_once():
    @fused
    def shrunk(x, size):
        largest = max(to_numpy(size).tolist())
        return x * largest

    x, size = tensors("torch", 4)
    with compiling():
        with pytest.warns(UserWarning, match="'shrunk' cannot be compiled"):
            first = shrunk(x, size)
        again = shrunk(x, size)
    assert np.array_equal(to_numpy(first), to_numpy(again))
    assert np.array_equal(to_numpy(first), to_numpy(shrunk(x, size)))


def test_without_a_compiler_it_runs_as_it_is(monkeypatch):
    def missing(*_, **__):
        raise RuntimeError("no C++ compiler\nand much more")

    monkeypatch.setattr(unit, "_unguarded", missing)
    monkeypatch.setattr(torch, "compile", missing)
    counted = Counted()
    x, size = tensors("torch", 4)
    with compiling(), pytest.warns(UserWarning, match=r"no C\+\+ compiler\)$"):
        inside, _ = counted.call(get_norm("linf"), x, size, 1.0)
    assert np.array_equal(to_numpy(inside), to_numpy(get_norm("linf").project(x, size)))


def test_errors_of_the_function_itself_are_its_own(monkeypatch):
    @fused
    def wrong(x):
        raise ValueError("no such norm")

    monkeypatch.setattr(torch, "compile", None)
    with (
        compiling(),
        pytest.warns(UserWarning, match="'wrong' cannot be compiled"),
        pytest.raises(ValueError, match="no such norm"),
    ):
        wrong(tensors("torch", 4)[0])


def test_the_wish_to_compile_ends_with_its_block():
    assert not compiles()
    with compiling():
        with compiling(False):
            assert not compiles()
        assert compiles()
    assert not compiles()


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradients_are_tamed_alike(dtype):
    """Tiny and huge ones too, whose squares are no numbers of the dtype."""
    norm = get_norm("l2")

    @fused
    def dual(x):
        gradient, size, unit = tamed(x)
        return gradient / expand(size, gradient), size * unit

    x, _ = tensors("torch", 4)
    scale = np.array([[1.0], [1e-25], [1e25], [1e-3]])
    x = like(x, (to_numpy(x) * scale).astype(dtype))
    plain, fast = both(dual, x)
    for one, other in zip(plain, fast, strict=True):
        assert np.allclose(to_numpy(one), to_numpy(other), rtol=1e-5)
        assert np.isfinite(to_numpy(other)).all()
    assert math.isclose(to_numpy(norm(plain[0]))[1], 1.0, rel_tol=1e-5)


@pytest.mark.usefixtures("program")
def test_double_precision_stays_double():
    @fused
    def scaled(x, share):
        return x * share

    x = as_tensor(torch.ones(3, 2, dtype=torch.float64))
    _, fast = both(scaled, x, 1 / 3)
    assert fast.dtype == torch.float64
    assert to_numpy(fast)[0, 0] == 1 / 3


@pytest.mark.usefixtures("program")
def test_tensors_may_be_views_of_any_layout():
    @fused
    def product(x, size):
        return x * expand(size, x), x

    whole = torch.rand(6, 8, 4)
    for raw in (whole, whole[:, ::2], whole.permute(1, 0, 2)[:6], whole[::2, 1:3]):
        x, sizes = as_tensor(raw), as_tensor(torch.rand(len(raw), 3)[:, 1])
        for plain, fast in zip(*both(product, x, sizes), strict=True):
            assert np.array_equal(to_numpy(plain), to_numpy(fast))
        tracked = as_tensor(raw.clone().requires_grad_())
        assert not any(
            out.raw.requires_grad for out in both(product, tracked, sizes)[1]
        )


@pytest.mark.usefixtures("program")
def test_channels_may_lie_last():
    # As gradients do that some networks give, on GPUs above all.
    raw = torch.rand(4, 3, 5, 5).contiguous(memory_format=torch.channels_last)
    x, size = as_tensor(raw), as_tensor(torch.rand(4, 1, 1, 1))

    def function(x, size):
        return clip(x, size * 0.2, size), differs(x, size), reaches(x, size)

    call, channels_first = fused(function), as_tensor(raw.contiguous())
    for given in (channels_first, x, channels_first):
        for plain, fast in zip(*both(call, given, size), strict=True):
            torch.testing.assert_close(plain.raw, fast.raw)
