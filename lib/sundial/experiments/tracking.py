"""Runs in MLflow too: an experiment or a release is a parent run, each of its stages a child.

Parameters, scraps as metrics, plots and reports as artifacts, in the MLflow experiment ``sundial/<pipeline>/runs`` of
the registry's own server. It is a copy for those who compare in MLflow; nothing of Sundial reads it. Stages that were
reused have their figures there, and a tag that says from where; their files are with the run that made them.
"""

from __future__ import annotations

import base64
import math
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from sundial.execution.parameters import read_notebook
from sundial.execution.rendering import finish_rendering
from sundial.execution.report import REPORT
from sundial.release.mlflow_client import open_client, translate_errors
from sundial.runs import Run
from sundial.settings import Settings

# Longer values are refused by MLflow (6,000) or of no use in its tables.
LONGEST_PARAMETER = 500
MOST_IN_A_BATCH = 1000


def track_run(run: Run, settings: Settings) -> str:
    """Copy a run into MLflow; one that is there already is left as it is.

    Parameters
    ----------
    run : Run
        After its stages.
    settings : Settings
        Where MLflow is.

    Returns
    -------
    str
        Id of the parent run.

    Raises
    ------
    RegistryError
        When MLflow cannot be written.
    """
    finish_rendering()  # a page is copied too
    manifest = run.manifest()
    if manifest.get("mlflow_run"):
        return str(manifest["mlflow_run"])
    client = open_client(settings)
    with translate_errors(f"{run.name} cannot be copied into MLflow at {settings.registry_address}"):
        experiment = _ensure_experiment(client, f"sundial/{run.pipeline}/runs", settings)
        tags = {
            name: str(manifest.get(name) or "") for name in ("run", "kind", "as_of", "commit", "started_by", "base")
        }
        parent = client.create_run(experiment, run_name=str(manifest.get("name") or run.name), tags=tags).info.run_id
        given = manifest.get("parameters", {})
        values = {f"{stage}.{name}": value for stage, names in given.items() for name, value in names.items()}
        everything: dict[str, float] = {}
        for stage, record in run.stages().items():
            figures = dict(_flatten(record.get("scraps", {})))
            everything |= {f"{stage}/{name}": value for name, value in figures.items()}
            reused = record.get("reused") or {}
            about = {
                "mlflow.parentRunId": parent,
                "stage": stage,
                "status": str(record.get("status")),
                **({"reused_from": str(reused["run"])} if reused else {}),
            }
            child = client.create_run(experiment, run_name=stage, tags=about).info.run_id
            _log(client, child, record.get("parameters", {}), figures)
            if not reused:
                _log_files(client, child, run.stage_folder(stage))
            client.set_terminated(child, "FINISHED" if record.get("status") == "succeeded" else "FAILED")
        _log(client, parent, values, everything)
        for name in ("index.html", "experiment.html", "comparison.json", "parity.json"):
            if (run.folder / name).is_file():
                client.log_artifact(parent, str(run.folder / name))
        failed = any(record.get("status") != "succeeded" for record in run.stages().values())
        client.set_terminated(parent, "FAILED" if failed else "FINISHED")
    run.update(mlflow_run=parent)
    return str(parent)


def _ensure_experiment(client: Any, name: str, settings: Settings) -> str:
    """Find or make the MLflow experiment; with a bare database its files go below artifacts."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    served = urlparse(settings.tracking_uri).scheme in ("http", "https", "databricks")
    location = None if served else (settings.artifacts / "mlflow" / name.partition("/")[2]).as_uri()
    return str(client.create_experiment(name, artifact_location=location))


def _log(client: Any, run_id: str, parameters: Mapping[str, Any], figures: Mapping[str, float]) -> None:
    """Write parameters and metrics in as few calls as MLflow takes."""
    from mlflow.entities import Metric, Param

    stamp = int(time.time() * 1000)
    metrics = [Metric(name, value, stamp, 0) for name, value in figures.items()]
    params = [Param(name, str(value)[:LONGEST_PARAMETER]) for name, value in parameters.items()]
    client.log_batch(run_id, metrics=metrics[: MOST_IN_A_BATCH - len(params)], params=params)


def _log_files(client: Any, run_id: str, folder: Path) -> None:
    """Write the report and the plots of a stage."""
    with tempfile.TemporaryDirectory() as temporary:
        for name, data in _list_plots(folder / "notebook.ipynb"):
            (Path(temporary) / name).write_bytes(data)
        if (folder / REPORT).is_file():
            (Path(temporary) / REPORT).write_bytes((folder / REPORT).read_bytes())
        client.log_artifacts(run_id, temporary)


def _list_plots(notebook: Path) -> Iterator[tuple[str, bytes]]:
    """List the pictures in an executed notebook, named by their cell."""
    if not notebook.is_file():
        return
    for index, cell in enumerate(read_notebook(notebook).cells, 1):
        for number, output in enumerate(cell.get("outputs", []), 1):
            picture = output.get("data", {}).get("image/png")
            if picture:
                yield f"cell-{index:02}-{number}.png", base64.b64decode("".join(picture))


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """List the numbers among scraps by names that MLflow takes; of an estimate the figure and the ends."""
    for name, value in values.items():
        clean = "".join(letter if letter.isalnum() or letter in "_-. /" else "_" for letter in f"{prefix}{name}")
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{clean}.")
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            yield clean, float(value)
