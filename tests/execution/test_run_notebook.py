"""A notebook is executed strictly, in either kind of kernel, and what is saved is true."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import nbformat
import psutil
import pytest
from nbclient import NotebookClient

from sundial.errors import KernelDiedError, ParameterError, StageFailedError, StageTimeoutError
from sundial.execution import client
from sundial.execution.notebooks import run_notebook
from sundial.settings import Settings

Write = Callable[..., Path]
PARAMETERS = "x: int = 1  # a number\nname: str = 'a'"


def statuses(path: Path) -> list[str]:
    """Read how each cell of an executed notebook ended."""
    return [cell.metadata.papermill.status for cell in nbformat.read(path, as_version=4).cells]


def outputs_of(notebook: nbformat.NotebookNode) -> list[str]:
    """Hash the outputs of each code cell, as the two executors should agree on them."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [
        hashlib.sha256(json.dumps([plain(output) for output in cell.outputs], sort_keys=True).encode()).hexdigest()
        for cell in cells
        if "injected-parameters" not in cell.metadata.get("tags", [])
    ]


def plain(output: dict[str, Any]) -> dict[str, Any]:
    """Leave out the count, which an injected cell moves by one."""
    return {name: value for name, value in output.items() if name != "execution_count"}


def test_runs_with_parameters(write: Write, tmp_path: Path, settings: Settings) -> None:
    """Parameters reach the notebook, its outputs are saved, and progress is told for each cell."""
    seen: list[tuple[int, int]] = []
    notebook = write("# Title", PARAMETERS, "x * 2", "print(name)")

    done = run_notebook(
        notebook, tmp_path / "out" / "done.ipynb", {"x": 21}, settings=settings, progress=lambda *at: seen.append(at)
    )

    saved = nbformat.read(done.output, as_version=4)
    assert "42" == saved.cells[3].outputs[0].data["text/plain"]
    assert "a\n" == saved.cells[4].outputs[0].text
    assert [(n, 5) for n in range(6)] == seen
    assert settings.kernel == done.kernel
    assert 0 == done.exit_code
    assert done.peak_mib > 20
    assert ["done.ipynb"] == [path.name for path in done.output.parent.iterdir()]


def test_equals_the_stock_executor(write: Write, tmp_path: Path, settings: Settings) -> None:
    """The same notebook gives the same outputs, by hash, in Jupyter's own executor and in both of ours."""
    notebook = write(
        "# Parity",
        PARAMETERS,
        "import numpy as np\nrng = np.random.default_rng(0)\na = rng.normal(size=(200, 50))\n(a.T @ a).sum()",
        "import matplotlib.pyplot as plt\nplt.plot([1, 3, 2])\nplt.show()",
        "import sys\nprint('out')\nprint('err', file=sys.stderr)\nsys.path[-3:], sys.flags.safe_path, __name__",
        "from IPython.display import HTML, display\ndisplay(HTML('<b>x</b>'))\n{'x': x, 'name': name}",
        "class A:\n    pass\nimport pickle, multiprocessing\ntype(pickle.loads(pickle.dumps(A()))).__module__",
        "plt.hist([1, 2, 2])",
    )
    stock = nbformat.read(notebook, as_version=4)
    NotebookClient(stock, resources={"metadata": {"path": str(tmp_path)}}).execute()

    done = run_notebook(notebook, tmp_path / "done.ipynb", settings=settings)

    assert settings.kernel == done.kernel
    assert "image/png" in stock.cells[3].outputs[0].data
    assert outputs_of(stock) == outputs_of(done.notebook)


def test_checks_before_a_kernel_starts(write: Write, tmp_path: Path, settings: Settings) -> None:
    """A wrong parameter is refused without any process, and without any file."""
    notebook = write(PARAMETERS, f"open({str(tmp_path / 'ran')!r}, 'w')")
    before = {child.pid for child in psutil.Process().children(recursive=True)}

    for given in ({"y": 1}, {"x": "1"}):
        with pytest.raises(ParameterError):
            run_notebook(notebook, tmp_path / "done.ipynb", given, settings=settings)

    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "done.ipynb").exists()
    assert before == {child.pid for child in psutil.Process().children(recursive=True)}


def test_a_failing_cell(write: Write, tmp_path: Path, settings: Settings) -> None:
    """The error names cell, source and cause; the notebook was saved before; later cells are skipped."""
    notebook = write("# Title", PARAMETERS, "value = 0\n1 / value", "print('never')")

    with pytest.raises(StageFailedError) as error:
        run_notebook(notebook, tmp_path / "done.ipynb", {"x": 2}, name="05_divide", settings=settings)

    assert ("05_divide", 3, "value = 0\n1 / value") == (error.value.stage, error.value.cell, error.value.source)
    assert "ZeroDivisionError: division by zero" == error.value.cause
    assert str(tmp_path / "done.ipynb") == error.value.report
    assert "05_divide failed in cell 3: ZeroDivisionError: division by zero\n    value = 0\n    1 / value" in str(
        error.value
    )
    assert ["completed", "completed", "completed", "failed", "skipped"] == statuses(tmp_path / "done.ipynb")
    saved = nbformat.read(tmp_path / "done.ipynb", as_version=4)
    assert 5 == len(saved.cells)  # none of papermill's own marks
    assert "error" == saved.cells[3].outputs[-1].output_type


@pytest.mark.parametrize("source", ["import sys; sys.exit(0)", "raise SystemExit", "raise KeyboardInterrupt"])
def test_leaving_early_is_a_failure(write: Write, tmp_path: Path, settings: Settings, source: str) -> None:
    """A notebook that leaves before its end has not succeeded, whatever the exit code says."""
    with pytest.raises(StageFailedError):
        run_notebook(write(source, "print('never')"), tmp_path / "done.ipynb", settings=settings)

    assert ["failed", "skipped"] == statuses(tmp_path / "done.ipynb")


def test_a_cell_that_may_raise(write: Write, tmp_path: Path, settings: Settings) -> None:
    """A cell tagged raises-exception does not end the notebook."""
    notebook = write("1 / 0", "'after'")
    content = nbformat.read(notebook, as_version=4)
    content.cells[0].metadata["tags"] = ["raises-exception"]
    nbformat.write(content, notebook)

    done = run_notebook(notebook, tmp_path / "done.ipynb", settings=settings)

    assert "'after'" == done.notebook.cells[1].outputs[0].data["text/plain"]
    assert ["completed", "completed"] == statuses(tmp_path / "done.ipynb")


def test_a_dead_kernel(write: Write, tmp_path: Path, settings: Settings) -> None:
    """A killed kernel is told from an error, with its signal; papermill would call all cells completed."""
    notebook = write("print('before')", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "print('never')")

    with pytest.raises(KernelDiedError, match="SIGKILL") as error:
        run_notebook(notebook, tmp_path / "done.ipynb", settings=settings)

    assert 2 == error.value.cell
    assert ["completed", "failed", "skipped"] == statuses(tmp_path / "done.ipynb")
    saved = nbformat.read(tmp_path / "done.ipynb", as_version=4)
    assert "before\n" == saved.cells[0].outputs[0].text
    assert "KernelDied" == saved.cells[1].outputs[-1].ename
    assert saved.metadata.papermill.exception is True


def test_a_crash_leaves_its_words(write: Write, tmp_path: Path, settings: Settings) -> None:
    """What a crashing library writes to the process's own standard error is kept in the notebook."""
    source = "import os\nos.write(2, b'fatal: out of paper')\nos.abort()"

    with pytest.raises(KernelDiedError, match="SIGABRT"):
        run_notebook(write(source), tmp_path / "done.ipynb", settings=settings)

    assert "fatal: out of paper" in (tmp_path / "done.ipynb").read_text()


def test_a_deadline(write: Write, tmp_path: Path, settings: Settings) -> None:
    """A notebook past its deadline is killed with all that it started, and within a second."""
    source = (
        "import subprocess, time\n"
        "children = [subprocess.Popen(['sleep', '600'], start_new_session=own) for own in (False, True)]\n"
        f"open({str(tmp_path / 'pids')!r}, 'w').write(' '.join(str(child.pid) for child in children))\n"
        "time.sleep(600)"
    )
    began = time.monotonic()

    with pytest.raises(StageTimeoutError, match="Deadline: the notebook ran for more than 4 s") as error:
        run_notebook(write("1", source, "2"), tmp_path / "done.ipynb", timeout="4 s", settings=settings)

    assert time.monotonic() - began < 12
    assert 2 == error.value.cell
    assert ["completed", "failed", "skipped"] == statuses(tmp_path / "done.ipynb")
    _, alive = psutil.wait_procs(find((tmp_path / "pids").read_text()), timeout=5)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def find(pids: str) -> list[psutil.Process]:
    """Find processes that still are there."""
    return [psutil.Process(int(pid)) for pid in pids.split() if psutil.pid_exists(int(pid))]


def test_a_cell_timeout(write: Write, tmp_path: Path, settings: Settings) -> None:
    """A cell may have a limit of its own."""
    notebook = write("1", "import time\ntime.sleep(600)", "2")

    with pytest.raises(StageTimeoutError, match="the cell ran for more than 1 s"):
        run_notebook(notebook, tmp_path / "done.ipynb", cell_timeout=1, settings=settings)

    assert ["completed", "failed", "skipped"] == statuses(tmp_path / "done.ipynb")


def test_masks_secrets(write: Write, tmp_path: Path, settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """A secret parameter works, and stands nowhere: not in the file, the log, or the error."""
    notebook = write("token: str = ''\nx: int = 1", "print('using', token)\ntoken", "raise ValueError(token)")

    with caplog.at_level(logging.INFO, "sundial"), pytest.raises(StageFailedError) as error:
        run_notebook(notebook, tmp_path / "done.ipynb", {"token": "s3cr3t-value"}, settings=settings)

    for text in ((tmp_path / "done.ipynb").read_text(), caplog.text, str(error.value), error.value.cause):
        assert "s3cr3t-value" not in text
    assert "using ********" in caplog.text


def test_saves_while_it_runs(write: Write, tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processes can look at the notebook while it runs, and always see a whole one."""
    monkeypatch.setattr(client, "SAVE_SECONDS", 1.0)
    output = tmp_path / "done.ipynb"
    notebook = write(
        "import time\ntime.sleep(1.2)\nprint('one')",
        f"import json, time\ntime.sleep(0.1)\nseen = json.load(open({str(output)!r}))",
        "print(seen['cells'][0]['outputs'][0]['text'])",
    )

    done = run_notebook(notebook, output, settings=settings)

    assert "['one\\n']\n" == done.notebook.cells[2].outputs[0].text


def test_logs_what_cells_print(
    write: Write, tmp_path: Path, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """Printed lines are logged under the notebook's name; of a progress bar only its last state."""
    notebook = write("print('hello\\nworld')\nprint('1 %\\r50 %\\r100 %', end='')")

    with caplog.at_level(logging.INFO, "sundial"):
        run_notebook(notebook, tmp_path / "done.ipynb", name="01_make", settings=settings)

    lines = [record.getMessage() for record in caplog.records if record.name == "sundial.execution"]
    assert ["01_make: hello", "01_make: world", "01_make: 100 %"] == lines


def test_environment_and_folder(write: Write, tmp_path: Path, settings: Settings) -> None:
    """The kernel has the environment and the working directory that it was given, and ours stay as they were."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    environment = {**os.environ, "DEMO_COLOUR": "blue"}
    here = Path.cwd()

    done = run_notebook(
        write("import os\nprint(os.getcwd(), os.environ['DEMO_COLOUR'])"),
        tmp_path / "done.ipynb",
        cwd=folder,
        env=environment,
        settings=settings,
    )

    assert f"{folder} blue\n" == done.notebook.cells[0].outputs[0].text
    assert here == Path.cwd()
    assert "DEMO_COLOUR" not in os.environ


def test_a_kernel_that_is_not_there(write: Write, tmp_path: Path, settings: Settings) -> None:
    """A kernel that cannot be started is an error that says so, and the notebook is saved."""
    notebook = write("1")
    content = nbformat.read(notebook, as_version=4)
    content.metadata["kernelspec"]["name"] = "fortran"
    nbformat.write(content, notebook)

    with pytest.raises(KernelDiedError, match="fortran") as error:
        run_notebook(notebook, tmp_path / "done.ipynb", settings=settings)

    assert error.value.cell is None
    assert ["skipped"] == statuses(tmp_path / "done.ipynb")


def test_the_end_of_a_kernel_loses_nothing(write: Write, tmp_path: Path, settings: Settings) -> None:
    """Open files are written, exit functions run, threads finish, databases close, cycles are finalized."""
    folder = tmp_path / "left"
    folder.mkdir()
    sources = (
        "import atexit, logging, tempfile, threading, time, types\n"
        "from concurrent.futures import ThreadPoolExecutor\nfrom pathlib import Path\n"
        f"folder = Path({str(folder)!r})",
        "text = (folder / 'open').open('w')\ntext.write('text')",
        "module = types.ModuleType('kept')\nimport sys\nsys.modules['kept'] = module\n"
        "module.file = (folder / 'module').open('wb')\nmodule.file.write(b'module')",
        "atexit.register((folder / 'atexit').write_text, 'atexit')",
        "def late():\n    time.sleep(0.3)\n    (folder / 'thread').write_text('thread')\n"
        "threading.Thread(target=late).start()",
        "pool = ThreadPoolExecutor(1)\npool.submit(time.sleep, 0.2)\n"
        "pool.submit(lambda: (folder / 'executor').write_text('executor'))",
        "class Cyclic:\n    def __init__(self):\n        self.me = self\n        self.path = folder / 'cycle'\n"
        "    def __del__(self):\n        self.path.write_text('cycle')\n"
        "cyclic = Cyclic()",
        "import duckdb\nwarehouse = duckdb.connect(str(folder / 'duckdb'))\n"
        "warehouse.sql('create table found as select 7 as value')",
        "temporary = tempfile.TemporaryDirectory()\nprint(temporary.name)",
    )
    done = run_notebook(write(*sources), tmp_path / "done.ipynb", settings=settings)

    assert 0 == done.exit_code
    for name, text in {"open": "text"}.items() | {(n, n) for n in ("module", "atexit", "thread", "executor", "cycle")}:
        assert text == (folder / name).read_text(), name
    with duckdb.connect(str(folder / "duckdb"), read_only=True) as warehouse:
        assert (7,) == warehouse.sql("from found").limit(1).fetchall()[0]
    assert not Path(done.notebook.cells[-1].outputs[0].text.strip()).exists()


def test_leaves_nothing_behind(write: Write, tmp_path: Path, settings: Settings) -> None:
    """After a notebook there is no process more than before, not even one that the notebook left running."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    source = "import subprocess\nprint(subprocess.Popen(['sleep', '600']).pid)"

    done = run_notebook(write(source), tmp_path / "done.ipynb", settings=settings)

    pid = int(done.notebook.cells[0].outputs[0].text)
    psutil.wait_procs(find(str(pid)), timeout=5)
    assert not psutil.pid_exists(pid)
    assert before == {child.pid for child in psutil.Process().children(recursive=True)}
