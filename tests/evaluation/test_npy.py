import numpy as np
import pytest

import robustkit as rk
from robustkit.errors import BadInput
from robustkit.evaluation.npy import open_npy


@pytest.fixture
def pair(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (600, 3, 4, 5), dtype=np.uint8)
    y = rng.integers(0, 7, 600)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    return tmp_path, x, y


def joined(data, size=128):
    xs, ys = zip(*data.batches(size), strict=True)
    return np.concatenate(xs), np.concatenate(ys)


def test_files_are_the_same_data_as_their_arrays(pair):
    folder, x, y = pair
    for spec in (folder, f"{folder / 'x.npy'},{folder / 'y.npy'}"):
        data = rk.load_data(spec)
        assert data.count == 600
        assert data.notes == ("uint8 inputs scaled from 0..255 to [0, 1]",)
        for _ in range(2):
            got, labels = joined(data)
            np.testing.assert_array_equal(got, (x / 255).astype(np.float32))
            np.testing.assert_array_equal(labels, y)
    some = rk.load_data(folder, samples=300)
    assert some.count == 300
    assert len(joined(some)[0]) == 300


def test_any_rows(pair):
    folder, x, _ = pair
    file = open_npy(folder / "x.npy")
    for first, end in ((0, 1), (7, 300), (590, 700), (600, 700)):
        np.testing.assert_array_equal(file.rows(first, end), x[first:end])


def test_an_evaluation_is_that_of_the_arrays(plant, tmp_path):
    planted = plant(seed=3, samples=30, dtype=np.float32, bounds=(0.0, 1.0))
    np.save(tmp_path / "a.npy", planted.x)
    np.save(tmp_path / "b.npy", planted.y)
    spec = f"{tmp_path / 'a.npy'},{tmp_path / 'b.npy'}"
    one, two = (
        rk.evaluate(planted.model(), data, attacks=["fmn"], budget=10)
        for data in ((planted.x, planted.y), spec)
    )
    np.testing.assert_array_equal(one.distance, two.distance)
    assert one.run["data"]["fingerprint"] == two.run["data"]["fingerprint"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "y.npy").unlink(), "cannot read"),
        (lambda f: np.save(f / "y.npy", np.arange(599)), "600 rows.*599"),
        (lambda f: np.save(f / "y.npy", np.zeros(600)), "expected integer labels"),
        (lambda f: np.save(f / "x.npy", np.zeros(())), r"has the shape \(\)"),
        (
            lambda f: np.save(f / "x.npy", np.asfortranarray(np.zeros((600, 3)))),
            "column by column",
        ),
        (
            lambda f: np.save(
                f / "x.npy", np.array([{}] * 600, dtype=object), allow_pickle=True
            ),
            "holds objects",
        ),
        (lambda f: (f / "x.npy").write_bytes(b"hello"), "cannot read"),
        (
            lambda f: (f / "x.npy").write_bytes((f / "x.npy").read_bytes()[:-1]),
            "ends before",
        ),
        (
            lambda f: np.save(f / "x.npy", np.full((600, 2), np.nan)),
            "expected finite inputs",
        ),
    ],
)
def test_files_that_are_no_data_are_told(pair, change, message):
    folder, _, _ = pair
    change(folder)
    with pytest.raises(BadInput, match=message):
        rk.load_data(folder)
