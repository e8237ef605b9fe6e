"""MLServer with its adaptive batching, set in model-settings.json."""

from __future__ import annotations

import os

import joblib
import pandas as pd
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, PandasCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Bench(MLModel):
    """Scores rows."""

    async def load(self) -> bool:
        """Load the model."""
        self.model = joblib.load(os.environ["MODEL"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Score the rows of a batch."""
        if len(payload.inputs) == 1:  # numbers alone come as one tensor
            rows = NumpyCodec.decode_input(payload.inputs[0])
            if hasattr(self.model, "feature_names_in_"):
                rows = pd.DataFrame(rows, columns=self.model.feature_names_in_)
        else:
            rows = PandasCodec.decode_request(payload)
        scores = self.model.predict_proba(rows)[:, 1]
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("predictions", scores)])
