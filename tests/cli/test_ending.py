import errno

import pytest

from robustkit.cli.ending import reporting_errors
from robustkit.errors import BadInput


def end(folder):
    with pytest.raises(SystemExit) as ended, reporting_errors(lambda: folder):
        raise RuntimeError("unexpected")
    assert ended.value.code == 1


def test_the_trace_of_an_unexpected_error_is_kept(tmp_path, capsys):
    end(tmp_path)
    assert "RuntimeError" in (tmp_path / "error.txt").read_text(encoding="utf-8")
    assert f"the full trace is in {tmp_path / 'error.txt'}" in capsys.readouterr().err


def test_the_trace_is_not_written_through_a_link(tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("precious")
    (tmp_path / "error.txt").symlink_to(mine)
    end(tmp_path)
    assert mine.read_text() == "precious"
    assert "RuntimeError" in (tmp_path / "error.txt").read_text(encoding="utf-8")


def test_without_a_place_the_trace_is_printed(tmp_path, capsys):
    (tmp_path / "error.txt").mkdir()
    end(tmp_path)
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("begun", [False, True])
def test_what_was_finished_is_only_told_of_a_run(tmp_path, capsys, begun):
    (tmp_path / ".shards").mkdir()
    if begun:
        (tmp_path / "run.json").write_text("{}")
    with pytest.raises(SystemExit), reporting_errors(lambda: tmp_path):
        raise KeyboardInterrupt
    assert ("what was finished" in capsys.readouterr().err) is begun


def test_a_place_without_permission_is_no_unexpected_error(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended, reporting_errors(lambda: tmp_path):
        raise OSError(errno.EROFS, "Read-only file system", "run/.lower.csv.part")
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: no permission ([Errno 30] Read-only file system: ")
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("number", "code"), [(errno.ENOSPC, 1), (errno.EFBIG, 1), (errno.EACCES, 2)]
)
def test_a_full_disk_is_no_bad_input_whoever_met_it(tmp_path, capsys, number, code):
    cause = OSError(number, "what the system says")
    with pytest.raises(SystemExit) as ended, reporting_errors(lambda: tmp_path):
        raise BadInput(f"cannot write the report: {cause}") from cause
    assert ended.value.code == code
    said = capsys.readouterr().err
    assert ("error: the disk is full (" in said) is (code == 1)
    assert "cannot write the report: " in said
    assert "what the system says" in said
