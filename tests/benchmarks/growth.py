"""make bench-growth: what one prediction, one shadow score, one run and one week occupy, and what years of them would.

The rates are measured on the artifacts that are there (of ``make demo``, say), which are only read; what has to be
written to be measured goes into a temporary folder. The plan is arithmetic on these rates, and whoever has other
numbers can put theirs in.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from sundial.experiments.keeping import choose_removable
from sundial.pipeline import load_pipeline
from sundial.recovery.backup import make_backup
from sundial.recovery.restore import restore_backup
from sundial.release.mlflow_client import open_client
from sundial.release.registry import Registry
from sundial.runs import Run, list_runs
from sundial.serving.archive import Archive
from sundial.serving.compaction import compact_log
from sundial.serving.frames import list_segments, segment_path
from sundial.serving.predictions import production_folder, read_log
from sundial.serving.shadowlog import read_totals, shadow_folder
from sundial.settings import Settings, load_settings
from tests.benchmarks.figures import Figure, write_figures

DAY, WEEK, YEAR = 86_400, 7 * 86_400, 365 * 86_400
GB, TB = 1e9, 1e12


class Rates(NamedTuple):
    """What was measured; bytes and seconds."""

    segment: float
    parquet: float
    shadow: float
    compaction: float
    run: float
    run_seconds: float
    kept: float
    registry: float
    prefect: float
    backup: float
    restore: float


def measure(pipeline: str, settings: Settings) -> Rates:
    """Measure on the artifacts that are there."""
    runs = [run for run in list_runs(pipeline, kind="release", settings=settings) if run.succeeded("11_promote_model")]
    if not runs:
        raise SystemExit(f"no promoted release of {pipeline} under {settings.artifacts}: make demo")
    versions = Registry(settings).versions(pipeline)
    with tempfile.TemporaryDirectory(prefix="sundial-growth-") as temporary:
        scratch = Path(temporary)
        segment, parquet, compaction = measure_log(pipeline, settings, scratch / "log")
        began = time.monotonic()
        made = make_backup(settings, str(scratch / "place"))
        backup = made.bytes / (time.monotonic() - began)
        began = time.monotonic()
        restore_backup(settings.model_copy(update={"artifacts": scratch / "back"}), str(scratch / "place"))
        restore = made.bytes / (time.monotonic() - began)
        registry = (pages(settings.artifacts / "mlflow.db") - empty_registry(scratch / "registry")) / len(versions)
    whole = [run for run in runs if run.succeeded("13_review_production")] or runs
    return Rates(
        segment=segment,
        parquet=parquet,
        shadow=measure_shadows(pipeline, [item.version for item in versions], settings),
        compaction=compaction,
        run=sum(size_of(run.folder) for run in whole) / len(whole),
        run_seconds=sum(seconds_of(run) for run in whole) / len(whole),
        kept=1 - len(choose_removable(pipeline, 0, settings)[0]) / len(list_runs(pipeline, settings=settings)),
        registry=registry,
        prefect=pages(settings.artifacts / "prefect" / "prefect.db") / len(runs),
        backup=backup,
        restore=restore,
    )


def measure_log(pipeline: str, settings: Settings, scratch: Path) -> tuple[float, float, float]:
    """Measure bytes a row in segments and in Parquet, and rows a second of compaction, on a copy of the log."""
    copy = settings.model_copy(update={"artifacts": scratch})
    folder = production_folder(pipeline, copy)
    shutil.copytree(production_folder(pipeline, settings), folder)
    rows = len(read_log(pipeline, settings=copy))
    segments = list_segments(folder)
    before = sum(
        segment_path(folder, writer, number).stat().st_size for writer in segments for number in segments[writer]
    )
    for writer, numbers in segments.items():  # a segment is closed once its writer has begun the next
        segment_path(folder, writer, numbers[-1] + 1).touch()
    began = time.monotonic()
    done = compact_log(pipeline, copy)
    seconds = time.monotonic() - began
    archived = sum(file.bytes for file in Archive(folder).ledger().files)
    return before / rows, archived / done.rows, done.rows / seconds


def measure_shadows(pipeline: str, versions: list[int], settings: Settings) -> float:
    """Measure bytes a shadow score, over all versions that scored something."""
    scored = stored = 0
    for version in versions:
        folder = shadow_folder(pipeline, version, settings)
        totals = read_totals(folder) if folder.is_dir() else None
        if totals is not None and totals.rows:
            scored += totals.rows
            stored += sum(path.stat().st_size for path in folder.glob("*.seg"))
    return stored / scored if scored else float("nan")


def pages(database: Path) -> float:
    """Give the bytes that are in use in a SQLite database."""
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        count, free, size = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
    return float((count - free) * size)


def empty_registry(folder: Path) -> float:
    """Make a registry without any model, and give its bytes."""
    folder.mkdir()
    given = os.environ.pop("MLFLOW_TRACKING_URI", None)
    open_client(Settings(root=folder, artifacts=folder))
    if given is not None:
        os.environ["MLFLOW_TRACKING_URI"] = given
    return pages(folder / "mlflow.db")


def size_of(folder: Path) -> int:
    """Sum up the files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def seconds_of(run: Run) -> float:
    """Sum up what the stages of a run took."""
    return sum(float(record.get("seconds") or 0) for record in run.stages().values())


def plan(rates: Rates, a_second: float, pipelines: int, years: float, keep_days: int) -> list[Figure]:
    """Say what these rates come to."""
    rows, weeks = a_second * YEAR * years, 52 * years
    runs = pipelines * weeks
    held = a_second * DAY * keep_days
    return [
        Figure("predictions", rows / 1e9, "billion"),
        Figure("log as Parquet, all kept", rows * rates.parquet / TB, "TB"),
        Figure(f"log as Parquet, {keep_days} days kept", held * rates.parquet / TB, "TB"),
        Figure("log in segments, before it is compacted, of a day", a_second * DAY * rates.segment / GB, "GB"),
        Figure("scores of one shadow, all kept", rows * rates.shadow / TB, "TB"),
        Figure("compaction of a day, one core", a_second * DAY / rates.compaction / 60, "minutes"),
        Figure("runs", runs, ""),
        Figure("runs, all kept", runs * rates.run / GB, "GB"),
        Figure(
            "runs, those kept by sundial rm --keep 20", max(runs * rates.kept, pipelines * 20) * rates.run / GB, "GB"
        ),
        Figure("registry", runs * rates.registry / GB, "GB"),
        Figure("Prefect's database", runs * rates.prefect / GB, "GB"),
        Figure("stages a week, one core", pipelines * rates.run_seconds / 60, "minutes"),
        Figure("first backup, without the log", runs * rates.run / rates.backup / 60, "minutes"),
        Figure("backup of a week, without the log", pipelines * rates.run / rates.backup / 60, "minutes"),
        Figure("restore, without the log", runs * rates.run / rates.restore / 60, "minutes"),
    ]


def main() -> None:
    """Measure, plan, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pipeline", default="flights")
    parser.add_argument("--a-second", type=float, default=1000, help="predictions, of all pipelines together")
    parser.add_argument("--pipelines", type=int, default=100)
    parser.add_argument("--years", type=float, default=3)
    parser.add_argument("--keep-days", type=int, default=90, help="SUNDIAL_LOG_KEEP_DAYS of the plan")
    asked = parser.parse_args()
    settings = load_settings()
    load_pipeline(asked.pipeline, settings)
    rates = measure(asked.pipeline, settings)
    measured = [
        Figure("a prediction, in a segment", rates.segment, "bytes"),
        Figure("a prediction, in Parquet", rates.parquet, "bytes"),
        Figure("a score of a shadow", rates.shadow, "bytes"),
        Figure("compaction, one core", rates.compaction, "rows/s"),
        Figure("a run, all thirteen stages", rates.run / 1e6, "MB"),
        Figure("a run's stages", rates.run_seconds, "s"),
        Figure("runs on which something stands", rates.kept, "of all"),
        Figure("a version in the registry", rates.registry / 1e3, "kB"),
        Figure("a release in Prefect's database", rates.prefect / 1e6, "MB"),
        Figure("backup, first", rates.backup / 1e6, "MB/s"),
        Figure("restore", rates.restore / 1e6, "MB/s"),
    ]
    planned = plan(rates, asked.a_second, asked.pipelines, asked.years, asked.keep_days)
    title = f"{asked.a_second:g} a second, {asked.pipelines} pipelines, {asked.years:g} years"
    write_figures("growth", [*measured, *(figure._replace(figure=f"{title}: {figure.figure}") for figure in planned)])


if __name__ == "__main__":
    main()
