import tracemalloc

import numpy as np
import pytest

import robustkit as rk
from robustkit.models.numpy import NumPyModel


def files(batches, samples, folder):
    """The same data as files, of which the large one is written batch by batch."""
    folder.mkdir()
    labels = []
    shape = (samples, 3, 32, 32)
    x = np.lib.format.open_memmap(folder / "x.npy", "w+", np.float32, shape)
    for place, (some, y) in enumerate(batches):
        x[10 * place : 10 * place + 10] = some
        labels.append(y)
    x.flush()
    np.save(folder / "y.npy", np.concatenate(labels))
    return folder


def peak(samples, folder, kind):
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

    data = batches()
    if kind == "files":
        data = files(batches(), samples, folder.with_suffix(".data"))
    tracemalloc.start()
    results = rk.evaluate(
        model,
        data,
        attacks=["fmn"],
        budget=2,
        batch_size=20,
        engine=rk.RayEngine(workers=1) if kind == "workers" else "local",
        out=folder,
        progress=lambda event: None,
    )
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(results.index) == samples
    return used


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:os.fork:RuntimeWarning",
    "ignore:.*_at_fork:pytest.PytestUnraisableExceptionWarning",
)
@pytest.mark.parametrize(
    ("kind", "few"), [("iterator", 100), ("files", 600), ("workers", 100)]
)
def test_memory_does_not_grow_with_the_number_of_samples(request, tmp_path, kind, few):
    """Files are read 256 rows at a time, so that less than two such parts take less."""
    if kind == "workers":
        request.getfixturevalue("cluster")
        # So that what is loaded at the start is there before.
        peak(20, tmp_path / "first", kind)
    some = peak(few, tmp_path / "few", kind)
    many = peak(few + 900, tmp_path / "many", kind)
    # 900 more inputs are 11 MB, and as much again for what was found.
    assert many - some < 0.6e6
