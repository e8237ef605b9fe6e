"""make bench-cache: one stage is edited and the release made again; its cost beside that stage and those below it.

On the pipeline that ships and in its own copy of the notebooks, so that nothing of the project is touched. Each edited
release is timed as the flow runs it, stage after stage with reuse; what it is held against is the wall time of the very
same stages in a release that reuses nothing.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path

import nbformat

from sundial.execution.kernels import kernel_server
from sundial.execution.runner import finish_rendering, run_stage
from sundial.pipeline import load_pipeline
from sundial.release.registry import Registry
from sundial.runs import create_run
from sundial.settings import Settings, load_settings
from tests.benchmarks.figures import Figure, write_figures

PIPELINE, AS_OF = "flights", "2013-09-30"
EDITED = ("02_filter_data", "04_build_training_set", "06_train_model", "08_evaluate_business")
GOAL = 1.1


def release(settings: Settings, *, reuse: bool) -> dict[str, tuple[float, bool]]:
    """Make the stages of a release; give the wall time of each, and whether it was reused."""
    run = create_run(PIPELINE, AS_OF, started_by="bench", settings=settings)
    walls = {}
    for stage in load_pipeline(PIPELINE, settings).release_stages:
        began = time.monotonic()
        record = run_stage(run, stage, reuse=reuse, settings=settings)
        walls[stage] = (time.monotonic() - began, bool(record.get("reused")))
    finish_rendering()  # beside the stages, and not in what a stage took
    return walls


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
            whole = release(serving, reuse=False)
            unchanged = release(serving, reuse=True)
            figures.append(Figure("release, nothing reused", sum(wall for wall, _ in whole.values()), "s"))
            figures.append(Figure("release, nothing changed", sum(wall for wall, _ in unchanged.values()), "s"))
            for stage in EDITED:
                edit(notebooks / PIPELINE / f"{stage}.ipynb")
                walls = release(serving, reuse=True)
                ran = [name for name, (_, reused) in walls.items() if not reused]
                fresh = release(serving, reuse=False)
                total, alone = sum(wall for wall, _ in walls.values()), sum(fresh[name][0] for name in ran)
                ratio = total / alone
                label = f"{stage} edited: {len(ran)} stages of {len(walls)} ran, {total:.1f} s against {alone:.1f} s"
                figures.append(Figure(label, ratio, "x", f"at most {GOAL}", ratio <= GOAL))
    del os.environ["SUNDIAL_ARTIFACTS"], os.environ["SUNDIAL_NOTEBOOKS"]
    write_figures("cache", figures)


if __name__ == "__main__":
    main()
