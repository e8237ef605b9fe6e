"""Saves a model as MLflow's server wants it."""

from __future__ import annotations

import sys

import joblib
import mlflow.sklearn

mlflow.sklearn.save_model(
    joblib.load(sys.argv[1]), sys.argv[2], serialization_format="cloudpickle", pyfunc_predict_fn="predict_proba"
)
