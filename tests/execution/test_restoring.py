"""What a disk lost is put back where it comes out the same to the byte, and nothing else of the run changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from sundial.execution.restoring import give_up_lost, list_damaged, restore_outputs
from sundial.execution.runner import run_stage
from sundial.formats import hash_file
from sundial.release.steps import remaining_stages
from sundial.runs import create_run, list_runs

pytestmark = pytest.mark.slow


def test_lost_and_changed_outputs_are_put_back_to_the_byte(project: Path):
    """One output is gone and one has a flipped byte; both come back, records and notebooks are untouched."""
    run = create_run("tiny", "2013-09-30")
    for stage in ("01_query_data", "04_build_training_set"):
        run_stage(run, stage)
    assert {} == list_damaged(run)
    files = {path: hash_file(path) for path in run.folder.rglob("*") if path.suffix in (".json", ".ipynb", ".parquet")}
    (run.folder / "01_query_data" / "outputs" / "parcels.parquet").unlink()
    changed = run.folder / "04_build_training_set" / "outputs" / "training_set.parquet"
    content = bytearray(changed.read_bytes())
    content[100] ^= 1
    changed.write_bytes(content)
    assert {"01_query_data": ["parcels"], "04_build_training_set": ["training_set"]} == list_damaged(run)

    said: list[str] = []
    assert [] == restore_outputs(run, say=said.append)
    assert all("the same to the byte" in text for text in said)
    assert files == {path: hash_file(path) for path in files}
    assert [run.name] == [item.name for item in list_runs()]


def test_what_comes_out_otherwise_is_not_put_back(project: Path):
    """Its source has changed since: the file stays lost, and a release goes on from the stage that makes it."""
    run = create_run("tiny", "2013-09-30")
    run_stage(run, "01_query_data")
    output = run.folder / "01_query_data" / "outputs" / "parcels.parquet"
    output.unlink()
    library = project / "lib" / "tiny.py"
    library.write_text(library.read_text().replace("PARCELS_A_DAY = 40", "PARCELS_A_DAY = 41"))

    said: list[str] = []
    assert ["01_query_data"] == restore_outputs(run, say=said.append)
    assert "cannot be had again as it was" in said[-1]
    assert not output.exists()
    give_up_lost(run, ["01_query_data"])
    assert ["01_query_data", "04_build_training_set"] == remaining_stages(
        run, ("01_query_data", "04_build_training_set")
    )
