import math
import tracemalloc

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from robustkit.evaluation.originals import DRAWN, Originals, drawn
from robustkit.evaluation.shards import Shard, ShardKey


def shards_of(index, label, found):
    """As attacks leave them; `found` by (norm, attack): (n,) distances."""
    return [
        Shard(
            ShardKey(0, place, norm, attack, ""),
            "".join(f"{i},\n" for i in index),
            label[index],
            index[kept],
            label[index][kept],
            distance[index][kept],
            index[kept][:, None],
        )
        for place, ((norm, attack), distance) in enumerate(found.items())
        for kept in [np.isfinite(distance[index])]
    ]


def chosen(batches, x, label, found, parts=None):
    keeper = Originals(len(found) if parts is None else parts)
    for index in batches:
        keeper.add(index, x[index])
        for shard in shards_of(index, label, found):
            keeper.finish(shard)
    return keeper.arrays()


def expected(label, found):
    """From everything at once."""
    every = np.arange(len(label))
    kept = set(every[drawn(every)].tolist())
    for norm in {norm for norm, _ in found}:
        distance = np.min([d for (n, _), d in found.items() if n == norm], axis=0)
        order = [i for i in np.lexsort((every, distance)) if np.isfinite(distance[i])]
        firsts = {}
        for i in order:
            firsts.setdefault(label[i], i)
        kept |= {*order[:5], *order[-1:], *list(firsts.values())[:10]}
    return sorted(map(int, kept))


@given(st.integers(0, 2**20), st.integers(1, 90), st.integers(1, 40), st.booleans())
@settings(max_examples=40, deadline=None)
def test_the_same_whatever_the_batches_and_parts(seed, count, size, merged):
    rng = np.random.default_rng(seed)
    x = rng.random((count, 2)).astype(np.float32)
    label = rng.integers(0, 15, count)
    # Few different sizes, so that some are equal.
    sizes = np.array([1.0, 2.0, 3.0, 4.0, math.inf])
    found = {
        (norm, attack): sizes[rng.integers(0, len(sizes), count)]
        for norm in ("l2", "linf")
        for attack in ("one", "two")
    }
    batches = [
        np.arange(start, min(start + size, count)) for start in range(0, count, size)
    ]
    if merged:
        parts = [chosen(batches[part::3], x, label, found) for part in range(3)]
        whole = Originals(len(found))
        for part in filter(None, reversed(parts)):
            whole.choose(
                part["index"], part["x"], shards_of(part["index"], label, found)
            )
        kept = whole.arrays()
    else:
        rng.shuffle(batches)
        kept = chosen(batches, x, label, found)
    assert kept["index"].tolist() == expected(label, found)
    np.testing.assert_array_equal(kept["x"], x[kept["index"]])
    assert len(kept["index"]) <= DRAWN + 2 * 16
    # Those drawn are told from the others by their positions alone.
    every = np.arange(count)
    np.testing.assert_array_equal(
        kept["index"][drawn(kept["index"])], every[drawn(every)]
    )


def test_unfinished_batches_are_chosen_from_too():
    x, label = np.arange(80.0)[:, None], np.zeros(80, dtype=int)
    found = {("l2", "one"): np.arange(80.0)[::-1] + 1}
    kept = chosen([np.arange(80)], x, label, found, parts=2)
    assert {75, 76, 77, 78, 79, 0} <= set(kept["index"].tolist())
    assert Originals(3).arrays() is None


def test_no_memory_for_what_is_not_kept():
    size, features, batches = 64, 4096, 30
    label = np.arange(size * batches) % 10
    found = {("l2", "one"): np.linspace(2, 1, size * batches)}
    tracemalloc.start()
    keeper = Originals(1)
    for batch in range(batches):
        index = np.arange(size) + size * batch
        keeper.add(index, np.zeros((size, features), dtype=np.float32))
        for shard in shards_of(index, label, found):
            keeper.finish(shard)
    kept = keeper.arrays()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    row = 4 * features
    assert len(kept["index"]) <= DRAWN + 16
    # What is kept, twice, and two batches.
    assert peak < row * 2 * (len(kept["index"]) + size) * 1.1
