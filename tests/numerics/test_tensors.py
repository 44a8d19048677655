"""Every function in every framework against NumPy."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.testing import assert_allclose, assert_array_equal

from robustkit.errors import BadInput
from robustkit.numerics import tensors
from robustkit.numerics.tensors import Array, Tensor

MIXED = [[1.0, -2.0, 3.0], [0.0, 0.5, -4.0]]
BROKEN = [
    [1.0, 2.0],
    [math.nan, 2.0],
    [1.0, math.inf],
    [-math.inf, 0.0],
    [math.inf, -math.inf],
    [3e38, -3e38],
]


def agrees(found: Tensor, expected, like: Tensor):
    """Whether `found` holds `expected`, in the framework of `like`."""
    assert type(found) is type(like)
    assert found.shape == np.shape(expected)
    assert_allclose(found.numpy(), expected, rtol=1e-6)


def test_every_public_name_exists():
    assert all(hasattr(tensors, name) for name in tensors.__all__)
    assert tensors.__all__ == sorted(tensors.__all__)


class TestConversion:
    def test_a_tensor_stays_itself(self, convert):
        x = tensors.as_tensor(convert(MIXED))
        assert tensors.as_tensor(x) is x

    def test_a_native_array_is_wrapped(self, convert):
        x = tensors.as_tensor(convert(MIXED))
        agrees(tensors.as_tensor(tensors.native(x).raw), MIXED, like=x)

    def test_numpy_works_on_what_jax_holds_on_a_processor(self):
        jnp = pytest.importorskip("jax.numpy")
        array = jnp.asarray(MIXED)
        x = tensors.as_tensor(array)
        assert tensors.framework_of(x) == "numpy"
        x.raw[0] = 0.0
        assert_array_equal(array, MIXED)
        back = tensors.native(x)
        assert isinstance(back.raw, type(array))
        x.raw[1] = 7.0
        assert_array_equal(back.raw, [[0.0, 0.0, 0.0], MIXED[1]])
        assert type(tensors.as_tensor(back)) is type(x)

    def test_what_jax_only_follows_stays_with_it(self):
        jax = pytest.importorskip("jax")
        followed = jax.jit(lambda x: (tensors.as_tensor(x) * 2).raw)
        assert_array_equal(followed(np.float32([1.0, 2.0])), [2.0, 4.0])

    @pytest.mark.parametrize("values", [[1.0, 2.0], 3.0, "text", None])
    def test_anything_else_is_refused(self, values):
        with pytest.raises(ValueError, match="type"):
            tensors.as_tensor(values)

    def test_to_numpy(self, convert):
        found = tensors.to_numpy(convert(MIXED))
        assert type(found) is np.ndarray
        assert found.dtype == np.float32
        assert_array_equal(found, MIXED)

    def test_to_numpy_detaches(self):
        import torch

        x = tensors.as_tensor(torch.tensor(MIXED, requires_grad=True))
        assert_array_equal(tensors.to_numpy(x), MIXED)

    @pytest.mark.parametrize("dtype", [np.float32, np.int32, np.bool_])
    def test_like_keeps_the_dtype(self, convert, dtype):
        values = np.array([[0, 1], [2, 0]]).astype(dtype)
        found = tensors.like(convert(MIXED), values)
        agrees(found, values, like=convert(MIXED))
        assert found.numpy().dtype == dtype

    def test_like_accepts_any_memory_layout(self, convert):
        values = np.arange(12, dtype=np.float32).reshape(3, 4)
        for view in (values.T, values[::-1], values[:, ::2]):
            agrees(tensors.like(convert(MIXED), view), view, like=convert(MIXED))

    @pytest.mark.parametrize("value", [0.0, -2.5, math.inf])
    def test_full(self, convert, value):
        x = convert(np.zeros((3, 2, 2)))
        found = tensors.full(x, value)
        agrees(found, [value] * 3, like=x)
        assert found.dtype == x.dtype

    def test_full_in_double_precision(self):
        assert tensors.full(tensors.as_tensor(np.zeros((2, 2))), 1).dtype == np.float64


class TestShape:
    @pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3), (2,), (0, 3, 4), (2, 0, 4)])
    def test_flatten(self, convert, shape):
        x = np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
        expected = x.reshape(shape[0], math.prod(shape[1:]))
        agrees(tensors.flatten(convert(x)), expected, like=convert(x))

    @pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3), (2,), (0, 3)])
    def test_expand(self, convert, shape):
        values = np.arange(shape[0], dtype=np.float32)
        found = tensors.expand(convert(values), convert(np.zeros(shape)))
        expected = values.reshape((shape[0],) + (1,) * (len(shape) - 1))
        agrees(found, expected, like=convert(values))

    def test_stack_rows(self, convert):
        one, two = convert(MIXED), convert([[7.0, 8.0, 9.0]])
        agrees(tensors.stack_rows([one, two]), [*MIXED, [7.0, 8.0, 9.0]], like=one)

    def test_stack_rows_of_one_part(self, convert):
        agrees(tensors.stack_rows([convert(MIXED)]), MIXED, like=convert(MIXED))

    def test_stack_rows_with_an_empty_part(self, convert):
        parts = [convert(np.zeros((0, 3))), convert(MIXED)]
        agrees(tensors.stack_rows(parts), MIXED, like=parts[0])

    def test_stack_columns(self, convert):
        one, two = convert(MIXED), convert([[7.0], [8.0]])
        expected = [[1.0, -2.0, 3.0, 7.0], [0.0, 0.5, -4.0, 8.0]]
        agrees(tensors.stack_columns([one, two]), expected, like=one)


class TestElementwise:
    @pytest.mark.parametrize("y", [0.25, [[1.0, 1.0, -5.0]], MIXED[::-1]])
    def test_minimum_and_maximum(self, convert, y):
        x = convert(MIXED)
        other = y if isinstance(y, float) else convert(y)
        agrees(tensors.minimum(x, other), np.minimum(MIXED, y), like=x)
        agrees(tensors.maximum(x, other), np.maximum(MIXED, y), like=x)
        assert tensors.minimum(x, other).dtype == x.dtype
        assert tensors.maximum(x, other).dtype == x.dtype

    @pytest.mark.parametrize("shape", [(2, 3), (2, 1), (1, 3)])
    def test_clip_by_tensors_that_broadcast(self, convert, shape):
        lower = np.linspace(-1.5, -0.5, math.prod(shape)).reshape(shape)
        upper = np.linspace(0.5, 2.5, math.prod(shape)).reshape(shape)
        found = tensors.clip(convert(MIXED), convert(lower), convert(upper))
        agrees(found, np.clip(MIXED, lower, upper), like=convert(MIXED))

    def test_where_takes_tensors_and_numbers(self, convert):
        x, mask = convert(MIXED), convert(np.array(MIXED) > 0)
        rows = np.array(MIXED) > 0
        agrees(tensors.where(mask, x, 0.0), np.where(rows, MIXED, 0.0), like=x)
        agrees(tensors.where(mask, 9.0, x), np.where(rows, 9.0, MIXED), like=x)
        agrees(tensors.where(mask, x, -x), np.abs(MIXED), like=x)
        assert tensors.where(mask, x, 0.0).dtype == x.dtype

    def test_where_spreads_a_mask_over_the_sample_axes(self, convert):
        x = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
        mask = convert(np.array([True, False]))
        expected = np.stack([x[0], -x[1]])
        agrees(tensors.where(mask, convert(x), -convert(x)), expected, like=convert(x))
        agrees(tensors.where(mask, convert(x), 0.0)[1], 0 * x[1], like=convert(x))
        agrees(tensors.where(mask, 0.0, convert(x))[0], 0 * x[0], like=convert(x))

    def test_finite_or_zero(self, convert):
        found = tensors.finite_or_zero(convert(BROKEN))
        expected = np.nan_to_num(BROKEN, nan=0.0, posinf=0.0, neginf=0.0)
        agrees(found, expected, like=convert(BROKEN))


class TestPerSample:
    @pytest.mark.parametrize("shape", [(3, 2, 4), (3, 5), (3,), (0, 4)])
    def test_total(self, convert, shape):
        x = np.random.default_rng(0).normal(size=shape)
        expected = x.reshape(shape[0], math.prod(shape[1:])).sum(axis=1)
        assert_allclose(tensors.total(convert(x)).numpy(), expected, rtol=1e-4)

    @pytest.mark.parametrize("order", [1, 2, math.inf])
    @pytest.mark.parametrize("shape", [(3, 2, 4), (3, 1), (3,), (0, 4)])
    def test_magnitude(self, convert, order, shape):
        x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
        flat = x.reshape(shape[0], math.prod(shape[1:]))
        expected = np.array([np.linalg.norm(row, order) for row in flat])
        agrees(tensors.magnitude(convert(x), order), expected, like=convert(x))

    @pytest.mark.parametrize("order", [1, 2, math.inf])
    def test_magnitude_of_nothing_is_zero(self, convert, order):
        x = convert(np.zeros((2, 0)))
        agrees(tensors.magnitude(x, order), [0.0, 0.0], like=x)

    def test_cumulative_sum(self, convert):
        expected = [[1.0, -1.0, 2.0], [0.0, 0.5, -3.5]]
        agrees(tensors.cumulative_sum(convert(MIXED)), expected, like=convert(MIXED))


class TestDifferentiate:
    AT = [[0.5, -1.0, 2.0], [1.5, 0.25, -0.5]]

    def check(self, convert, function, values, slopes):
        found_values, found_slopes = tensors.differentiate(function, convert(self.AT))
        assert type(found_values) is type(found_slopes) is type(convert(self.AT))
        assert found_slopes.dtype == convert(self.AT).dtype
        assert_allclose(found_values.numpy(), values, rtol=1e-5)
        assert_allclose(found_slopes.numpy(), slopes, rtol=1e-4, atol=1e-5)

    def test_a_square(self, convert):
        at = np.array(self.AT)
        self.check(
            convert, lambda x: x.square().sum(axis=1), (at**2).sum(axis=1), 2 * at
        )

    def test_a_maximum(self, convert):
        slopes = [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
        self.check(convert, lambda x: x.max(axis=1), [2.0, 1.5], slopes)

    def test_log_sum_exp(self, convert):
        power = np.exp(self.AT)
        sums = power.sum(axis=1, keepdims=True)
        self.check(
            convert,
            lambda x: x.exp().sum(axis=1).log(),
            np.log(sums[:, 0]),
            power / sums,
        )

    def test_large_values_in_single_precision(self, convert):
        at = convert([[1000.0, 3000.0]])
        _, slopes = tensors.differentiate(lambda x: x[:, 0] * x[:, 1], at)
        assert_allclose(slopes.numpy(), [[3000.0, 1000.0]], rtol=1e-4)

    @pytest.mark.filterwarnings("error")
    def test_infinite_arguments_leave_the_other_slopes_alone(self, convert):
        at = convert([[1.0, -math.inf, 2.0], [0.5, 0.25, math.inf]])
        values, slopes = tensors.differentiate(lambda x: x[:, 0] - x[:, 2], at)
        assert_array_equal(values.numpy(), [-1.0, -math.inf])
        assert_allclose(slopes.numpy()[0], [1.0, 0.0, -1.0], atol=1e-4)
        _, slopes = tensors.differentiate(lambda x: x[:, :2].max(axis=1), at)
        assert_allclose(slopes.numpy(), [[1.0, 0.0, 0.0]] * 2, atol=1e-4)

    def test_the_argument_stays_as_it_was(self, convert):
        at = convert(self.AT)
        tensors.differentiate(lambda x: x.square().sum(axis=1), at)
        assert_array_equal(at.numpy(), np.array(self.AT, dtype=np.float32))
        assert not getattr(at.raw, "requires_grad", False)

    def test_torch_leaves_parameters_alone_and_works_without_gradients(self):
        import torch

        weight = torch.ones(3, requires_grad=True)
        at = tensors.as_tensor(torch.tensor(self.AT))
        with torch.no_grad():
            values, slopes = tensors.differentiate(
                lambda x: tensors.as_tensor(x.raw @ weight), at
            )
        assert weight.grad is None
        assert not values.raw.requires_grad
        assert_array_equal(slopes.numpy(), np.ones((2, 3)))


@dataclasses.dataclass(frozen=True)
class Inner:
    values: Tensor
    name: str


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner
    numbers: Array
    pair: tuple[Tensor, int]
    rate: float = 0.5
    nothing: Tensor | None = None


class TestTake:
    ROWS = np.array([2, 0])

    def test_a_tensor(self, convert):
        x = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
        agrees(tensors.take(convert(x), self.ROWS), x[self.ROWS], like=convert(x))

    def test_an_array(self):
        assert_array_equal(tensors.take(np.array([5, 6, 7]), self.ROWS), [7, 5])

    def test_repeated_rows(self, convert):
        found = tensors.take(convert([1.0, 2.0, 3.0]), np.array([1, 1, 2, 1]))
        assert found.numpy().tolist() == [2.0, 2.0, 3.0, 2.0]

    def test_no_rows(self, convert):
        found = tensors.take(convert(np.zeros((3, 2))), np.zeros(0, dtype=np.int64))
        assert found.shape == (0, 2)

    def test_labels_and_masks_keep_their_dtype(self, convert):
        for values in (
            np.array([1, 2, 3], dtype=np.int32),
            np.array([True, False, True]),
        ):
            found = tensors.take(convert(values), self.ROWS).numpy()
            assert found.dtype == values.dtype
            assert_array_equal(found, values[self.ROWS])

    def test_nested_dataclasses_and_tuples(self, convert):
        values = np.array([[1.0], [2.0], [3.0]], dtype=np.float32)
        tree = Outer(
            inner=Inner(convert(values), "kept"),
            numbers=np.array([10, 20, 30]),
            pair=(convert(-values), 4),
        )
        found = tensors.take(tree, self.ROWS)
        assert isinstance(found, Outer)
        agrees(found.inner.values, values[self.ROWS], like=convert(values))
        assert found.inner.name == "kept"
        assert_array_equal(found.numbers, [30, 10])
        assert isinstance(found.pair, tuple)
        agrees(found.pair[0], -values[self.ROWS], like=convert(values))
        assert found.pair[1] == 4
        assert found.rate == 0.5
        assert found.nothing is None
        # The original is whole.
        assert tree.inner.values.shape == (3, 1)

    @pytest.mark.parametrize("setting", ["text", 3, None, [1, 2, 3], Inner])
    def test_what_holds_no_tensors_is_kept(self, setting):
        assert tensors.take(setting, self.ROWS) is setting


class TestPut:
    def test_replaces_these_rows_in_a_copy(self, convert):
        x = convert(np.arange(8, dtype=np.float32).reshape(4, 2))
        found = tensors.put(x, np.array([3, 1]), convert([[-1.0, -2.0], [-3.0, -4.0]]))
        expected = [[0.0, 1.0], [-3.0, -4.0], [4.0, 5.0], [-1.0, -2.0]]
        agrees(found, expected, like=x)
        assert_array_equal(x.numpy(), np.arange(8).reshape(4, 2))

    def test_does_not_alter_the_array_it_was_made_from(self):
        values = np.zeros((2, 2))
        tensors.put(
            tensors.as_tensor(values), np.array([0]), tensors.as_tensor(np.ones((1, 2)))
        )
        assert not values.any()

    def test_per_sample_values_and_labels(self, convert):
        x = convert(np.array([1, 2, 3], dtype=np.int32))
        found = tensors.put(x, np.array([1]), convert(np.array([9], dtype=np.int32)))
        assert found.numpy().tolist() == [1, 9, 3]

    def test_no_rows(self, convert):
        none = np.zeros(0, dtype=np.int64)
        found = tensors.put(convert(MIXED), none, convert(np.zeros((0, 3))))
        agrees(found, MIXED, like=convert(MIXED))

    @given(
        x=arrays.arrays(np.int32, (5, 2)),
        values=arrays.arrays(np.int32, (5, 2)),
        rows=st.lists(st.integers(0, 4), unique=True).map(np.int64),
    )
    @settings(max_examples=10, deadline=None)
    def test_what_was_put_can_be_taken(self, convert, x, values, rows):
        put = tensors.put(convert(x), rows, convert(values[: len(rows)]))
        assert_array_equal(tensors.take(put, rows).numpy(), values[: len(rows)])
        others = np.setdiff1d(np.arange(5), rows)
        assert_array_equal(tensors.take(put, others).numpy(), x[others])


@pytest.mark.parametrize("count", [0, 3, 1000])
def test_looks_at_small_and_large_arrays(count):
    values = np.random.default_rng(0).normal(size=count)
    assert tensors.extent(values) == (
        values.min(initial=np.inf),
        values.max(initial=-np.inf),
    )
    assert not tensors.any_true(values > np.inf)
    assert not tensors.any_nan(values)
    if count:
        values[count // 2] = np.nan
        assert tensors.any_nan(values)
        assert tensors.any_true(np.isnan(values))


@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize("features", [5, 600])
def test_put_rows(convert, features, reuse):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, features)).astype(np.float32)
    values = rng.normal(size=(4, features)).astype(np.float32)
    rows, which = np.array([5, 2]), np.array([0, 3])
    expected = x.copy()
    expected[rows] = values[which]
    into = convert(x.copy())
    out = tensors.put_rows(into, rows, convert(values), which, reuse=reuse)
    assert_array_equal(tensors.to_numpy(out), expected)
    if not reuse:
        assert_array_equal(tensors.to_numpy(into), x)


@pytest.mark.parametrize("features", [5, 600])
def test_minus_rows(convert, features):
    x, y = np.random.default_rng(0).normal(size=(2, 6, 1, features)).astype(np.float32)
    rows, others = np.array([5, 2, 0]), np.array([1, 1, 4])
    given = convert(x.copy()), convert(y.copy())
    out = tensors.minus_rows(given[0], rows, given[1], others)
    agrees(out, x[rows] - y[others], like=given[0])
    assert_array_equal(tensors.to_numpy(given[0]), x)
    assert_array_equal(tensors.to_numpy(given[1]), y)


def test_signed(convert):
    x, size = np.array([[-2.0, 0.0, 3.0], [1.0, -1.0, 0.0]]), np.array([0.5, 2.0])
    out = tensors.signed(convert(x.copy()), convert(size))
    assert_array_equal(tensors.to_numpy(out), np.sign(x) * size[:, None])


@pytest.mark.parametrize("columns", [3, 500])
def test_highest(convert, columns):
    values = np.random.default_rng(0).permuted(
        np.tile(np.arange(columns, dtype=np.float32), (2, 1)), axis=1
    )
    found, places = tensors.highest(convert(values), 3)
    top = np.arange(columns)[::-1][:3]
    assert_array_equal(found.numpy(), [top, top])
    assert_array_equal(np.take_along_axis(values, places.numpy(), axis=1), [top, top])


@pytest.mark.parametrize("columns", [3, 500])
def test_top(convert, columns):
    values = np.random.default_rng(0).normal(size=(2, columns)).astype(np.float32)
    agrees(tensors.top(convert(values), 2), -np.sort(-values)[:, :2], convert(values))
    agrees(tensors.top(convert(values[:0]), 2), np.zeros((0, 2)), convert(values))


def test_together(convert):
    one, other = convert(np.array([1.0, 2.0])), convert(np.array([3.0, 4.0]))
    found = tensors.together(one, other)
    assert all(type(values) is np.ndarray for values in found)
    assert_array_equal(found, [[1, 2], [3, 4]])


@pytest.mark.parametrize("reuse", [False, True])
def test_arithmetic_in_memory_that_may_be_reused(convert, reuse):
    x, y = np.array(MIXED, dtype=np.float32), convert(np.array([[1.0, 0.5, 3.0]]))
    agrees(tensors.plus(convert(x), y, reuse=reuse), x + y.numpy(), y)
    whole = convert(np.array([[1.0, 0.5, 3.0], [2.0, 0.0, -1.0]], np.float32))
    expected = x - whole.numpy()
    agrees(tensors.minus(convert(x), whole, reuse=reuse), expected, y)
    agrees(tensors.times(convert(x), y, reuse=reuse), x * y.numpy(), y)
    agrees(tensors.times(convert(x), 3.0, reuse=reuse), 3 * x, y)
    agrees(tensors.clip(convert(x), -1.0, 0.5, reuse=reuse), x.clip(-1, 0.5), y)
    agrees(tensors.differs(convert(x), y, reuse=reuse), x != y.numpy(), y)
    agrees(tensors.differs(convert(x), 3.0, reuse=reuse), x != 3, y)


def test_just_below(convert):
    values = [0.0, 1.0, -1.0, 3e7, 1e-38, -1e-42, math.inf, -math.inf, math.nan]
    for x in (convert(values), tensors.as_tensor(np.array(values))):
        found = tensors.just_below(x)
        # As the framework itself sees it, which may take the least numbers for zero.
        assert (found < x).numpy().tolist() == [True] * 7 + [False] * 2
        near = 2 * tensors.rounding(x)
        assert_allclose(found.numpy()[:6], values[:6], rtol=near, atol=1e-37)
        assert math.isnan(found.numpy()[-1])
        assert type(found) is type(x)


def test_without_reuse_the_argument_stays(convert):
    x, y = convert(MIXED), convert([[1.0, 0.5, 3.0]])
    tensors.plus(x, y)
    tensors.minus(x, x)
    tensors.times(x, y)
    tensors.differs(x, y)
    tensors.clip(x, 0.0, 1.0)
    assert_array_equal(x.numpy(), MIXED)


def test_reaches_and_excess(convert):
    x, level = convert(MIXED), convert([1.0, 0.25])
    agrees(tensors.reaches(x, 1.0), np.array(MIXED) >= 1, x)
    agrees(tensors.reaches(x, level.expand_dims(1)), [[1, 0, 1], [0, 1, 0]], x)
    over, count = tensors.excess(x, level)
    agrees(over, [2.0, 0.25], x)
    agrees(count, [1.0, 1.0], x)


def test_spread(convert):
    values = convert([[1.0, 2.0], [3.0, 4.0]])
    found = tensors.spread(values, convert(np.array([[3, 0], [1, 2]])), 4)
    agrees(found, [[2, 0, 0, 1], [0, 3, 4, 0]], values)


def test_choose_takes_rows_of_one_state_or_the_other(convert):
    @dataclasses.dataclass(frozen=True)
    class Inner:
        values: Tensor
        name: str

    @dataclasses.dataclass(frozen=True)
    class State:
        batch: Tensor
        inner: Inner

    ones, zeros = np.ones((3, 2, 2)), np.zeros((3, 2, 2))
    yes = State(convert(ones), Inner(convert(ones[:, 0, 0]), "yes"))
    no = State(convert(zeros), Inner(convert(zeros[:, 0, 0]), "no"))
    chosen = tensors.choose(convert([True, False, True]), yes, no)
    assert_array_equal(chosen.batch.numpy()[:, 0, 1], [1, 0, 1])
    assert_array_equal(chosen.inner.values.numpy(), [1, 0, 1])
    assert chosen.inner.name == "yes"


def test_matmul_multiplies_each_matrix(convert):
    x = np.arange(24.0).reshape(2, 3, 4)
    y = np.arange(20.0).reshape(4, 5)
    agrees(tensors.matmul(convert(x), convert(y)), x @ y, convert(x))
    several = np.arange(40.0).reshape(2, 4, 5)
    agrees(tensors.matmul(convert(x), convert(several)), x @ several, convert(x))
    agrees(tensors.matmul(convert(x[0]), convert(several)), x[0] @ several, convert(x))


@pytest.mark.parametrize("reuse", [False, True])
def test_outer_products_are_added_to_each_matrix(convert, reuse):
    x, column = np.arange(24.0).reshape(2, 3, 4), np.arange(6.0).reshape(2, 3)
    row = np.arange(8.0).reshape(2, 4)
    expected = x + column[:, :, None] * row[:, None]
    parts = convert(x.copy()), convert(column), convert(row)
    agrees(tensors.plus_outer(*parts, reuse=reuse), expected, convert(x))


@pytest.mark.parametrize("columns", [5, 8192, 8193, 20_000])
def test_no_inner_product_depends_on_other_rows(convert, columns):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 5, columns)).astype(np.float32)
    together = tensors.inner_product(convert(x), convert(y)).numpy()
    assert_allclose(together, (x.astype(float) * y).sum(axis=1), rtol=1e-3, atol=1e-3)
    for row in range(5):
        alone = tensors.inner_product(convert(x[[row]]), convert(y[[row]]))
        assert alone.numpy()[0] == together[row]


@pytest.mark.parametrize("change", [torch.Tensor.to_sparse, lambda x: x.to("meta")])
def test_what_is_no_dense_array_is_told(change):
    with pytest.raises(BadInput, match="expected 'x' as one array"):
        tensors.as_array(change(torch.eye(2)), "x")
