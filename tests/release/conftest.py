"""A toy pipeline, a finished run of it, and a registry on a SQLite file of its own."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder
from threadpoolctl import threadpool_limits

from sundial.formats import hash_file, write_json_atomically, write_value
from sundial.pipeline import Pipeline, parse_pipeline
from sundial.release.mlflow_client import open_client
from sundial.release.registry import Registry
from sundial.runs import Run, create_run
from sundial.settings import Settings

PIPELINE = """
name: toy
title: Toys that break
entity: toy_id
event_time: sold
label: {column: broken, delay: 1 day, maturity: 2 days}
hooks: {labels: "a:b", requests: "a:b", value: "a:b"}
schedule: {cron: "0 6 * * 1"}
stages:
  01_query_data: {outputs: [toys]}
  03_generate_features: {inputs: [01_query_data/toys], outputs: [features]}
  04_build_training_set: {inputs: [03_generate_features/features], outputs: [training_set, training_profile]}
  05_build_evaluation_sets: {inputs: [03_generate_features/features], outputs: [evaluation_set]}
  06_train_model: {inputs: [04_build_training_set/training_set], outputs: [model, model_card]}
  07_evaluate_model: {inputs: [06_train_model/model], outputs: [scores]}
  08_evaluate_business: {inputs: [07_evaluate_model/scores], outputs: [policy]}
"""
FEATURES = {"maker": "str", "price": "float64", "parts": "int64", "imported": "bool"}


def toys(rows: int = 400, seed: int = 0) -> pd.DataFrame:
    """Toys that break more often the more parts they have; some prices are missing."""
    random = np.random.default_rng(seed)
    parts = random.integers(1, 60, rows)
    frame = pd.DataFrame(
        {
            "toy_id": np.arange(rows),
            "sold": pd.Timestamp("2013-09-01") + pd.to_timedelta(np.arange(rows), unit="h"),
            "maker": random.choice(["acme", "bobo", "cuckoo"], rows),
            "price": random.lognormal(2.0, 1.0, rows),
            "parts": parts,
            "imported": random.random(rows) < 0.3,
            "broken": (random.random(rows) < parts / 80).astype("int64"),
        }
    )
    frame.loc[::7, "price"] = np.nan
    return frame.astype({"maker": "str"})


def save(run: Run, stage: str, **outputs: Any) -> None:
    """Write a stage into a run as its notebook and runner would."""
    folder = run.stage_folder(stage)
    (folder / "outputs").mkdir(parents=True, exist_ok=True)
    (folder / "notebook.ipynb").write_text(f'{{"stage": "{stage}"}}')
    entries = {}
    for name, value in outputs.items():
        path = write_value(folder / "outputs", name, value)
        entries[name] = {"path": str(path.relative_to(run.folder)), "sha256": hash_file(path)}
    run.update_stage(
        stage,
        status="succeeded",
        as_of=run.as_of.isoformat(),
        outputs=entries,
        notebook_sha256=f"{stage:a<64}"[:64],
        executed_sha256=hash_file(folder / "notebook.ipynb"),
    )


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Let boosting use one thread: with so few rows the others only wait for each other."""
    with threadpool_limits(1, user_api="openmp"):
        yield


@pytest.fixture(scope="session")
def fitted() -> Callable[[int], Any]:
    """Fit a small boosting pipeline; another seed gives another model."""

    @functools.cache
    def fit(seed: int = 0) -> Any:
        frame = toys(seed=seed)
        encode = make_column_transformer(
            (OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), ["maker"]), remainder="passthrough"
        )
        model = make_pipeline(encode, HistGradientBoostingClassifier(max_iter=5, max_leaf_nodes=6, random_state=seed))
        return model.fit(frame[list(FEATURES)], frame["broken"])

    return fit


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    """Give the toy pipeline."""
    return parse_pipeline(PIPELINE, tmp_path / "notebooks" / "toy" / "pipeline.yaml")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Give settings whose artifacts are in a folder with a space in its name, as people have them."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Settings(root=tmp_path, artifacts=tmp_path / "my artifacts")


@pytest.fixture
def make_run(settings: Settings, fitted: Callable[[int], Any]) -> Callable[..., Run]:
    """Make finished release runs, up to stage 08."""

    def make(as_of: str = "2013-09-30", *, seed: int = 0, threshold: float = 0.4, model: Any = None) -> Run:
        run = create_run("toy", as_of, settings=settings)
        frame = toys(seed=seed)
        save(run, "04_build_training_set", training_set=frame)
        save(run, "05_build_evaluation_sets", evaluation_set=frame.iloc[:100])
        save(
            run,
            "06_train_model",
            model=model or fitted(seed),
            model_card={"features": FEATURES, "label": "broken", "fit_rows": len(frame)},
        )
        save(run, "08_evaluate_business", policy={"threshold": threshold, "alert_share": 0.3, "basis": "economics"})
        return run

    return make


@pytest.fixture
def run(make_run: Callable[..., Run]) -> Run:
    """Give one finished release run."""
    return make_run()


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the registry's tables once: MLflow takes seconds for it."""
    folder = tmp_path_factory.mktemp("registry")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        open_client(Settings(root=folder, artifacts=folder))
    return folder / "mlflow.db"


@pytest.fixture
def registry(settings: Settings, empty_database: Path) -> Registry:
    """Give a registry without any model."""
    settings.artifacts.mkdir(parents=True, exist_ok=True)
    target = settings.artifacts / "mlflow.db"
    with closing(sqlite3.connect(empty_database)) as source, closing(sqlite3.connect(target)) as copy:
        source.backup(copy)
    return Registry(settings)


@pytest.fixture
def judged(run: Run) -> Run:
    """Give a run that was compared with production and passed its gates."""
    estimate = {"estimate": 0.73, "low": 0.7, "high": 0.76, "confidence": 0.95, "rows": 6402, "method": "bootstrap"}
    better = {"estimate": 0.01, "low": -0.004, "high": 0.024, "confidence": 0.95, "rows": 6402, "method": "paired"}
    share = {**estimate, "estimate": 0.31, "low": 0.241, "high": 0.382, "method": "jackknife over 5 days"}
    worth = {**estimate, "estimate": 340.0, "low": -20.0, "high": 700.0, "method": "paired jackknife over 5 days"}
    save(run, "07_evaluate_model", scores=toys(20)[["toy_id", "broken"]])
    run.update_stage(
        "07_evaluate_model",
        scraps={
            "metrics": {f"set_{index}": {"roc_auc": estimate, "log_loss": estimate} for index in range(30)},
            "against_production": {"last_week": {"roc_auc": better}},
        },
    )
    run.update_stage("08_evaluate_business", scraps={"value_per_1000": {"candidate": {**estimate, "estimate": 2310.5}}})
    save(
        run, "09_deploy_shadow", deployment={"model": "toy", "version": 2, "sha256": "ab", "shadow_from": "2013-10-07"}
    )
    save(run, "10_compare_shadow", comparison={"rows": 6402})
    run.update_stage(
        "10_compare_shadow",
        scraps={
            "completeness": 1.0,
            "metrics": {"production": {"roc_auc": estimate}, "shadow": {"roc_auc": estimate}},
            "against_production": {"roc_auc": better},
            "swaps": {
                "newly alerted": {"rows": 120, "mature": 88, "label_share": share, "value": worth},
                "no longer alerted": {"rows": 95, "mature": 70, "label_share": share, "value": worth},
            },
        },
    )
    verdict = {
        "gate": "no worse than production | this week",
        "scrap": "10_compare_shadow.against_production.roc_auc",
        "status": "passed",
        "observed": -0.004,
        "bound": "at most 0.02 worse than production",
        "rows": 6402,
        "sentence": "passed",
    }
    write_json_atomically(
        run.folder / "gates.json", {"comparison": {"at": "2013-10-14T00:00:00", "results": [verdict]}}
    )
    return run
