import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from scipy import stats

from robustkit.numerics.random import Rng, sample_keys
from robustkit.numerics.tensors import as_tensor

KEYS = np.array([3, 2**64 - 1, 0, 17], dtype=np.uint64)


def rng(keys=KEYS, seed=5, step=0, dtype=np.float32, stream=0):
    reference = as_tensor(np.zeros((len(keys), 2), dtype=dtype))
    return Rng(seed, keys, step, reference, stream)


DRAWS = {
    "normal": lambda source: source.normal((3, 2)),
    "uniform": lambda source: source.uniform((3, 2), -1.0, 2.0),
    "integers": lambda source: source.integers(1_000_000),
}
each_draw = pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)


def drawn(draw, source):
    return draw(source).numpy()


class TestSampleKeys:
    def test_one_64_bit_key_per_sample(self):
        keys = sample_keys(np.random.default_rng(0).random((50, 3, 4)))
        assert keys.shape == (50,)
        assert keys.dtype == np.uint64
        assert len(set(keys.tolist())) == 50

    def test_none_for_an_empty_batch(self):
        keys = sample_keys(np.zeros((0, 3)))
        assert keys.shape == (0,)
        assert keys.dtype == np.uint64

    def test_equal_content_gives_equal_keys(self):
        keys = sample_keys(np.array([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0]]))
        assert keys[0] == keys[2] != keys[1]

    def test_a_key_does_not_depend_on_company_or_order(self):
        x = np.random.default_rng(1).random((6, 5))
        keys = sample_keys(x)
        order = np.array([4, 0, 5, 2])
        assert_array_equal(sample_keys(x[order]), keys[order])
        for row, key in zip(x, keys, strict=True):
            assert sample_keys(row[None]) == key

    def test_a_key_does_not_depend_on_precision_or_memory_layout(self):
        x = np.random.default_rng(2).random((4, 3, 5)).astype(np.float32)
        assert_array_equal(sample_keys(x.astype(np.float64)), sample_keys(x))
        assert_array_equal(sample_keys(np.asfortranarray(x)), sample_keys(x))

    def test_any_single_value_changes_the_key(self):
        x = np.zeros((1, 8))
        changed = x + np.eye(8) * 1e-6
        keys = {*sample_keys(x).tolist(), *sample_keys(changed).tolist()}
        assert len(keys) == 9

    def test_the_keys_are_the_same_in_every_release(self):
        # Recorded results and checkpoints depend on them.
        keys = sample_keys(np.array([[0.0, 0.5], [1.0, -2.0]]))
        assert keys.tolist() == [12911121518839214953, 16753243814136601595]


class TestIndependenceOfTheBatch:
    @each_draw
    def test_asking_again_gives_the_same_numbers(self, draw):
        assert_array_equal(drawn(draw, rng()), drawn(draw, rng()))

    @each_draw
    @given(rows=st.permutations(range(4)), kept=st.integers(0, 4))
    @settings(max_examples=20, deadline=None)
    def test_a_sample_alone_or_in_any_batch(self, draw, rows, kept):
        rows = np.array(rows[:kept], dtype=np.int64)
        assert_array_equal(drawn(draw, rng(KEYS[rows])), drawn(draw, rng())[rows])

    @each_draw
    def test_a_later_draw_when_others_were_dropped_before_it(self, draw):
        full, part = rng(), rng(KEYS[:1])
        for source in (full, part):
            source.normal((7,))
        assert_array_equal(drawn(draw, part), drawn(draw, full)[:1])

    @each_draw
    def test_the_size_of_an_earlier_draw_does_not_matter(self, draw):
        short, long = rng(), rng()
        short.normal((1,))
        long.normal((1000,))
        assert_array_equal(drawn(draw, short), drawn(draw, long))

    @each_draw
    def test_every_framework(self, draw, convert):
        reference = convert(np.zeros((4, 2)))
        numbers = draw(Rng(5, KEYS, 0, reference))
        assert type(numbers) is type(reference)
        np.testing.assert_allclose(numbers.numpy(), drawn(draw, rng()), rtol=1e-6)

    def test_numpys_global_generator_is_left_alone(self):
        before = np.random.get_state()[1].copy()  # noqa: NPY002
        rng().normal((3,))
        assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


class TestDifferentNumbers:
    @each_draw
    def test_for_another_seed(self, draw):
        assert not np.any(drawn(draw, rng(seed=5)) == drawn(draw, rng(seed=6)))

    @each_draw
    def test_for_the_largest_seed(self, draw):
        assert not np.any(drawn(draw, rng(seed=0)) == drawn(draw, rng(seed=2**63 - 1)))

    @each_draw
    def test_for_another_sample(self, draw):
        rows = drawn(draw, rng())
        for i in range(4):
            for j in range(i):
                assert not np.any(rows[i] == rows[j])

    @each_draw
    def test_for_another_step(self, draw):
        steps = [drawn(draw, rng(step=step)) for step in (-1, 0, 1, 2)]
        for i in range(4):
            for j in range(i):
                assert not np.any(steps[i] == steps[j])

    @each_draw
    def test_for_another_stream(self, draw):
        assert not np.any(drawn(draw, rng(stream=0)) == drawn(draw, rng(stream=1)))

    @each_draw
    def test_for_the_next_draw(self, draw):
        source = rng()
        assert not np.any(drawn(draw, source) == drawn(draw, source))

    def test_long_draws_of_neighbouring_steps_do_not_overlap(self):
        first = rng(KEYS[:1], step=0, dtype=np.float64).uniform((5000,)).numpy()
        second = rng(KEYS[:1], step=1, dtype=np.float64).uniform((5000,)).numpy()
        assert not set(first.ravel()) & set(second.ravel())


class TestShapeAndType:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_floats_take_the_dtype_of_the_reference(self, dtype):
        assert rng(dtype=dtype).normal((3, 2)).dtype == dtype
        assert rng(dtype=dtype).uniform((3, 2), -2.0, 1.0).dtype == dtype

    def test_a_torch_reference_in_double_precision(self):
        import torch

        reference = as_tensor(torch.zeros((4, 2), dtype=torch.float64))
        numbers = Rng(5, KEYS, 0, reference).normal((3,))
        assert numbers.dtype == torch.float64
        assert_array_equal(numbers.numpy(), rng(dtype=np.float64).normal((3,)).numpy())

    def test_double_precision_fills_all_53_bits(self):
        numbers = rng(dtype=np.float64).uniform((100,)).numpy()
        assert np.any(numbers != numbers.astype(np.float32))

    @pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3, 4), (0,)])
    def test_one_of_that_shape_per_sample(self, shape):
        assert rng().normal(shape).shape == (4, *shape)
        assert rng().uniform(shape).shape == (4, *shape)

    def test_one_integer_per_sample(self):
        numbers = rng().integers(10)
        assert numbers.shape == (4,)
        assert numbers.dtype == np.int64

    @each_draw
    def test_an_empty_batch(self, draw):
        assert len(drawn(draw, rng(KEYS[:0]))) == 0


class TestDistribution:
    def test_normal(self):
        numbers = rng(dtype=np.float64).normal((20_000,)).numpy()
        for row in numbers:
            assert abs(row.mean()) < 4 / np.sqrt(20_000)
            assert abs(row.var() - 1) < 4 * np.sqrt(2 / 20_000)
            assert stats.kstest(row, "norm").pvalue > 1e-3

    def test_uniform(self):
        numbers = rng().uniform((20_000,), -1.0, 3.0).numpy().astype(np.float64)
        for row in numbers:
            assert row.min() >= -1.0
            assert row.max() < 3.0
            assert abs(row.mean() - 1) < 4 * np.sqrt(16 / 12 / 20_000)
            assert stats.kstest(row, stats.uniform(-1, 4).cdf).pvalue > 1e-3

    def test_integers_over_samples(self):
        keys = np.arange(6000, dtype=np.uint64)
        numbers = rng(keys).integers(6).numpy()
        assert stats.chisquare(np.bincount(numbers, minlength=6)).pvalue > 1e-3

    def test_integers_below_one_are_zero(self):
        assert_array_equal(rng().integers(1).numpy(), 0)

    def test_neither_samples_nor_steps_nor_draws_are_correlated(self):
        columns = []
        for step in range(3):
            source = rng(step=step)
            columns += [
                *source.normal((5000,)).numpy(),
                *source.normal((5000,)).numpy(),
            ]
        correlation = np.corrcoef(columns) - np.eye(len(columns))
        assert np.abs(correlation).max() < 5 / np.sqrt(5000)


class TestSigns:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_ones_of_either_sign_as_often(self, dtype):
        values = rng(dtype=dtype).signs((100, 77)).numpy()
        assert values.dtype == dtype
        assert_array_equal(np.abs(values), 1)
        assert abs(values.mean()) < 4 / np.sqrt(values.size)

    def test_neighbours_and_samples_are_independent(self):
        values = rng().signs((20_000,)).numpy()
        limit = 4 / np.sqrt(20_000)
        assert abs((values[:, 1:] * values[:, :-1]).mean(axis=1)).max() < limit
        assert abs(np.corrcoef(values)[np.triu_indices(4, 1)]).max() < limit

    def test_a_sample_alone_and_another_step_or_draw(self):
        together = rng().signs((9, 9)).numpy()
        assert_array_equal(rng(KEYS[2:3]).signs((9, 9)).numpy(), together[2:3])
        source = rng()
        source.signs((1,))
        for other in (rng(step=1), rng(seed=6), rng(stream=1), source):
            assert 0.3 < (other.signs((9, 9)).numpy() == together).mean() < 0.7

    def test_fewer_of_them_are_the_first_of_more(self):
        assert_array_equal(
            rng().signs((5, 7)).numpy(), rng().signs((50, 7)).numpy()[:, :5]
        )


def test_the_numbers_of_some_samples_are_those_they_have_among_all():
    source = rng()
    source.normal((3,))
    part = source.of(np.array([2, 0]))
    expected = source.uniform((4,)).numpy()[[2, 0]]
    assert_array_equal(part.uniform((4,)).numpy(), expected)
