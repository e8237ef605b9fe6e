"""What a stage made and a disk lost: made again beside the run, and put back only where it is the same to the byte.

The record, the executed notebook and with them the evidence that somebody may have signed stay as they are. Where the
stage gives something else today, nothing is put back: then the release has to be made again from there.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable

from sundial.errors import ArtifactCorruptError, ArtifactNotFoundError, SundialError
from sundial.execution.runner import run_stage
from sundial.formats import hash_file, write_bytes_atomically
from sundial.runs import Run, create_run
from sundial.settings import Settings, load_settings

logger = logging.getLogger("sundial.execution")


def list_damaged(run: Run) -> dict[str, list[str]]:
    """List the outputs of succeeded stages that are gone or not what was written, by stage, in order."""
    damaged: dict[str, list[str]] = {}
    for stage, record in run.stages().items():
        for output in record.get("outputs", {}) if record.get("status") == "succeeded" else ():
            try:
                run.verify_output(stage, output)
            except (ArtifactCorruptError, ArtifactNotFoundError):
                damaged.setdefault(stage, []).append(output)
    return damaged


def restore_outputs(
    run: Run, settings: Settings | None = None, *, say: Callable[[str], None] = logger.warning
) -> list[str]:
    """Put back what is gone or was changed among the outputs of a run.

    Parameters
    ----------
    run : Run
        A release or an experiment.
    settings : Settings, optional
        Read from the environment by default.
    say : callable
        Told what was put back, and what could not be.

    Returns
    -------
    list of str
        Names of the stages whose outputs could not be had again.
    """
    settings = settings or load_settings()
    lost = []
    for stage, outputs in list_damaged(run).items():
        record = run.stage_record(stage)
        again = create_run(
            run.pipeline, run.as_of, kind="scratch", base=run.name, started_by="restoring", settings=settings
        )
        carried = {name: run.manifest()[name] for name in ("parameters", "notebooks") if name in run.manifest()}
        again.update(**carried)
        try:
            run_stage(again, stage, as_of=record.get("as_of"), settings=settings)
            same = [name for name in outputs if _put_back(run, again, stage, name)]
        except SundialError as error:
            say(f"{stage} of {run.name} cannot be made again: {error.message}")
            same = []
        finally:
            shutil.rmtree(again.folder, ignore_errors=True)
        if same:
            say(f"{stage} of {run.name}: {', '.join(same)} put back, the same to the byte")
        if len(same) < len(outputs):
            rest = ", ".join(name for name in outputs if name not in same)
            say(f"{stage} of {run.name}: {rest} cannot be had again as it was")
            lost.append(stage)
    return lost


def _put_back(run: Run, again: Run, stage: str, name: str) -> bool:
    """Put one output back, if what was made again hashes as the record says."""
    record = run.stage_record(stage)["outputs"][name]
    made = again.verify_output(stage, name)
    if hash_file(made) != record["sha256"]:
        return False
    write_bytes_atomically(run.folder / record["path"], made.read_bytes())
    return True


def give_up_lost(run: Run, lost: list[str]) -> None:
    """Mark stages whose outputs cannot be had again as failed, so that a release goes on from the first of them."""
    for stage in lost:
        message = f"{stage} failed: what it had made is gone, and it gives something else today"
        error = {"cell": None, "source": "", "cause": message, "message": message}
        run.update_stage(stage, status="failed", error=error)
