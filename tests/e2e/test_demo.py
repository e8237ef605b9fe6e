"""What a newcomer sees: the demo as a command, and each notebook opened by hand after it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbclient
import nbformat
import psutil
import pytest

from sundial.formats import read_json
from sundial.operations.services import free_port
from sundial.runs import Run, list_runs
from sundial.settings import load_settings
from tests.e2e.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
NOTEBOOKS = sorted(
    [*(ROOT / "notebooks" / "flights").glob("*.ipynb"), *(ROOT / "notebooks" / "lifecycle").glob("*.ipynb")]
)


COMMAND = [sys.executable, "-m", "sundial", "demo", "--approve", "reviewer"]


def left_behind(artifacts: Path) -> list[list[str]]:
    """List what still runs and knows these artifacts."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get("SUNDIAL_ARTIFACTS") == str(artifacts):
                found.append(process.cmdline())
        except psutil.Error:
            continue
    return found


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int, Path]]:
    """Start the demo as a newcomer does, press Ctrl-C at its first stages; give output, code, artifacts."""
    artifacts = tmp_path_factory.mktemp("demo") / "artifacts"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SUNDIAL_ARTIFACTS", str(artifacts))
        patch.setenv("SUNDIAL_PREFECT_PORT", str(free_port()))
        patch.setenv("SUNDIAL_SERVE_PORT", str(free_port()))
        patch.delenv("SUNDIAL_ROOT", raising=False)
        patch.delenv("MPLBACKEND", raising=False)  # a person's Jupyter shows plots
        demo = subprocess.Popen(
            COMMAND,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            # what runs tests in the background ignores it
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        deadline = time.monotonic() + 240
        while not list(artifacts.glob("runs/*/02_filter_data/stage.json")):
            assert demo.poll() is None, demo.communicate()[0]
            assert time.monotonic() < deadline, "no stage has begun"
            time.sleep(0.2)
        os.killpg(demo.pid, signal.SIGINT)
        printed, _ = demo.communicate(timeout=60)
        yield printed, demo.returncode, artifacts


@pytest.fixture(scope="module")
def demo(interrupted: tuple[str, int, Path]) -> tuple[str, Path]:
    """Run the demo again, to its end; give what it printed, and its artifacts."""
    artifacts = interrupted[-1]
    done = subprocess.run(
        COMMAND, capture_output=True, text=True, cwd=ROOT, timeout=800, stdin=subprocess.DEVNULL, check=False
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    return done.stdout, artifacts


def releases(artifacts: Path) -> list[Run]:
    """Open the demo's releases."""
    return [
        run for run in list_runs("flights", kind="release", settings=load_settings()) if artifacts in run.folder.parents
    ]


def test_ctrl_c_ends_everything_and_says_so(interrupted: tuple[str, int, Path]):
    """Exit code 130, one sentence, no traceback, and no process left behind."""
    printed, code, artifacts = interrupted

    assert 130 == code, printed
    assert "The demo starts clean." in printed
    assert "interrupted; everything it started has been ended" in printed
    assert "Traceback" not in printed
    assert [] == left_behind(artifacts)


def test_an_interrupted_demo_goes_on_and_says_so(demo: tuple[str, Path]):
    """The second start says that it goes on, and the first release keeps the run that it had begun."""
    printed, artifacts = demo

    assert "this one goes on where it stopped" in printed
    assert 1 == len([run for run in releases(artifacts) if f"{run.as_of:%Y-%m-%d}" == "2013-09-30"])


def test_it_turns_the_loop_and_says_what_happened(demo: tuple[str, Path]):
    """Two versions, three decisions, every request answered, and the reports' index at the end."""
    printed, artifacts = demo

    first, second = releases(artifacts)
    assert "requests, 0 failed" in printed
    assert ["approve"] == [item["decision"] for item in read_json(first.folder / "decisions.json")]
    assert ["approve", "keep"] == [item["decision"] for item in read_json(second.folder / "decisions.json")]
    assert all(second.succeeded(stage) for stage in second.stages())
    assert 13 == len(second.stages())
    assert (artifacts / "reports" / "index.html").exists()
    assert "Seconds per stage" in printed


def test_it_leaves_no_process_behind(demo: tuple[str, Path]):
    """Nothing that knows the demo's artifacts runs after it."""
    assert [] == left_behind(demo[-1])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_each_notebook_runs_by_hand_and_makes_what_the_flow_made(demo: tuple[str, Path], path: Path):
    """Jupyter's own executor, the defaults, a scratch run; given the flow's date, the outputs are the same bytes."""
    _, artifacts = demo
    second = releases(artifacts)[-1]
    notebook = nbformat.read(path, as_version=4)
    cell = next(item for item in notebook.cells if "parameters" in item.metadata.get("tags", []))
    stage = path.stem
    assert f'as_of: str = "{second.stage_record(stage)["as_of"][:10]}"' in cell.source, "the default is the demo's date"

    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}}).execute()

    scratch = [run for run in list_runs("flights", kind="scratch") if stage in run.stages()][-1]
    made = scratch.stage_record(stage)["outputs"]
    flow = second.stage_record(stage)["outputs"]
    assert set(flow) == set(made)
    # what stages 01 to 06 make depends on data, date and code alone; from 07 on also on what was in production then
    if stage < "07":
        assert {name: item["sha256"] for name, item in flow.items()} == {n: i["sha256"] for n, i in made.items()}
    assert any("image/png" in out.get("data", {}) for item in notebook.cells for out in item.get("outputs", []))
