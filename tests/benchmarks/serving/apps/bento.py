"""BentoML with its batching: up to 64 rows."""

from __future__ import annotations

import os
from typing import Any

import bentoml
import joblib
import pandas as pd


@bentoml.service(workers=1)
class Bench:
    """Scores rows."""

    def __init__(self) -> None:
        self.model = joblib.load(os.environ["MODEL"])

    @bentoml.api(batchable=True, max_batch_size=64)
    def predict(self, rows: list[dict[str, Any]]) -> list[float]:
        """Score the rows of several requests."""
        return list(self.model.predict_proba(pd.DataFrame(rows))[:, 1].tolist())
