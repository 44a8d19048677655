import numpy as np
import pytest

from robustkit.numerics.padding import MOST_SIZES, Padding, filled, first_rows

jnp = pytest.importorskip("jax.numpy")


@pytest.mark.parametrize("largest", [1, 2, 7, 100, 1000])
def test_few_sizes_each_at_least_what_is_needed(largest):
    padding = Padding()
    sizes = {count: padding.size(count) for count in range(largest, 0, -1)}
    assert all(size >= count for count, size in sizes.items())
    assert len(set(sizes.values())) <= MOST_SIZES
    assert sizes[largest] == largest


def test_filled_with_the_last_row_and_cut_again():
    raw = jnp.arange(6.0).reshape(3, 2)
    more = filled(raw, 5)
    assert np.array_equal(more[2:], np.tile([4.0, 5.0], (3, 1)))
    assert np.array_equal(first_rows(more, 3), raw)
    assert filled(raw, 3) is raw
    assert first_rows(raw, 3) is raw


def test_growing_batches_come_to_few_sizes():
    padding = Padding()
    counts = [*range(6, 97), *range(96, 0, -1)]
    sizes = [padding.size(count) for count in counts]
    assert all(size >= count for size, count in zip(sizes, counts, strict=True))
    assert set(sizes) == {6, 8, 16, 32, 64, 128, 2}
