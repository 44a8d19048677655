import json

import numpy as np
import pytest

from robustkit.errors import BadInput
from robustkit.evaluation.store import COLUMNS, RunFolder, read_json, write_json


def row(index):
    return {
        **dict.fromkeys(COLUMNS, 0),
        "index": index,
        "attack": "fmn",
        "norm": "l2",
        "distance": np.float64(0.1),
        "found": True,
        "status": "found",
        "reason": 'a "quoted", reason',
    }


def add(folder, indices):
    n = len(indices)
    x = np.arange(n * 6, dtype=np.float32).reshape(n, 1, 2, 3)
    folder.add_best(
        "l2", np.array(indices), np.zeros(n), np.ones(n) / 3, ["fmn"] * n, x
    )
    return x


def test_parts_are_packed_into_one_plain_npz(tmp_path):
    with RunFolder(tmp_path / "run") as folder:
        first, second = add(folder, [3, 5]), add(folder, [7])
    with np.load(tmp_path / "run" / "best.npz", allow_pickle=False) as best:
        assert best["index"].tolist() == [3, 5, 7]
        assert best["attack"].tolist() == ["fmn"] * 3
        assert best["distance"].tolist() == [1 / 3] * 3
        np.testing.assert_array_equal(
            best["x_adversarial"], np.concatenate([first, second])
        )
        assert best["x_adversarial"].dtype == np.float32
    assert not (tmp_path / "run" / ".parts").exists()


def test_nothing_found_is_still_a_readable_npz(tmp_path):
    with RunFolder(tmp_path / "run"):
        pass
    with np.load(tmp_path / "run" / "best.npz", allow_pickle=False) as best:
        assert all(len(best[name]) == 0 for name in best.files)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_was_written_survives_an_interruption(tmp_path, error):
    def interrupted():
        with RunFolder(tmp_path / "run") as folder:
            folder.add_rows([row(0)])
            add(folder, [0])
            raise error

    with pytest.raises(error):
        interrupted()
    assert (tmp_path / "run" / "samples.csv").read_text().count("\n") == 2
    assert len(np.load(tmp_path / "run" / "best.npz")["index"]) == 1


def test_equal_content_is_equal_bytes(tmp_path):
    for name in ("a", "b"):
        with RunFolder(tmp_path / name) as folder:
            folder.add_rows([row(0)])
            add(folder, [0])
    for name in ("samples.csv", "best.npz"):
        assert (tmp_path / "a" / name).read_bytes() == (
            tmp_path / "b" / name
        ).read_bytes()


def test_a_folder_in_use_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(BadInput, match="not empty"):
        RunFolder(tmp_path)
    with pytest.raises(BadInput, match="not empty"):
        RunFolder(tmp_path / "file")


def test_an_unwritable_place_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(BadInput, match="cannot write"):
        RunFolder(tmp_path / "file" / "run")


def test_json_is_strict(tmp_path):
    path = tmp_path / "some.json"
    write_json(
        path, {"a": np.float32(0.5), "b": float("inf"), "c": (np.int64(1), True)}
    )
    assert json.loads(path.read_text()) == {"a": 0.5, "b": None, "c": [1, True]}
    assert read_json(path)["a"] == 0.5


@pytest.mark.parametrize("content", [None, "{", "[1]"])
def test_a_broken_run_folder_is_one_clear_error(tmp_path, content):
    path = tmp_path / "run.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(BadInput):
        read_json(path)
