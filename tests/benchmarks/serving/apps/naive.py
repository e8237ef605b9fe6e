"""What most people write first: FastAPI, a data frame a request, predict_proba."""

from __future__ import annotations

import os
from typing import Any

import joblib
import pandas as pd
from fastapi import FastAPI

app = FastAPI()
model = joblib.load(os.environ["MODEL"])


@app.post("/predict")
def predict(row: dict[str, Any]) -> dict[str, list[float]]:
    """Score one row."""
    return {"predictions": model.predict_proba(pd.DataFrame([row]))[:, 1].tolist()}
