import textwrap

import numpy as np
import pytest
import torch

from robustkit import demo
from robustkit.errors import BadInput
from robustkit.evaluation.data import DataSet, as_data, load_data
from robustkit.numerics.bounds import Bounds


def arrays(count=7, shape=(2, 3)):
    rng = np.random.default_rng(count)
    x = rng.random((count, *shape), dtype=np.float32)
    return x, rng.integers(0, 4, count)


def collected(data, size=3):
    parts = list(data.batches(size))
    assert all(len(x) == len(y) == size for x, y in parts[:-1])
    assert 0 < len(parts[-1][0]) <= size
    return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])


def same(data, x, y, size=3):
    found_x, found_y = collected(data, size)
    assert (found_x.dtype, found_y.dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(found_x, x)
    np.testing.assert_array_equal(found_y, y)


def split(x, y, *places):
    return list(zip(np.split(x, places), np.split(y, places), strict=True))


def test_bounds_may_be_a_pair_of_numbers(tmp_path):
    x, y = arrays()
    np.savez(tmp_path / "data.npz", x=9 * x, y=y)
    for data in (
        load_data(tmp_path / "data.npz", (0, 9)),
        as_data((9 * x, y), (0, 9)),
        as_data(as_data((9 * x, y), Bounds(0, 9)), (0, 9)),
    ):
        same(data, 9 * x, y)


class TestForms:
    @pytest.mark.parametrize("size", [1, 3, 7, 50])
    def test_arrays(self, size):
        x, y = arrays()
        data = as_data((x, y), name="mine")
        assert (data.count, data.name, data.notes, data.class_names) == (
            *(7, "mine", (), None),
        )
        same(data, x, y, size)
        same(data, x, y, size)
        np.testing.assert_array_equal(data.example, x[:2])

    @pytest.mark.parametrize("convert", [torch.from_numpy, np.ndarray.tolist])
    def test_arrays_of_other_kinds(self, convert):
        x, y = arrays()
        same(as_data((convert(x), convert(y))), x, y)

    def test_arrays_of_jax(self):
        jnp = pytest.importorskip("jax.numpy")
        x, y = arrays()
        same(as_data((jnp.array(x), jnp.array(y))), x, y)

    def test_bfloat16_which_numpy_does_not_know(self):
        jnp = pytest.importorskip("jax.numpy")
        x, y = arrays()
        short = torch.from_numpy(x).bfloat16()
        for native in (short, jnp.asarray(x, jnp.bfloat16)):
            same(as_data((native, y)), short.float().numpy(), y)

    def test_batches_are_regrouped(self):
        x, y = arrays(20)
        batches = split(x, y, 1, 4, 4, 15)
        for native in (batches, iter(batches), lambda: iter(batches), lambda: batches):
            data = as_data(native)
            assert data.count is None
            same(data, x, y, 6)

    def test_data_loaders(self):
        x, y = arrays(10)
        tensors = torch.utils.data.TensorDataset(
            torch.from_numpy(x), torch.from_numpy(y)
        )
        data = as_data(torch.utils.data.DataLoader(tensors, batch_size=4))
        same(data, x, y)
        same(data, x, y)

    def test_a_second_pass(self):
        x, y = arrays()
        calls = []

        def make():
            calls.append(1)
            yield from split(x, y, 4)

        data = as_data(make)
        same(data, x, y)
        assert len(calls) == 1
        same(data, x, y)
        assert len(calls) == 2
        once = as_data(make())
        same(once, x, y)
        with pytest.raises(BadInput, match=r"used up.*function"):
            next(once.batches(3))

    def test_iterators_are_read_no_further_than_needed(self):
        x, y = arrays(1)
        read = []

        def endless():
            while True:
                read.append(1)
                yield x, y

        data = as_data(endless())
        assert len(read) == 1
        batches = data.batches(4)
        next(batches)
        next(batches)
        assert len(read) == 8
        limited = as_data(endless, samples=10)
        assert sum(len(labels) for _, labels in limited.batches(4)) == 10
        assert len(read) == 18

    def test_the_first_samples(self):
        x, y = arrays(20)
        for native in ((x, y), split(x, y, 7, 13)):
            data = as_data(native, samples=9)
            same(data, x[:9], y[:9], 4)
        assert as_data((x, y), samples=9).count == 9
        assert as_data((x, y), samples=99).count == 20

    def test_a_data_set_stays_itself(self):
        data = as_data(arrays())
        assert isinstance(data, DataSet)
        assert as_data(data) is data


class TestValues:
    def test_bytes_are_scaled_to_the_bounds_and_that_is_said(self):
        x = np.array([[0, 51, 255]], np.uint8)
        for native in ((x, [1]), [(x, [1])]):
            data = as_data(native, Bounds(-1, 1))
            assert data.notes == ("uint8 inputs scaled from 0..255 to [-1, 1]",)
            np.testing.assert_allclose(collected(data)[0], [[-1, -0.6, 1]], rtol=1e-6)

    def test_rounding_beyond_the_bounds_is_cut_off(self):
        x = np.array([[-1e-8, 1 + 1e-7]])
        assert collected(as_data((x, [0])))[0].tolist() == [[0, 1]]

    def test_what_is_given_out_can_be_written_to(self):
        x, y = arrays()
        data = as_data((x, y))
        for points, labels in data.batches(3):
            points[:], labels[:] = 9, 9
        same(data, x, y)

    def test_one_label_only_is_said(self):
        x, _ = arrays(20)
        data = as_data((x, np.repeat([3, 4], 10)), samples=5)
        assert data.notes == ("all 5 samples have the label 3",)

    def test_fingerprint_is_of_the_samples_given_out(self):
        x, y = arrays(20)
        data = as_data((x, y))
        prints = []
        for size in (3, 7, 20):
            collected(data, size)
            prints.append(data.fingerprint())
        assert len(set(prints)) == 1
        streamed = as_data(iter(split(x, y, 4, 9)))
        collected(streamed)
        assert streamed.fingerprint() == prints[0]
        others = [(x[:19], y[:19]), (x, (y + 1) % 4), (1 - x, y), (x[:, ::-1], y)]
        others.append((x.reshape(20, 3, 2), y))
        for other in others:
            changed = as_data(other)
            collected(changed)
            prints.append(changed.fingerprint())
        next(data.batches(3))
        prints.append(data.fingerprint())
        assert len(set(prints)) == 7


FAULTS = {
    "float labels": (
        arrays()[0],
        np.ones(7),
        "integer labels; y has the dtype float64",
    ),
    "negative labels": (
        arrays()[0],
        [0, 1, 2, -5, 0, 0, 0],
        "sample 3 has the label -5",
    ),
    "labels beyond int64": (
        arrays()[0],
        np.array([0, 1, 2**63 + 5, 0, 0, 0, 0], np.uint64),
        "sample 2 has the label 9223372036854775813",
    ),
    "too few labels": (arrays()[0], [0, 1], r"each of 7 inputs.*\(2,\)"),
    "too many labels": (arrays()[0], [0] * 8, r"each of 7 inputs.*\(8,\)"),
    "one-hot labels": (arrays()[0], np.eye(7, dtype=int), "one-hot.*argmax"),
    "a column of labels": (arrays()[0], [[0]] * 7, r"shape \(7, 1\)"),
    "text labels": (arrays()[0], ["cat"] * 7, "integer labels"),
    "a vector": (np.zeros(7), [0] * 7, r"x has the shape \(7,\)"),
    "no features": (np.zeros((7, 3, 0)), [0] * 7, r"one feature.*\(7, 3, 0\)"),
    "a number": (0.5, 1, r"x has the shape \(\)"),
    "NaN": (np.where(np.arange(7) == 4, np.nan, 0)[:, None], [0] * 7, "in sample 4"),
    "infinity": (np.where(np.arange(7) == 2, np.inf, 0)[:, None], [0] * 7, "sample 2"),
    "too large for float32": (np.full((7, 1), 1e300), [0] * 7, "NaN or infinite"),
    "raw pixels": (np.full((7, 2), 255.0), [0] * 7, "to 255 .*--bounds"),
    "normalised inputs": (np.full((7, 2), -2.0), [0] * 7, r"from -2 .*--mean, --std"),
    "complex inputs": (np.zeros((7, 2), complex), [0] * 7, "dtype complex128"),
    "ragged inputs": ([[1], [1, 2]], [0, 0], "'x' as one array"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("form", ["arrays", "batches"])
def test_faults_are_told(fault, form):
    x, y, match = FAULTS[fault]
    native = (x, y) if form == "arrays" else [(x, y)]
    with pytest.raises(BadInput, match=match):
        as_data(native)


def test_faults_of_arrays_are_found_before_anything_is_run():
    x = np.zeros((1000, 2))
    x[900] = 3
    with pytest.raises(BadInput, match=r"to 3 .samples 768 to 999"):
        as_data((x, np.zeros(1000, int)))
    as_data((x, np.zeros(1000, int)), samples=900)


def test_faults_of_later_batches():
    x, y = arrays()
    later = {
        "sample 7 has|sample 10": (x, np.where(np.arange(7) == 3, -1, y)),
        r"first has the shape \(2, 3\), sample 7 \(3, 2\)": (x.reshape(7, 3, 2), y),
        "got a int at sample 7": 4,
        "in sample 7": (x + np.nan, y),
    }
    for match, batch in later.items():
        data = as_data([(x, y), batch])
        batches = data.batches(7)
        next(batches)
        with pytest.raises(BadInput, match=match):
            list(batches)


class Unreadable:
    def __iter__(self):
        raise FileNotFoundError("img_0.png")


def broken_after(*batches):
    yield from batches
    raise OSError("disk gone")


@pytest.mark.parametrize(
    ("native", "match"),
    [
        (Unreadable(), r"FileNotFoundError: img_0.png .*test_data.py, line"),
        (lambda: Unreadable(), "reading 'mine' failed with FileNotFoundError"),
        (broken_after(), "reading 'mine' failed with OSError: disk gone"),
    ],
)
def test_batches_that_cannot_be_read(native, match):
    with pytest.raises(BadInput, match=match):
        as_data(native, name="mine")


def test_batches_that_cannot_be_read_later():
    batch = arrays()
    for native in (broken_after(batch), lambda: broken_after(batch)):
        data = as_data(native)
        for _ in range(2 if callable(native) else 1):
            batches = data.batches(7)
            next(batches)
            with pytest.raises(BadInput, match="reading 'data' failed with OSError"):
                next(batches)


@pytest.mark.parametrize(
    ("native", "match"),
    [
        (([], []), r"x has the shape \(0,\)"),
        ((np.zeros((0, 3)), np.zeros(0, int)), "is empty"),
        ([], "is empty"),
        (iter(()), "is empty"),
        ([(np.zeros((0, 3)), np.zeros(0, int))], "starts with an empty batch"),
        (np.zeros((3, 2)), "got a ndarray"),
        (3, "got a int"),
        (lambda: None, "got a NoneType"),
        ([np.zeros((3, 2))], r"batches \(x, y\); got a ndarray"),
        (torch.utils.data.Dataset(), "DataLoader.*got a Dataset"),
    ],
)
def test_what_is_no_data_is_refused(native, match):
    with pytest.raises(BadInput, match=match):
        as_data(native)


def test_numbers_of_samples_and_batch_sizes():
    for samples in (0, -1):
        with pytest.raises(BadInput, match="number of samples"):
            as_data(arrays(), samples=samples)
        with pytest.raises(BadInput, match="number of samples"):
            load_data("digits", samples=samples)
    with pytest.raises(BadInput, match="batch size"):
        next(as_data(arrays()).batches(0))


def test_data_that_is_data_already():
    data = as_data(arrays(), Bounds(-1, 1), samples=5)
    assert as_data(data) is data
    fewer = as_data(data, Bounds(-1, 1), samples=3)
    same(fewer, *(part[:3] for part in arrays()))
    assert (fewer.count, as_data(data, samples=6).count) == (3, 5)
    same(as_data(data, samples=6), *(part[:5] for part in arrays()))
    with pytest.raises(BadInput, match=r"inputs in \[-1, 1\], the model takes \[0, 1"):
        as_data(data, Bounds())


class TestLoading:
    def test_demo_names(self):
        x, y = demo.load_data("digits")
        data = load_data("digits")
        assert (data.count, data.name) == (355, "digits")
        same(data, x, y, 100)
        scaled, _ = collected(load_data("digits", Bounds(0, 255)))
        np.testing.assert_allclose(scaled, 255 * x)

    def test_npz(self, tmp_path):
        x, y = arrays()
        np.savez(tmp_path / "mine.npz", x=x, y=y, other=y)
        data = load_data(tmp_path / "mine.npz", samples=5)
        assert (data.name, data.count) == ("mine", 5)
        same(data, x[:5], y[:5])
        np.savez_compressed(tmp_path / "bytes.npz", x=(255 * x).astype(np.uint8), y=y)
        data = load_data(str(tmp_path / "bytes.npz"))
        assert "uint8" in data.notes[0]
        np.testing.assert_allclose(collected(data)[0], x, atol=1 / 255)

    def test_npz_files_with_faults(self, tmp_path):
        x, y = arrays()
        file = tmp_path / "mine.npz"
        with pytest.raises(BadInput, match=r"there is no file.*mine"):
            load_data(file)
        file.write_text("hello")
        with pytest.raises(BadInput, match="not an npz"):
            load_data(file)
        np.savez(file, images=x, labels=y)
        with pytest.raises(BadInput, match="holds images, labels"):
            load_data(file)
        np.savez(file, x=x, y=np.array([{}] * 7, dtype=object))
        with pytest.raises(BadInput, match=r"object arrays.*pickled"):
            load_data(file)
        np.savez(file, x=x, y=y.astype(float))
        with pytest.raises(BadInput, match="integer labels"):
            load_data(file)

    @pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
    def test_damaged_npz_files(self, tmp_path, save):
        x, y = arrays()
        file = tmp_path / "mine.npz"
        save(file, x=x, y=y)
        content = file.read_bytes()
        refused = set()
        for place in range(0, len(content), 5):
            damaged = bytearray(content)
            damaged[place] ^= 255
            file.write_bytes(damaged)
            # Damage where nothing is looked at, such as a date, is none.
            try:
                load_data(file)
            except BadInput as error:
                refused.add(type(error.__cause__).__name__)
        assert "BadZipFile" in refused

    def test_python_files(self, tmp_path):
        (tmp_path / "beside.py").write_text("LABELS = [0, 1, 2]")
        file = tmp_path / "mine.py"
        file.write_text(
            textwrap.dedent(
                """
                import numpy as np
                x = np.linspace(0, 1, 6).reshape(3, 2).astype("float32")
                pair = (x, np.array([0, 1, 2]))

                def function():
                    from beside import LABELS
                    return x, LABELS

                def batches():
                    for i in range(3):
                        yield x[i : i + 1], [i]

                loop = list(batches())
                """
            )
        )
        x = np.linspace(0, 1, 6).reshape(3, 2).astype(np.float32)
        for name in ("pair", "function", "batches", "loop"):
            data = load_data(f"{file}:{name}")
            assert data.name == name
            same(data, x, [0, 1, 2], 2)
        with pytest.raises(BadInput, match="has no 'par'; did you mean 'pair'"):
            load_data(f"{file}:par")

    @pytest.mark.parametrize(
        ("spec", "match"),
        [
            ("digit", "unknown data 'digit'; did you mean 'digits'.*file.npz"),
            ("mine.npy", "unknown data|cannot tell"),
            ("nowhere.py:data", "no file 'nowhere.py'"),
        ],
    )
    def test_unknown_names(self, spec, match, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(BadInput, match=match):
            load_data(spec)
        if spec.endswith("npy"):
            np.save(tmp_path / spec, np.zeros(3))
            with pytest.raises(BadInput, match=r"cannot tell.*numpy\.savez"):
                load_data(spec)
