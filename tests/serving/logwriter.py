"""Writes rows to a prediction log as a server would."""

from __future__ import annotations

import time
from typing import Any

from folder_source import sample_rows

from sundial.serving.predictions import PredictionLog, production_folder
from sundial.serving.records import Batch
from sundial.serving.schema import Schema
from sundial.settings import Settings

FEATURES = {"distance": "float64", "minute": "int64", "weekend": "bool", "carrier": "str"}
SCHEMA = Schema.of(FEATURES)


class Writer:
    """Writes rows to a prediction log as a server would."""

    def __init__(self, settings: Settings, segment_bytes: int = 20_000) -> None:
        self.log = PredictionLog(production_folder("demo", settings), segment_bytes=segment_bytes)
        self.rows = 0

    def write(self, rows: int, *, a_batch: int = 1, **columns: Any) -> None:
        """Write rows that are all different."""
        frame = sample_rows(rows, seed=self.rows).assign(**columns)
        for start in range(0, rows, a_batch):
            part = frame.iloc[start : start + a_batch]
            ids = [str(self.rows + number) for number in range(len(part))]
            self.log.append(
                Batch(
                    1,
                    0.4,
                    time.time_ns(),
                    ids,
                    [],
                    [],
                    [part[name].astype(object).tolist() for name in FEATURES],
                    [0.5] * len(part),
                    [True] * len(part),
                    [0.1] * len(part),
                ),
                SCHEMA,
            )
            self.rows += len(part)
