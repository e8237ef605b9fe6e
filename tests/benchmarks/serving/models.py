"""The two models that the benchmarks of serving answer with, and the requests that they are asked.

``numbers``: boosted trees on 20 numbers. ``flights``: the pipeline that ships, categories and all, fitted on two months
of real flights. Both are saved once under artifacts/bench/models: as a servable folder for Sundial, as joblib for
peers, and their requests as JSON lines, one a request.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests" / "serving"))  # FolderSource stands there

REQUESTS = 200
NAMES = ("numbers", "flights")


@dataclass(frozen=True)
class BenchModel:
    """A model of the benchmarks.

    Attributes
    ----------
    name : str
        ``numbers`` or ``flights``.
    folder : Path
        ``source`` for Sundial, ``model.joblib`` for peers, ``rows.jsonl`` with one row a line.
    """

    name: str
    folder: Path

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Rows to ask for, one a request."""
        return [json.loads(line) for line in (self.folder / "rows.jsonl").read_text().splitlines()]


def make_models(folder: Path) -> list[BenchModel]:
    """Make both models, or find them where an earlier run left them."""
    models = [BenchModel(name, folder / name) for name in NAMES]
    for model in models:
        if not (model.folder / "rows.jsonl").exists():
            estimator, frame = _fit_numbers() if model.name == "numbers" else _fit_flights()
            _save(model, estimator, frame)
    return models


def _fit_numbers() -> tuple[Any, Any]:
    import pandas as pd
    from sklearn.datasets import make_classification
    from sklearn.ensemble import HistGradientBoostingClassifier

    values, label = make_classification(20_000, 20, n_informative=10, random_state=0)
    frame = pd.DataFrame(values, columns=[f"x{number}" for number in range(20)])
    return HistGradientBoostingClassifier(max_iter=100, random_state=0).fit(frame, label), frame


def _fit_flights() -> tuple[Any, Any]:
    import numpy as np
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OrdinalEncoder

    from flights.features import CATEGORIES, ENTITY, FEATURES
    from flights.source import LABEL, known_labels
    from flights.traffic import requests

    start, end = "2013-08-01", "2013-10-01"
    table = requests(start, end).merge(known_labels("2013-10-07", start, end)[[ENTITY, LABEL]], on=ENTITY)
    categories = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan)
    # as notebooks/flights/06_train_model has it
    model = Pipeline(
        [
            ("encode", ColumnTransformer([("categories", categories, list(CATEGORIES))], remainder="passthrough")),
            (
                "boost",
                HistGradientBoostingClassifier(
                    max_iter=200,
                    learning_rate=0.03,
                    max_leaf_nodes=15,
                    min_samples_leaf=100,
                    l2_regularization=1.0,
                    categorical_features=list(range(len(CATEGORIES))),
                    early_stopping=False,
                    random_state=0,
                ),
            ),
        ]
    )
    frame = table[list(FEATURES)]
    return model.fit(frame, table[LABEL]), frame


def _save(model: BenchModel, estimator: Any, frame: Any) -> None:
    import joblib
    from folder_source import FolderSource, save_version

    model.folder.mkdir(parents=True, exist_ok=True)
    joblib.dump(estimator, model.folder / "model.joblib")  # peers load nothing else
    check = frame.iloc[:: len(frame) // 32].head(32)
    for version in (1, 2):  # a second one for the shadow
        save_version(model.folder / "source", version, estimator, check, threshold=0.3)
    FolderSource(model.folder / "source").point("production", 1)
    records = frame.sample(REQUESTS, random_state=1).to_dict("records")
    lines = [
        json.dumps(
            {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}
        )
        for row in records
    ]
    (model.folder / "rows.jsonl").write_text("\n".join(lines))
