"""make bench-cache: one stage is edited and the release made again; its cost beside that stage and those below it.

On the pipeline that ships and in its own copy of the notebooks, so that nothing of the project is touched. Each edited
release is timed as the flow runs it, stage after stage with reuse; what it is held against is the wall time of the very
same stages run once more, right behind it, in the same run and without reuse. Medians of ROUNDS (5) edits.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import nbformat

from sundial.execution.kernels import kernel_server
from sundial.execution.runner import finish_rendering, run_stage
from sundial.pipeline import load_pipeline
from sundial.release.registry import Registry
from sundial.runs import Run, create_run
from sundial.settings import Settings, load_settings
from tests.benchmarks.figures import Figure, write_figures

PIPELINE, AS_OF = "flights", "2013-09-30"
EDITED = ("02_filter_data", "04_build_training_set", "06_train_model", "08_evaluate_business")
GOAL = 1.1
ROUNDS = int(os.environ.get("ROUNDS", "5"))


def run_stages(run: Run, stages: Iterable[str], settings: Settings, *, reuse: bool) -> dict[str, tuple[float, bool]]:
    """Run stages; give the wall time of each, and whether it was reused."""
    walls = {}
    for stage in stages:
        began = time.monotonic()
        record = run_stage(run, stage, reuse=reuse, settings=settings)
        walls[stage] = (time.monotonic() - began, bool(record.get("reused")))
    finish_rendering()  # beside the stages, and not in what a stage took
    return walls


def release(settings: Settings, *, reuse: bool) -> tuple[Run, dict[str, tuple[float, bool]]]:
    """Make a release; give its run, and what its stages took."""
    run = create_run(PIPELINE, AS_OF, started_by="bench", settings=settings)
    return run, run_stages(run, load_pipeline(PIPELINE, settings).release_stages, settings, reuse=reuse)


def total(walls: dict[str, tuple[float, bool]]) -> float:
    """Sum up what stages took."""
    return sum(wall for wall, _ in walls.values())


def measure_edit(notebook: Path, settings: Settings) -> tuple[int, float, float]:
    """Edit a notebook and release; give how many stages ran, what all took, and what those take alone."""
    edit(notebook)
    run, walls = release(settings, reuse=True)
    ran = [name for name, (_, reused) in walls.items() if not reused]
    return len(ran), total(walls), total(run_stages(run, ran, settings, reuse=False))


def edit(notebook: Path) -> None:
    """Change code without changing what it does."""
    content = nbformat.read(notebook, as_version=4)
    cell = next(cell for cell in content.cells if cell.cell_type == "code")
    cell.source += "\n# edited"
    nbformat.write(content, notebook)


def main() -> None:
    """Measure, print and write the figures."""
    settings = load_settings()
    figures = []
    with tempfile.TemporaryDirectory() as temporary:
        notebooks = Path(temporary) / "notebooks"
        shutil.copytree(settings.notebooks, notebooks)
        os.environ["SUNDIAL_NOTEBOOKS"] = str(notebooks)
        os.environ["SUNDIAL_ARTIFACTS"] = str(Path(temporary) / "artifacts")
        if settings.warehouse.is_dir():
            shutil.copytree(settings.warehouse, Path(temporary) / "artifacts" / "warehouse")
        with kernel_server(load_settings()) as serving:
            Registry(serving).alias(PIPELINE, "production")  # a worker has imported MLflow long ago
            release(serving, reuse=False)  # makes the warehouse and warms the disk
            _, whole = release(serving, reuse=False)
            unchanged = statistics.median(total(release(serving, reuse=True)[1]) for _ in range(ROUNDS))
            figures.append(Figure("release, nothing reused", total(whole), "s"))
            figures.append(Figure(f"release, nothing changed, median of {ROUNDS}", unchanged, "s"))
            for stage in EDITED:
                notebook = notebooks / PIPELINE / f"{stage}.ipynb"
                rounds = [measure_edit(notebook, serving) for _ in range(ROUNDS)]
                ratio = statistics.median(took / alone for _, took, alone in rounds)
                ran, took, alone = (statistics.median(column) for column in zip(*rounds, strict=True))
                label = f"{stage} edited: {ran:.0f} stages of {len(whole)} ran, {took:.1f} s against {alone:.1f} s"
                figures.append(Figure(label, ratio, "x", f"at most {GOAL}", ratio <= GOAL))
    del os.environ["SUNDIAL_ARTIFACTS"], os.environ["SUNDIAL_NOTEBOOKS"]
    write_figures("cache", figures)


if __name__ == "__main__":
    main()
