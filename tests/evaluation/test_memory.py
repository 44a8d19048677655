import tracemalloc

import numpy as np
import pytest

import robustkit as rk
from robustkit.models.numpy import NumPyModel


def peak(samples, folder):
    weights = np.random.default_rng(0).normal(size=(3072, 2)).astype(np.float32)
    model = NumPyModel(
        lambda x: x.reshape(len(x), -1) @ weights,
        gradient=lambda x, slopes: (slopes @ weights.T).reshape(x.shape),
    )

    def batches():
        rng = np.random.default_rng(1)
        for _ in range(samples // 10):
            x = rng.random((10, 3, 32, 32), dtype=np.float32)
            yield x, (x.reshape(10, -1) @ weights).argmax(axis=1)

    tracemalloc.start()
    results = rk.evaluate(
        model, batches(), attacks=["fmn"], budget=2, batch_size=20, out=folder
    )
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(results.index) == samples
    return used


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_samples(tmp_path):
    few = peak(100, tmp_path / "few")
    many = peak(1000, tmp_path / "many")
    # 900 more inputs are 11 MB, and as much again for what was found.
    assert many - few < 0.6e6
