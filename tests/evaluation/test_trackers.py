"""The trackers themselves, where they are installed; fakes are in test_monitor."""

import pytest

import robustkit as rk

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs


def evaluated(out, tracker):
    return rk.evaluate(
        "digits",
        "digits",
        attacks=["fmn"],
        samples=12,
        batch_size=6,
        budget=5,
        out=out,
        trackers=[tracker],
    )


@pytest.mark.parametrize("module", ["torch.utils.tensorboard", "tensorboardX"])
def test_tensorboard(module, tmp_path):
    events = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="tensorboard is not installed",
    )
    writers = pytest.importorskip(module, reason=f"{module} is not installed")
    writer = writers.SummaryWriter(str(tmp_path / "logs"))
    results = evaluated(tmp_path / "run", writer)
    writer.close()
    kept = events.EventAccumulator(str(tmp_path / "logs")).Reload()
    assert [(e.step, e.value) for e in kept.Scalars("share")] == [(1, 0.5), (2, 1.0)]
    (last,) = kept.Scalars("linf/median")
    assert last.value == pytest.approx(results.curve().quantile(0.5), rel=1e-6)
    (text,) = kept.Tensors("settings/text_summary")
    assert b"linf/fmn: FMN(" in text.tensor_proto.string_val[0]


def test_mlflow(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    mlflow.set_tracking_uri((tmp_path / "tracked").as_uri())
    with mlflow.start_run() as begun:
        results = evaluated(tmp_path / "run", mlflow)
    kept = mlflow.get_run(begun.info.run_id)
    assert kept.data.metrics["share"] == 1.0
    assert kept.data.metrics["linf/median"] == results.curve().quantile(0.5)
    assert kept.data.params["linf/fmn"].startswith("FMN(")
    names = {
        file.path for file in mlflow.MlflowClient().list_artifacts(begun.info.run_id)
    }
    assert names == {path.name for path in results.path.iterdir()}


def test_wandb(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")
    run = wandb.init(project="robustkit", dir=str(tmp_path))
    results = evaluated(tmp_path / "run", run)
    summary, config = dict(run.summary), dict(run.config)
    run.finish()
    assert summary["robustkit/step"] == 2
    assert summary["linf/median"] == results.curve().quantile(0.5)
    assert config["run_folder"] == str(tmp_path / "run")
    assert config["linf/fmn"].startswith("FMN(")
