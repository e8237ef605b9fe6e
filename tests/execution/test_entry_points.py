"""papermill and jupyter_client find engine and provisioner by name, and what they run shows what stock kernels show."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

from sundial.execution.forkserver import SOCKET_VARIABLE, KernelServer

Write = Callable[..., Path]
CELLS = (
    "# All that a notebook shows",
    "x: int = 1  # a number",
    "import sys\nprint('out', x)\nprint('err', file=sys.stderr)",
    "import pandas as pd\npd.DataFrame({'a': [1.5, None], 'b': ['ä', 'ß']})",
    "import numpy as np\nnp.random.default_rng(0).normal(size=(200, 200)).dot(np.ones((200, 3))).sum()",
    "import matplotlib.pyplot as plt\nplt.plot([1, 3, 2])\nplt.title('plot');",
    "plt.imshow(np.eye(5));",
    "from IPython.display import HTML, Markdown, display\ndisplay(HTML('<b>x</b>'), Markdown('*y*'))\nx + 41",
    "%timeit -n1 -r1 pass\n!echo from the shell",
    "def inner():\n    return {}['missing']\ninner()",
    "print('never')",
)


def papermill(notebook: Path, output: Path, *options: str, socket: str = "") -> tuple[int, nbformat.NotebookNode]:
    """Run papermill's own command; give its exit code and the executed notebook."""
    env = {name: value for name, value in os.environ.items() if name != SOCKET_VARIABLE}
    env |= {SOCKET_VARIABLE: socket} if socket else {}
    words = [sys.executable, "-m", "papermill", str(notebook), str(output), "-p", "x", "1", "--no-progress-bar"]
    done = subprocess.run([*words, *options], env=env, capture_output=True, text=True, timeout=120)
    return done.returncode, nbformat.read(output, as_version=4)


def shown(notebook: nbformat.NotebookNode) -> list[Any]:
    """Give what each cell shows, without what is a time or an address in two runs of one executor too."""
    cells = []
    for cell in notebook.cells:
        if cell.cell_type != "code" or "papermill-error-cell-tag" in cell.metadata.get("tags", []):
            continue
        streams: dict[str, str] = {}
        outputs: list[Any] = []
        for output in cell.outputs:
            if output.output_type == "stream":  # a kernel may send one text in one piece or in two
                streams[output.name] = streams.get(output.name, "") + output.text
            else:
                outputs.append(json.loads(json.dumps(output)))
        timed = cell.source.startswith("%timeit")
        stdout = [line for line in streams.get("stdout", "").splitlines() if not (timed and "loop" in line)]
        cells.append((cell.source, cell.get("execution_count"), stdout, streams.get("stderr", ""), outputs))
    return cells


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fork", "process"])
def test_papermill_shows_what_it_shows_without_us(
    kind: str, write: Write, tmp_path: Path, server: KernelServer
) -> None:
    """Prints, tables, plots, rich output, counts, and the error with its traceback are those of the stock engine."""
    notebook = write(*CELLS)
    stock_code, stock = papermill(notebook, tmp_path / "stock.ipynb")
    code, ours = papermill(
        notebook,
        tmp_path / "ours.ipynb",
        "--engine",
        "sundial",
        socket=str(server.socket) if kind == "fork" else "",
    )

    assert (1, 1) == (stock_code, code)
    assert kind == ours.metadata.papermill.kernel
    assert shown(stock) == shown(ours)
    assert stock.metadata.kernelspec == ours.metadata.kernelspec
    assert stock.metadata.language_info == ours.metadata.language_info


def test_the_engine_says_how_cells_ended(write: Write, tmp_path: Path) -> None:
    """Where stock papermill calls the cells behind a failed one pending, ours says that they were skipped."""
    _, ours = papermill(write("x: int = 1", "1 / 0", "print('never')"), tmp_path / "ours.ipynb", "--engine", "sundial")
    statuses = [cell.metadata.papermill.status for cell in ours.cells if "papermill" in cell.metadata]

    assert ["completed", "completed", "failed", "skipped"] == statuses[-4:]


@pytest.mark.parametrize(("kernel", "expected"), [("auto", "fork"), ("process", "process")])
def test_any_kernel_of_jupyter_can_be_forked(
    kernel: str, expected: str, server: KernelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stock kernel manager, told the provisioner's name, gets a fork, runs code, and leaves nothing behind."""
    import psutil
    from jupyter_client.manager import KernelManager
    from jupyter_client.provisioning import KernelProvisionerFactory

    monkeypatch.setenv(SOCKET_VARIABLE, str(server.socket))
    monkeypatch.setenv("SUNDIAL_KERNEL", kernel)
    monkeypatch.setattr(KernelProvisionerFactory.instance(), "default_provisioner_name", "sundial-provisioner")
    manager = KernelManager()
    manager.start_kernel()
    client = manager.client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=60)
        told = []
        client.execute_interactive("print(6 * 7)", timeout=30, output_hook=lambda message: told.append(message))
        pid, kind = manager.provisioner.pid, manager.provisioner.kind
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()

    assert expected == kind
    assert ["42\n"] == [message["content"]["text"] for message in told if message["msg_type"] == "stream"]
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
