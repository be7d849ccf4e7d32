"""Check that the part honours its contract, and that MLflow finds its records in a local file store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ddim_host.testing import ObserverContract

if TYPE_CHECKING:
    from pathlib import Path

mlflow = pytest.importorskip("mlflow", reason="mlflow-skinny is not installed")

from ddim_mlflow import MLflow  # noqa: E402 - needs MLflow

# MLflow's own warnings about the file store, which it supports only for compatibility.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Set up a file store as the default store of the test."""
    uri = f"file:{tmp_path / 'store'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    return uri


class TestMLflow(ObserverContract):
    """The tests are inherited; add your own."""

    part = MLflow


def test_a_resumed_run_is_one_run_in_mlflow(store: str, tmp_path: Path) -> None:
    """Check settings, curves, grids, scores and ending, including those of the resumed run."""
    folder = tmp_path / "my-run"
    folder.mkdir()
    contract = TestMLflow()
    contract.tell_a_run(folder)
    contract.tell_a_run(folder, step=24)
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("ddim-host")
    [run] = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("my-run", "FINISHED")
    assert run.data.params["loss.name"] == "mse"
    assert run.data.params["model.parameters.channel_multipliers"] == "[1, 2]"
    assert run.data.tags["ending"] == "finished"
    losses = client.get_metric_history(run.info.run_id, "train_loss")
    assert [(point.step, point.value) for point in losses] == [(12, 1.0), (24, 0.5), (36, 1.0), (48, 0.5)]
    assert len(client.get_metric_history(run.info.run_id, "images_per_second")) == 2
    assert run.data.metrics["frechet_distance.digits_mlp.N1000.S20.eta1.seed0"] == 12.5
    assert {file.path for file in client.list_artifacts(run.info.run_id, "samples")} == {
        "samples/grid-24.png",
        "samples/grid-48.png",
    }
    assert len(client.list_artifacts(run.info.run_id, "scores")) == 4


def test_experiment_and_store_are_parameters(store: str, tmp_path: Path) -> None:
    """Check that the run is in the named experiment of the given store."""
    parameters = {"experiment": "mine", "uri": store}
    named = type("Named", (ObserverContract,), {"part": MLflow, "parameters": parameters})
    named().tell_a_run(tmp_path)
    assert mlflow.MlflowClient(store).get_experiment_by_name("mine") is not None
