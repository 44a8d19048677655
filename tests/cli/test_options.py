import pytest

from robustkit.cli.options import fresh_folder


@pytest.mark.parametrize("model", ["digits", f"{'m' * 245}.onnx", "/some/where/..."])
def test_a_fresh_folder_can_be_made_again_and_again(tmp_path, monkeypatch, model):
    monkeypatch.chdir(tmp_path)
    for _ in range(3):
        fresh_folder(model).mkdir(parents=True)
    assert len(list((tmp_path / "runs").iterdir())) == 3
