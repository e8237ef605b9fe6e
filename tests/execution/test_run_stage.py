"""A stage leaves a record that is true, whatever happened, and raises only after its evidence is kept."""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import threading
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell

from sundial.errors import (
    ArtifactNotFoundError,
    KernelDiedError,
    ParameterError,
    PipelineError,
    RunError,
    StageFailedError,
    StageTimeoutError,
)
from sundial.execution import rendering
from sundial.execution.forkserver import KernelServer
from sundial.execution.rendering import render_now
from sundial.execution.runner import finish_pages, finish_rendering, run_stage
from sundial.runs import Run, create_run
from sundial.scraps import read_scraps
from sundial.settings import Settings, load_settings


@pytest.fixture
def run(demo: Path, server: KernelServer, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Make a release of the demonstration, with a worker's kernel server at hand."""
    monkeypatch.setenv("SUNDIAL_KERNEL_SOCKET", str(server.socket))
    return create_run("demo", "2013-10-07", started_by="test")


def append(notebook: Path, source: str) -> None:
    """Add a cell to a notebook."""
    content = nbformat.read(notebook, as_version=4)
    content.cells.append(new_code_cell(source))
    nbformat.write(content, notebook)


def sha256(path: Path) -> str:
    """Hash a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_records_what_happened(run: Run, demo: Path) -> None:
    """Status, times, parameters, hashes, files, scraps and kernel are in stage.json."""
    run_stage(run, "01_make")
    progress: list[tuple[int, int]] = []

    record = run_stage(run, "02_use", progress=lambda *at: progress.append(at))

    folder = run.stage_folder("02_use")
    assert record == run.stage_record("02_use")
    assert ("succeeded", "2013-10-07T00:00:00") == (record["status"], record["as_of"])
    assert {"as_of": "2013-10-07", "run": run.name, "factor": 3} == record["parameters"]
    assert sha256(demo / "02_use.ipynb") == record["notebook_sha256"]
    assert sha256(folder / "notebook.ipynb") == record["executed_sha256"]
    assert {"01_make/table"} == set(record["inputs"])
    assert sha256(folder / "outputs" / "result.json") == record["outputs"]["result"]["sha256"]
    assert {"total": 18} == json.loads((folder / "outputs" / "result.json").read_text())
    assert {"rows": 3, "auc": {"undefined": True}} == record["scraps"]
    assert math.isnan(run.scraps()["02_use"]["auc"])
    assert "fork" == record["kernel"]["kind"]
    assert record["seconds"] > 0
    assert "error" not in record
    assert (7, 7) == progress[-1]
    finish_rendering()
    assert (folder / "report.html").exists()
    assert (run.folder / "index.html").exists()
    assert (load_settings().reports / "index.html").exists()
    assert {"rows", "auc"} == set(read_scraps(folder / "notebook.ipynb"))


def test_the_next_stage_does_not_wait_for_a_page(run: Run, demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page is rendered beside the next stage; a stage run again waits for its page, so that no old one is left."""
    held, rendered = threading.Event(), []

    def render(run: Run, stage: str, settings: Settings) -> Path:
        held.wait(60)
        rendered.append((stage, run.stage_record(stage)["status"]))
        return run.stage_folder(stage)

    monkeypatch.setenv("SUNDIAL_KERNEL", "process")
    monkeypatch.setattr(rendering, "render_now", render)
    run_stage(run, "01_make")
    run_stage(run, "02_use")
    assert [] == rendered

    threading.Timer(0.2, held.set).start()
    run_stage(run, "01_make")
    assert ("01_make", "succeeded") == rendered[0]
    finish_rendering()
    assert ["01_make", "02_use", "01_make"] == [stage for stage, _ in rendered]


@pytest.mark.parametrize("kernel", ["fork", "gone", "process"])
def test_pages_are_rendered_in_forks(run: Run, demo: Path, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a kernel server no page is rendered in this process; without one, or when it has gone, every page is."""
    here = []

    def render(run: Run, stage: str, settings: Settings) -> Path:
        here.append(stage)
        return render_now(run, stage, settings)

    monkeypatch.setattr(rendering, "render_now", render)
    if kernel == "gone":
        monkeypatch.setenv("SUNDIAL_KERNEL_SOCKET", "/nonexistent/socket")
    elif kernel == "process":
        monkeypatch.setenv("SUNDIAL_KERNEL", "process")
    run_stage(run, "01_make")
    finish_rendering()

    assert ([] if kernel == "fork" else ["01_make"]) == here
    assert "succeeded" in (run.stage_folder("01_make") / "report.html").read_text()


def test_a_run_that_goes_on_gets_its_missing_pages(run: Run, demo: Path) -> None:
    """A page that a killed process left out is made when people are told of the run; one that is there stays."""
    for stage in ("01_make", "02_use"):
        run_stage(run, stage)
    finish_rendering()
    pages = [run.stage_folder(stage) / "report.html" for stage in ("01_make", "02_use")]
    pages[0].unlink()
    pages[1].write_text("as it was")

    finish_pages(run, load_settings())

    assert "Make" in pages[0].read_text()
    assert "as it was" == pages[1].read_text()


def test_a_failure_is_told_once_all_pages_are_there(run: Run, demo: Path) -> None:
    """Who is told that a stage failed finds its page and those of the stages before it, and the run's page says so."""
    append(demo / "02_use.ipynb", "1 / 0")
    run_stage(run, "01_make")
    with pytest.raises(StageFailedError):
        run_stage(run, "02_use")

    assert all((run.stage_folder(stage) / "report.html").is_file() for stage in ("01_make", "02_use"))
    assert "02_use failed" in (run.folder / "index.html").read_text()


def test_parameters_on_top(run: Run) -> None:
    """Given parameters win over pipeline.yaml's, which win over the notebook's; as_of may differ from the run's."""
    run_stage(run, "01_make")

    record = run_stage(run, "02_use", as_of="2013-10-14", parameters={"factor": 5})

    assert {"as_of": "2013-10-14", "run": run.name, "factor": 5} == record["parameters"]
    assert "2013-10-14T00:00:00" == record["as_of"]


def test_refuses_before_anything_is_touched(run: Run) -> None:
    """An unknown stage or a wrong parameter leaves no trace in the run."""
    before = sorted(run.folder.rglob("*"))

    with pytest.raises(PipelineError, match="Did you mean '02_use'"):
        run_stage(run, "02_us")
    with pytest.raises(ParameterError, match=r"unknown parameter 'facto'.*\n.*Did you mean 'factor'"):
        run_stage(run, "02_use", parameters={"facto": 3})

    assert before == sorted(run.folder.rglob("*"))


def test_a_failing_cell(run: Run, demo: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The error, the record and the log say the same; notebook and report were there before."""
    append(demo / "01_make.ipynb", "raise ValueError('out of flights')")

    with pytest.raises(StageFailedError) as error:
        run_stage(run, "01_make")

    record, report = run.stage_record("01_make"), run.stage_folder("01_make") / "report.html"
    assert "failed" == record["status"]
    assert 5 == record["error"]["cell"]
    assert "ValueError: out of flights" == record["error"]["cause"]
    assert "raise ValueError('out of flights')" == record["error"]["source"]
    assert ("01_make", 5, str(report)) == (error.value.stage, error.value.cell, error.value.report)
    for words in ("01_make failed in cell 5", "out of flights", "    raise ValueError", str(report)):
        assert words in str(error.value)
        assert words in caplog.text
    assert "out of flights" in report.read_text()
    assert {"table"} == set(record["outputs"])  # what was saved before stays, for whoever looks for the cause
    assert not run.succeeded("01_make")


def test_a_missing_output(run: Run, demo: Path) -> None:
    """A notebook that runs to its end without saving what it should has failed."""
    content = nbformat.read(demo / "01_make.ipynb", as_version=4)
    del content.cells[-1]
    nbformat.write(content, demo / "01_make.ipynb")

    with pytest.raises(StageFailedError, match="did not save 'table', which pipeline.yaml declares") as error:
        run_stage(run, "01_make")

    assert error.value.cell is None
    assert "failed" == run.stage_record("01_make")["status"]


def test_a_changed_output(run: Run, demo: Path) -> None:
    """An output that is not what was saved is found before the stage is called succeeded."""
    append(demo / "01_make.ipynb", "(stage.folder / 'outputs' / 'table.parquet').write_bytes(b'else')")

    with pytest.raises(StageFailedError, match="SHA-256 differs"):
        run_stage(run, "01_make")

    assert not run.succeeded("01_make")


def test_a_scrap_glued_twice(run: Run, demo: Path) -> None:
    """Two scraps of one name fail the stage: nobody could say which of them a gate would read."""
    append(demo / "01_make.ipynb", "import scrapbook\nscrapbook.glue('a', 1)\nscrapbook.glue('a', 2)")

    with pytest.raises(StageFailedError, match="scrap 'a' was recorded twice"):
        run_stage(run, "01_make")


def test_reads_scraps_of_scrapbook(run: Run, demo: Path) -> None:
    """Notebooks that call scrapbook themselves are recorded like any other."""
    append(demo / "01_make.ipynb", "import scrapbook\nscrapbook.glue('a', 1.5)")

    assert {"a": 1.5} == run_stage(run, "01_make")["scraps"]


def test_a_deadline(run: Run, demo: Path) -> None:
    """A stage past its deadline fails with its own error, and its record says so."""
    append(demo / "01_make.ipynb", "import time\ntime.sleep(600)")

    with pytest.raises(StageTimeoutError, match="Deadline"):
        run_stage(run, "01_make", timeout="6 s")

    assert ("failed", 5) == (run.stage_record("01_make")["status"], run.stage_record("01_make")["error"]["cell"])


def test_a_dead_kernel(run: Run, demo: Path) -> None:
    """The signal that killed a kernel is in the record."""
    append(demo / "01_make.ipynb", "import os\nos.kill(os.getpid(), 9)")

    with pytest.raises(KernelDiedError, match="SIGKILL"):
        run_stage(run, "01_make")

    record = run.stage_record("01_make")
    assert ("failed", -9) == (record["status"], record["kernel"]["exit_code"])
    assert record["kernel"]["peak_mib"] > 20


def test_again_after_a_failure(run: Run, demo: Path) -> None:
    """A stage can be run again; nothing of the failed attempt is left, and later stages see the new outputs."""
    append(demo / "01_make.ipynb", "stage.record(old=1)\n(stage.folder / 'outputs' / 'stray').touch()\n1 / 0")
    with pytest.raises(StageFailedError):
        run_stage(run, "01_make")
    content = nbformat.read(demo / "01_make.ipynb", as_version=4)
    del content.cells[-1]
    nbformat.write(content, demo / "01_make.ipynb")

    record = run_stage(run, "01_make")

    assert ("succeeded", {}) == (record["status"], record["scraps"])
    assert "error" not in record
    assert ["table.parquet"] == [path.name for path in (run.stage_folder("01_make") / "outputs").iterdir()]
    run_stage(run, "02_use")


def test_the_same_twice_gives_the_same(run: Run) -> None:
    """Two runs of a stage make the same bytes."""
    first = run_stage(run, "01_make")["outputs"]

    assert first == run_stage(run, "01_make")["outputs"]


def test_one_runner_at_a_time(run: Run) -> None:
    """Two processes cannot run the same stage of the same run."""
    with (run.folder / ".01_make.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="is running already"):
            run_stage(run, "01_make")


def test_an_input_that_is_not_there(run: Run) -> None:
    """A stage whose input nobody made fails in the cell that loads it, and says what to run first."""
    with pytest.raises(StageFailedError, match="01_make") as error:
        run_stage(run, "02_use")

    assert error.value.cause.startswith(ArtifactNotFoundError.__name__)
    assert 5 == error.value.cell


def test_secrets_are_masked(run: Run, demo: Path) -> None:
    """A secret parameter stands in no file of the run."""
    content = nbformat.read(demo / "01_make.ipynb", as_version=4)
    content.cells[1].source += "\napi_key: str = ''"
    content.cells.append(new_code_cell("stage.record(seen=api_key)\nprint(api_key)"))
    nbformat.write(content, demo / "01_make.ipynb")

    record = run_stage(run, "01_make", parameters={"api_key": "very-s3cret"})

    assert "********" == record["parameters"]["api_key"] == record["scraps"]["seen"]
    for path in load_settings().artifacts.rglob("*"):
        assert not path.is_file() or b"very-s3cret" not in path.read_bytes()


def test_interrupted(run: Run, demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C leaves a record that says failed, not one that says running for ever."""

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage(run, "01_make", progress=stop)

    assert "failed" == run.stage_record("01_make")["status"]
    assert (run.stage_folder("01_make") / "notebook.ipynb").exists()
