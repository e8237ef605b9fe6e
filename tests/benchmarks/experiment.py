"""make bench-experiment: a changed max_iter, from the command to the printed comparison.

A release of the pipeline that ships is made first, promoted to production in a registry of its own. Then the command is
run as a person runs it, in a new process, and timed until its comparison is printed. Goal: less than stages 06 to 08
took in that very experiment, plus ten seconds.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sundial.execution.kernels import kernel_server
from sundial.execution.runner import run_stage
from sundial.pipeline import load_pipeline
from sundial.release.models import build_model_folder
from sundial.release.registry import Registry, release_tags
from sundial.runs import create_run, list_runs
from sundial.settings import load_settings
from tests.benchmarks.figures import Figure, write_figures

PIPELINE, AS_OF = "flights", "2013-09-30"
BELOW = ("06_train_model", "07_evaluate_model", "08_evaluate_business")
ALLOWED = 10.0
TIMES = 3


def promote() -> None:
    """Make a release, and put its model into production."""
    settings = load_settings()
    pipeline = load_pipeline(PIPELINE, settings)
    run = create_run(PIPELINE, AS_OF, started_by="bench", settings=settings)
    with kernel_server(settings) as serving:
        for stage in pipeline.release_stages:
            run_stage(run, stage, settings=serving)
    registry = Registry(settings)
    folder = build_model_folder(run, run.folder / "servable", pipeline=pipeline)
    registry.set_alias(PIPELINE, "production", registry.register(PIPELINE, folder, release_tags(run)), by="bench")


def experiment(rounds: int) -> tuple[float, float]:
    """Run the command; give the seconds until its comparison was printed, and those of its stages."""
    command = [sys.executable, "-m", "sundial", "experiment", "--set", f"06_train_model.max_iter={rounds}"]
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        printed = 0.0
        for line in process.stdout:
            if "From start to comparison" in line:
                printed = time.monotonic() - began
    if process.returncode or not printed:
        raise SystemExit(f"{' '.join(command)} ended with code {process.returncode}")
    run = list_runs(PIPELINE, kind="experiment")[-1]
    return printed, sum(run.stage_record(stage)["seconds"] for stage in BELOW)


def main() -> None:
    """Measure, print and write the figures."""
    settings = load_settings()
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["SUNDIAL_ARTIFACTS"] = temporary
        if settings.warehouse.is_dir():
            shutil.copytree(settings.warehouse, Path(temporary) / "warehouse")
        promote()
        # other numbers each time: the same would be reused
        measured = [experiment(300 + 10 * number) for number in range(TIMES)]
    del os.environ["SUNDIAL_ARTIFACTS"]
    overheads = [printed - stages for printed, stages in measured]
    overhead = statistics.median(overheads)
    write_figures(
        "experiment",
        [
            Figure("command to printed comparison, median", statistics.median(one for one, _ in measured), "s"),
            Figure("of it stages 06 to 08, median", statistics.median(one for _, one in measured), "s"),
            Figure("beside the stages, largest", max(overheads), "s"),
            Figure("beside the stages, median", overhead, "s", f"less than {ALLOWED:g}", overhead < ALLOWED),
        ],
    )


if __name__ == "__main__":
    main()
