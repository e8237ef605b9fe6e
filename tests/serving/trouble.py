"""A candidate that misbehaves as a row tells it to: it stalls, eats memory, or takes its process down."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from folder_source import FolderSource, FolderVersion

TROUBLED = 3


class TroubledModel:
    """A model whose rows of some carriers are trouble; of all others it is the model that it was made of."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def score(self, frame: pd.DataFrame) -> npt.NDArray[np.float64]:
        """Do what the rows say, else score them."""
        carriers = set(frame["carrier"])
        if "stalls" in carriers:
            time.sleep(600)
        if "eats" in carriers:
            np.ones(1 << 32)  # 32 GiB
        if "dies" in carriers:
            os.kill(os.getpid(), signal.SIGSEGV)
        if "raises" in carriers:
            raise ArithmeticError("no such carrier")
        scores: npt.NDArray[np.float64] = self._model.score(frame)
        return scores


class TroubledSource(FolderSource):
    """Models of a folder, of which version 3 misbehaves."""

    def load(self, version: FolderVersion) -> Any:
        """Load a version."""
        model = super().load(version)
        return TroubledModel(model) if version.version == TROUBLED else model
