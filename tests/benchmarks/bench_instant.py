"""make bench-instant: how long the instant shadow takes over a million logged rows, on one core.

A boosting model of 100 trees on 12 features (one of them text), behind scikit-learn's own preprocessing. The log is
written in batches of 8 rows, as a server under load writes it; it is scored once from segments and once from Parquet.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
from figures import Figure, write_figures
from folder_source import FEATURES, FolderSource, build_version, sample_rows

from sundial.serving.compaction import compact_log
from sundial.serving.predictions import PredictionLog, production_folder
from sundial.serving.process import limit_threads
from sundial.serving.records import Batch
from sundial.serving.replaying import replay_shadow
from sundial.serving.schema import Schema
from sundial.settings import Settings

GOAL_SECONDS = 30.0
A_BATCH = 8
SEGMENT_BYTES = 16 << 20  # so that nearly all of a million rows is closed, and can be compacted
MORE = [f"number_{place}" for place in range(8)]


def write_log(settings: Settings, rows: int) -> float:
    """Write a prediction log; give rows a second."""
    schema = Schema.of({**FEATURES, **dict.fromkeys(MORE, "float64")})
    frame = sample_rows(rows, seed=1)
    random = np.random.default_rng(2)
    columns = [frame[name].astype(object).tolist() for name in FEATURES]
    columns += [random.normal(size=rows).tolist() for _ in MORE]
    log = PredictionLog(production_folder("demo", settings), segment_bytes=SEGMENT_BYTES)
    begun = time.perf_counter()
    for start in range(0, rows, A_BATCH):
        part = slice(start, min(start + A_BATCH, rows))
        count = part.stop - part.start
        ids = [f"request-{number}" for number in range(part.start, part.stop)]
        values = [column[part] for column in columns]
        log.append(
            Batch(1, 0.4, time.time_ns(), ids, [], [], values, [0.5] * count, [True] * count, [1.0] * count), schema
        )
    log.close()
    return rows / (time.perf_counter() - begun)


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    arguments = parser.parse_args(argv)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    limit_threads()
    with tempfile.TemporaryDirectory(prefix="sundial-bench-") as scratch:
        folder = Path(scratch)
        random = np.random.default_rng(0)
        for version in (2, 3):
            build_version(folder, version, extra={name: random.normal(size=600) for name in MORE}, trees=100)
        source, settings = FolderSource(folder), Settings(artifacts=folder / "artifacts")
        written = write_log(settings, arguments.rows)
        segments = replay_shadow("demo", timedelta(days=1), settings, version=2, source=source)
        begun = time.perf_counter()
        compacted = compact_log("demo", settings)
        compacting = time.perf_counter() - begun
        parquet = replay_shadow("demo", timedelta(days=1), settings, version=3, source=source)
    assert segments.rows == parquet.rows == arguments.rows
    assert segments.errors == parquet.errors == 0
    scale = 1_000_000 / arguments.rows
    goal = f"under {GOAL_SECONDS:.0f} s"
    slower = max(segments.seconds, parquet.seconds) * scale
    figures = [
        Figure("rows in the log", arguments.rows, "rows"),
        Figure("written to the log", written, "rows/s"),
        Figure("1 million rows scored from segments", segments.seconds * scale, "s", goal, slower < GOAL_SECONDS),
        Figure("1 million rows scored from Parquet", parquet.seconds * scale, "s", goal, slower < GOAL_SECONDS),
        Figure("compacted to Parquet", compacted.rows / compacting, "rows/s"),
    ]
    write_figures("instant", figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
