"""Ray Serve with its batching: up to 64 rows, 2 ms."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import joblib
import pandas as pd
import ray
from ray import serve
from starlette.requests import Request


@serve.deployment(max_ongoing_requests=200)
class Bench:
    """Scores rows."""

    def __init__(self, path: str) -> None:
        self.model = joblib.load(path)

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.002)
    async def score(self, rows: list[dict[str, Any]]) -> list[float]:
        """Score the rows of several requests."""
        return list(self.model.predict_proba(pd.DataFrame(rows))[:, 1].tolist())

    async def __call__(self, request: Request) -> dict[str, list[float]]:
        """Score one row."""
        return {"predictions": [await self.score(await request.json())]}


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, configure_logging=False)
    serve.start(http_options={"port": int(sys.argv[1])})
    serve.run(Bench.bind(os.environ["MODEL"]), route_prefix="/")
    signal.sigwait([signal.SIGTERM, signal.SIGINT])
    ray.shutdown()
