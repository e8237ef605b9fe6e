"""No output is lost when the process that runs a notebook is killed, and none is shown twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import nbformat

from sundial.execution.journal import journal_path, read_cells, recover
from sundial.execution.notebooks import find_cell, run_notebook
from sundial.execution.runner import recover_run, run_stage
from sundial.runs import create_run
from sundial.settings import Settings

Write = Callable[..., Path]
# Shows text, a table that is replaced, a display that is updated, and then never ends.
SHOWS = (
    "print('first')",
    "from IPython.display import clear_output, display\n"
    "display('gone')\nclear_output()\nhandle = display('old', display_id=True)\nhandle.update('new')",
    "import time\nprint('token-abc', flush=True)\nprint('last words', flush=True)\ntime.sleep(600)",
    "print('never')",
)


def run_and_kill(notebook: Path, output: Path, parameters: dict[str, str]) -> None:
    """Run a notebook in a process of its own, and kill that once the last words are in the journal."""
    code = f"""
        from pathlib import Path
        from sundial.execution.notebooks import run_notebook
        run_notebook(Path({str(notebook)!r}), Path({str(output)!r}), {parameters!r})
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)])
    deadline = time.monotonic() + 60
    journal = journal_path(output)
    while not (journal.exists() and b"last words" in journal.read_bytes()):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def test_nothing_is_lost_when_the_runner_is_killed(write: Write, tmp_path: Path) -> None:
    """Text, a cleared and an updated output are recovered; the cell that ran is failed, the next skipped, once."""
    output = tmp_path / "done.ipynb"
    run_and_kill(write("token: str = 'x'", *SHOWS), output, {"token": "token-abc"})
    half = tmp_path / "half.ipynb"  # the same, killed while it wrote a line
    half.write_bytes(output.read_bytes())
    journal_path(half).write_bytes(journal_path(output).read_bytes()[:-20])

    saved = tmp_path / "saved.ipynb"  # the same, killed between a save and the journal's new beginning
    saved.write_bytes(output.read_bytes())
    journal_path(saved).write_bytes(b'{"notebook": "of an older save"}\n{"cell": 0, "outputs": []}\n')

    assert recover(saved)
    ended = {"completed", "failed", "skipped"}
    assert {cell.metadata.papermill.status for cell in nbformat.read(saved, as_version=4).cells} <= ended
    assert recover(half)
    assert r'"first\n"' in half.read_text()

    assert recover(output)
    cells = [cell for cell in nbformat.read(output, as_version=4).cells if "parameters" not in str(cell.metadata)][-4:]
    assert "first\n" == cells[0].outputs[0].text
    assert ["'new'"] == [shown.data["text/plain"] for shown in cells[1].outputs]
    assert "last words\n" in "".join(shown.get("text", "") for shown in cells[2].outputs)
    assert "RunnerKilled" == cells[2].outputs[-1].ename
    assert ["completed", "completed", "failed", "skipped"] == [cell.metadata.papermill.status for cell in cells]
    assert "token-abc" not in output.read_text()
    whole = output.read_bytes()
    assert not recover(output)
    assert whole == output.read_bytes()


def test_a_notebook_that_ends_leaves_no_journal(write: Write, tmp_path: Path, settings: Settings) -> None:
    """The journal goes with the last save, and a journal that a later save made useless adds nothing."""
    done = run_notebook(write("print('x')"), tmp_path / "done.ipynb", settings=settings)
    assert [] == list(tmp_path.glob(".*journal"))

    journal_path(done.output).write_text('{"notebook": "of an older save"}\n{"cell": 0, "outputs": []}\n')
    before = done.output.read_bytes()
    assert not recover(done.output)
    assert before == done.output.read_bytes()
    assert not journal_path(done.output).exists()


def test_the_cell_of_a_moment_is_found_afterwards(write: Write, tmp_path: Path, settings: Settings) -> None:
    """Whoever was told late of what happened can still say in which cell; before and after the notebook in none."""
    before = datetime.now(UTC)
    run_notebook(write("x = 1", "y = 2"), tmp_path / "notebook.ipynb", settings=settings)
    cells = read_cells(tmp_path / "notebook.ipynb")
    starts = [datetime.fromisoformat(cell.metadata.papermill.start_time) for cell in cells]

    found = [find_cell(tmp_path, at) for at in starts]

    assert sorted(found) == found
    assert found[-1] == found[0] + len([number for number in found if number]) - 1
    assert find_cell(tmp_path, before) is None
    assert find_cell(tmp_path, datetime.now(UTC)) is None
    assert find_cell(tmp_path) is None


def test_a_stage_whose_runner_was_killed_is_failed(demo: Path) -> None:
    """What a killed worker left running is marked with its outputs; what really runs, or ended, is left alone."""
    run = create_run("demo", "2013-09-30")
    run_stage(run, "01_make")
    folder = run.stage_folder("02_use")
    folder.mkdir()
    run_and_kill(write_loose(demo.parent / "loose.ipynb"), folder / "notebook.ipynb", {})
    run.update_stage("02_use", status="running", as_of="2013-09-30")

    states = [cell.metadata.get("papermill", {}).get("status") for cell in read_cells(folder / "notebook.ipynb")]
    assert states.index("running") + 1 == find_cell(folder)
    assert ["02_use"] == recover_run(run)
    assert [] == recover_run(run)
    assert "was killed" in run.stage_record("02_use")["error"]["cause"]
    assert "last words" in (folder / "report.html").read_text()
    assert run.succeeded("01_make")


def write_loose(path: Path) -> Path:
    """Write a notebook that never ends, outside of any pipeline."""
    from tests.execution.conftest import make_notebook

    nbformat.write(make_notebook(*SHOWS), path)
    return path
