"""MLflow for ddim-host: an observer that writes the events of a run to a tracking store."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ddim_host import Observer, hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ddim_host import DrawnGrid, Ending, EpochMetrics, ObservedRun, ObservedScore, ObserverFactory

__all__ = ["MLflow"]

_LONGEST_VALUE = 500
_STATUS = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}


@hookimpl
def ddim_observers() -> dict[str, ObserverFactory]:
    """Register the observer."""
    return {"mlflow": MLflow}


class MLflow(Observer):
    """Write metrics, grids, scores and settings to MLflow, in one MLflow run for each run of ddim-host.

    Later commands on the run, such as `evaluate`, add to the same MLflow run.

    Args:
        uri: The tracking store, such as `http://HOST:PORT` or `sqlite:///FILE`; empty for MLflow's default.
        experiment: The name of the MLflow experiment, created if it does not exist.
    """

    def __init__(self, *, uri: str = "", experiment: str = "ddim-host") -> None:
        self._uri = uri
        self._experiment = experiment
        self._client: Any = None
        self._id = ""

    def on_begin(self, run: ObservedRun, /) -> None:
        """Continue the MLflow run of an earlier command, or create one with the settings as parameters."""
        # Imported here because the import takes seconds and dry runs do not need it.
        from mlflow import MlflowClient  # noqa: PLC0415

        self._client = MlflowClient(self._uri or None)
        known = run.path / "mlflow-run.txt"
        if known.exists():
            self._id = known.read_text(encoding="utf-8").strip()
            self._client.update_run(self._id, status="RUNNING")
        else:
            found = self._client.get_experiment_by_name(self._experiment)
            number = found.experiment_id if found else self._client.create_experiment(self._experiment)
            self._id = self._client.create_run(number, run_name=run.path.name).info.run_id
            known.write_text(f"{self._id}\n", encoding="utf-8")
            for name, value in _flat(run.config).items():
                self._client.log_param(self._id, name, str(value)[:_LONGEST_VALUE])
        for name, fact in run.made_with.items():
            self._client.set_tag(self._id, f"{run.command}.{name}", fact)

    def on_row(self, row: EpochMetrics, /) -> None:
        """Add a point to each curve."""
        metrics: dict[str, float] = asdict(row)
        step = int(metrics.pop("step"))
        for name, value in metrics.items():
            if math.isfinite(value):  # a row with only warm-up steps has no speed
                self._client.log_metric(self._id, name, value, step=step)

    def on_grid(self, grid: DrawnGrid, /) -> None:
        """Store the grid as an artifact."""
        self._client.log_artifact(self._id, str(grid.path), "samples")

    def on_score(self, score: ObservedScore, /) -> None:
        """Add a point to the curve of scores with the same settings; a JSON file stores the protocol."""
        features = score.features.partition(":")[0]
        how = f"{features}.N{score.num_images}.S{score.steps}.eta{score.eta:g}.seed{score.seed}"
        for name in ("frechet_distance", "kernel_distance", "precision", "recall"):
            self._client.log_metric(self._id, f"{name}.{how}", getattr(score, name), step=score.step)
        self._client.log_dict(self._id, dict(score.record), f"scores/{how}.step{score.step}.json")

    def on_end(self, ending: Ending, /) -> None:
        """Store how the run ended."""
        self._client.set_tag(self._id, "ending", f"{ending.status} {ending.reason}".strip())
        self._client.set_terminated(self._id, _STATUS[ending.status])


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested tables, joining names with dots."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
