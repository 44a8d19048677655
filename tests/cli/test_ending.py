import pytest

from robustkit.cli.ending import reporting_errors


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
