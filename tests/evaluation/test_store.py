import errno
import json
from pathlib import Path

import numpy as np
import pytest

from robustkit.errors import BadInput
from robustkit.evaluation.shards import Shard, ShardKey
from robustkit.evaluation.store import RunFolder, read_json, write_json
from robustkit.evaluation.tables import COLUMNS, as_csv

RUN = {"schema": 1, "config": {"seed": 0, "norms": ["l2"]}, "versions": {"numpy": "2"}}


def shard_of(indices, batch=0, place=0, distance=1 / 3, attack="fmn", data="abc"):
    rows = [
        {
            **dict.fromkeys(COLUMNS, 0),
            "index": index,
            "attack": attack,
            "norm": "l2",
            "distance": np.float64(0.1),
            "found": True,
            "status": "found",
            "reason": 'a "quoted", reason',
        }
        for index in indices
    ]
    n = len(indices)
    return Shard(
        ShardKey(batch, place, "l2", attack, data),
        as_csv(rows),
        np.zeros(n, dtype=np.int64),
        np.array(indices, dtype=np.int64),
        np.zeros(n, dtype=np.int64),
        np.full(n, distance),
        np.arange(n * 6, dtype=np.float32).reshape(n, 1, 2, 3) + distance,
    )


def interrupted(path, *shards, error=RuntimeError):
    """A run folder whose run ended after these shards."""

    def run():
        with RunFolder(path, RUN) as folder:
            folder.write("run.json", RUN)
            for shard in shards:
                folder.keep(shard)
            raise error

    with pytest.raises(error):
        run()


def best_of(path):
    with np.load(path / "best.npz", allow_pickle=False) as best:
        return {name: best[name] for name in best.files}


def test_shards_become_one_table_and_one_plain_npz(tmp_path):
    first, second = shard_of([3, 5]), shard_of([7], batch=1)
    with RunFolder(tmp_path / "run") as folder:
        # The order in which they were finished does not matter.
        folder.keep(second)
        folder.keep(first)
        folder.write_tables()
    best = best_of(tmp_path / "run")
    assert best["index"].tolist() == [3, 5, 7]
    assert best["attack"].tolist() == ["fmn"] * 3
    assert best["distance"].tolist() == [1 / 3] * 3
    np.testing.assert_array_equal(
        best["x_adversarial"], np.concatenate([first.points, second.points])
    )
    assert best["x_adversarial"].dtype == np.float32
    table = (tmp_path / "run" / "samples.csv").read_text()
    assert table == ",".join(COLUMNS) + "\n" + first.text + second.text
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "best.npz",
        "queries.csv",
        "samples.csv",
        "traces.npz",
    ]


def test_the_nearest_of_several_attacks_is_kept_and_ties_go_to_the_first(tmp_path):
    with RunFolder(tmp_path / "run") as folder:
        folder.keep(shard_of([0, 1], place=0, distance=0.5, attack="a"))
        folder.keep(shard_of([1, 2], place=1, distance=0.25, attack="b"))
        folder.keep(shard_of([0, 2], place=2, distance=0.5, attack="c"))
        folder.write_tables()
    best = best_of(tmp_path / "run")
    assert best["attack"].tolist() == ["a", "b", "b"]
    assert best["distance"].tolist() == [0.5, 0.25, 0.25]
    assert best["x_adversarial"][:, 0, 0, 0].tolist() == [0.5, 0.25, 6.25]


def test_nothing_found_is_still_a_readable_npz(tmp_path):
    with RunFolder(tmp_path / "run"):
        pass
    assert all(len(values) == 0 for values in best_of(tmp_path / "run").values())


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_was_kept_survives_an_interruption_and_is_found_again(tmp_path, error):
    interrupted(tmp_path / "run", shard_of([0, 1]), error=error)
    with RunFolder(tmp_path / "run", RUN) as folder:
        assert folder.earlier == RUN
        # The tables are made anew from what there is.
        assert (tmp_path / "run" / "samples.csv").read_text().count("\n") == 3
        kept, expected = folder.kept(shard_of([0]).key), shard_of([0, 1])
        assert kept.text == expected.text
        np.testing.assert_array_equal(kept.points, expected.points)
        assert folder.kept(shard_of([0], batch=1).key) is None
    assert not (tmp_path / "run" / ".shards").exists()


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_damaged_shard_counts_as_missing_and_is_named(tmp_path, damage):
    interrupted(tmp_path / "run", shard_of([0, 1]), shard_of([2], batch=1))
    path = tmp_path / "run" / ".shards" / "00000000-0000.shard"
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[-200] ^= 1
    path.write_bytes({"cut": content[:-1], "flip": content, "empty": b""}[damage])
    with RunFolder(tmp_path / "run", RUN) as folder:
        assert folder.kept(shard_of([0]).key) is None
        assert folder.kept(shard_of([2], batch=1).key) is not None
        assert folder.damaged == ["00000000-0000.shard"]
        assert best_of(tmp_path / "run")["index"].tolist() == [2]


def test_a_run_goes_on_only_as_it_was(tmp_path):
    interrupted(tmp_path / "run", shard_of([0]))
    for change, words in (
        ({"config": {"seed": 1, "norms": ["l2"]}}, "config.seed was 0, is 1"),
        ({"versions": {"numpy": "3"}}, "versions.numpy was '2', is '3'"),
    ):
        with pytest.raises(BadInput, match=words):
            RunFolder(tmp_path / "run", {**RUN, **change})
    other = shard_of([0], data="other").key
    with (
        RunFolder(tmp_path / "run", RUN) as folder,
        pytest.raises(BadInput, match="made on other data: batch 0"),
    ):
        folder.kept(other)


def test_a_run_in_use_is_refused(tmp_path):
    with RunFolder(tmp_path / "run", RUN) as folder:
        folder.write("run.json", RUN)
        with pytest.raises(BadInput, match="another process is writing"):
            RunFolder(tmp_path / "run", RUN)


def test_shards_go_at_one_stroke_and_the_lock_with_them(tmp_path, monkeypatch):
    def interrupted(path, **options):
        raise KeyboardInterrupt

    folder = RunFolder(tmp_path / "run", RUN)
    folder.write("run.json", RUN)
    folder.__enter__()
    folder.keep(shard_of([0, 1]))
    folder.write_tables()
    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            folder.__exit__(None, None, None)
    assert not (tmp_path / "run" / ".shards").exists()
    # It is complete, and so nobody goes on with it.
    with pytest.raises(BadInput, match="not empty"):
        RunFolder(tmp_path / "run", RUN)


def test_a_process_that_was_killed_at_once_leaves_no_obstacle(tmp_path):
    (tmp_path / "run" / ".shards").mkdir(parents=True)
    (tmp_path / "run" / ".run.json.part").write_text("{")
    (tmp_path / "run" / ".robustkit-abc").mkdir()
    (tmp_path / "run" / "queries.csv").write_text("index")
    with RunFolder(tmp_path / "run", RUN) as folder:
        assert folder.earlier is None
    assert not (tmp_path / "run" / ".robustkit-abc").exists()


def test_a_full_disk_loses_nothing_and_leaves_nothing_half(tmp_path, monkeypatch):
    def full(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    with RunFolder(tmp_path / "run") as folder:
        folder.keep(shard_of([0]))
        with monkeypatch.context() as patched:
            patched.setattr("os.fsync", full)
            with pytest.raises(OSError, match="No space"):
                folder.keep(shard_of([1], batch=1))
            with pytest.raises(OSError, match="No space"):
                folder.write_tables()
        shards = [path.name for path in (tmp_path / "run" / ".shards").iterdir()]
        assert shards == ["00000000-0000.shard"]
        folder.write_tables()
    assert best_of(tmp_path / "run")["index"].tolist() == [0]


def test_equal_content_is_equal_bytes(tmp_path):
    for name in ("a", "b"):
        with RunFolder(tmp_path / name) as folder:
            folder.keep(shard_of([0]))
            folder.write_tables()
    for name in ("samples.csv", "best.npz"):
        assert (tmp_path / "a" / name).read_bytes() == (
            tmp_path / "b" / name
        ).read_bytes()


def test_a_folder_in_use_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(BadInput, match="not empty"):
        RunFolder(tmp_path)
    with pytest.raises(BadInput, match="cannot write"):
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


def test_the_tutorial_shows_the_table_as_it_is():
    page = Path(__file__).parents[2] / "docs" / "tutorial.md"
    lines = page.read_text(encoding="utf-8").splitlines()
    start = lines.index(",".join(COLUMNS))
    for line in lines[start + 1 : start + 4]:
        assert len(line.split(",")) == len(COLUMNS)
