"""The kernel server forks kernels that are as good as fresh ones, refuses when they are not, and never outlives us."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from sundial.errors import KernelDiedError, ServiceError
from sundial.execution import forkserver
from sundial.execution.forkserver import SOCKET_VARIABLE, KernelServer, start_kernel_server
from sundial.execution.notebooks import run_notebook
from sundial.settings import Settings, load_settings

Write = Callable[..., Path]


@pytest.fixture
def forking(server: KernelServer) -> Settings:
    """Give settings that use the session's server."""
    return load_settings().model_copy(update={"kernel_socket": str(server.socket)})


def printed(notebook: Path, folder: Path, settings: Settings) -> tuple[str, str]:
    """Run a notebook; give what its first cell printed, and the kind of its kernel."""
    done = run_notebook(notebook, folder / "done.ipynb", settings=settings)
    return done.notebook.cells[0].outputs[0].text, done.kernel


def test_socket_is_private(server: KernelServer) -> None:
    """Nobody else can connect: whoever can, can run code."""
    assert 0o600 == stat.S_IMODE(server.socket.stat().st_mode)
    assert 0o700 == stat.S_IMODE(server.socket.parent.stat().st_mode)


def test_holds_one_thread_and_no_project_code(server: KernelServer, write: Write, tmp_path: Path) -> None:
    """The server has one thread; no module of the project is loaded before the fork, and the named ones are."""
    settings = load_settings().model_copy(update={"kernel_socket": str(server.socket)})
    source = "import sys\nprint([name for name in ('numpy', 'sundial', 'flights') if name in sys.modules])"

    assert 1 == psutil.Process(server.pid).num_threads()
    assert ("['numpy']\n", "fork") == printed(write(source), tmp_path, settings)
    assert {"numpy", "matplotlib.pyplot"} <= set(server.report()["modules"])


def test_kernels_draw_their_own_numbers(forking: Settings, write: Write, tmp_path: Path) -> None:
    """The state of the random generators is not the server's, so no two kernels draw the same."""
    notebook = write("import random\nimport numpy as np\nprint(np.random.rand(), random.random())")

    drawn = [printed(notebook, tmp_path, forking)[0].split() for _ in range(3)]

    assert 3 == len({first for first, _ in drawn})
    assert 3 == len({second for _, second in drawn})


def test_linear_algebra_has_its_threads(forking: Settings, write: Write, tmp_path: Path) -> None:
    """BLAS is imported with one thread and given its own number back in the kernel."""
    source = (
        "import numpy as np\nfrom threadpoolctl import threadpool_info\nnp.ones((300, 300)) @ np.ones((300, 300))\n"
        "print([pool['num_threads'] for pool in threadpool_info() if pool['user_api'] == 'blas'])"
    )
    process = forking.model_copy(update={"kernel": "process"})

    assert printed(write(source), tmp_path, process)[0] == printed(write(source), tmp_path, forking)[0]


@pytest.mark.parametrize(
    "variable",
    ["PYTHONHASHSEED", "OMP_NUM_THREADS", "TZ", "LC_ALL", "SKLEARN_ASSUME_FINITE", "PANDERA_CACHE_DATAFRAME"],
)
def test_refuses_what_a_fork_cannot_change(
    variable: str, forking: Settings, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is read at start-up and differs means a process of its own, in which it holds."""
    value = {"TZ": "UTC", "LC_ALL": "C"}.get(variable, "1")
    monkeypatch.setenv(variable, value)

    notebook = write(f"import os\nprint(os.environ[{variable!r}])")

    assert (f"{value}\n", "process") == printed(notebook, tmp_path, forking)


def test_modules_of_other_folders_are_found(
    forking: Settings, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PYTHONPATH may differ, as it does on a work pool of Prefect; its modules come first, as in a fresh process."""
    for name, folder in (("ours_alone", "one"), ("shared_name", "one"), ("shared_name", "two")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f"{name}.py").write_text(f"where = {folder!r}")
    notebook = write("import sys, ours_alone, shared_name\nprint(shared_name.where, sys.path[:2], len(sys.path))")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'two'}:{tmp_path / 'one'}")

    text, kind = printed(notebook, tmp_path, forking)

    assert "fork" == kind
    assert text.startswith("two ")
    assert (text, "process") == printed(notebook, tmp_path, forking.model_copy(update={"kernel": "process"}))


@pytest.mark.parametrize("file", ["yaml/__init__.py", "yaml.py"])
def test_refuses_folders_with_another_module_of_what_is_imported(
    file: str, forking: Settings, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the server has imported would be another module in a fresh process, so that is what the notebook gets."""
    (tmp_path / "own" / file).parent.mkdir(parents=True)
    (tmp_path / "own" / file).write_text("mine = True")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "own"))

    assert ("True\n", "process") == printed(write("import yaml\nprint(yaml.mine)"), tmp_path, forking)


def test_refuses_fewer_folders_than_its_own(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that was given folders may have imported from them: whoever has not gets a process of its own."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with start_kernel_server([]) as server:
        server.report()
        assert ("1\n", "fork") == printed(write("print(1)"), tmp_path, load_settings())
        for others in ("", str(tmp_path / "missing"), f"{tmp_path}:{tmp_path / 'missing'}", f"{tmp_path}:here"):
            monkeypatch.setenv("PYTHONPATH", others)
            assert ("1\n", "process") == printed(write("print(1)"), tmp_path, load_settings())


def test_refuses_when_packages_changed(
    forking: Settings, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an upgrade the server's imports are stale, so it is not used."""
    monkeypatch.setattr(forkserver, "installed_key", lambda: "another environment")

    assert ("1\n", "process") == printed(write("print(1)"), tmp_path, forking)


def test_needs_no_server(write: Write, tmp_path: Path) -> None:
    """Without a server, or with the address of one that has gone, a notebook runs in its own process."""
    gone = load_settings().model_copy(update={"kernel": "fork", "kernel_socket": str(tmp_path / "socket")})

    assert ("1\n", "process") == printed(write("print(1)"), tmp_path, gone)
    assert ("1\n", "process") == printed(write("print(1)"), tmp_path, load_settings())


def test_leaves_out_modules_that_start_threads(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that starts a thread is left out, one that is not there too, and the rest is served."""
    package = tmp_path / "packages" / "busybody.py"
    package.parent.mkdir()
    package.write_text("import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))

    with start_kernel_server(["decimal", "busybody", "no_such_module", "fractions"]) as server:
        report = server.report()
        settings = load_settings()
        assert str(server.socket) == settings.kernel_socket
        assert ("1\n", "fork") == printed(write("print(1)"), tmp_path, settings)

    assert ["decimal", "fractions"] == report["modules"]
    assert {
        "no_such_module": "No module named 'no_such_module'",
        "busybody": "it starts a thread when it is imported",
    } == report["skipped"]
    assert SOCKET_VARIABLE not in os.environ
    assert not server.socket.parent.exists()
    assert not psutil.pid_exists(server.pid)


@pytest.mark.slow
def test_preloads_third_party_modules_only(tmp_path: Path) -> None:
    """All that is imported before the fork comes from the interpreter's own folders, and starts no thread."""
    source = (
        "import importlib, os, sys\n"
        f"for name in {forkserver.PRELOAD!r}: importlib.import_module(name)\n"
        "files = [getattr(module, '__file__', None) or '' for module in list(sys.modules.values())]\n"
        "print([f for f in files if os.path.isabs(f) and not f.startswith((sys.prefix, sys.base_prefix))])\n"
        "print(len(os.listdir('/proc/self/task')), 'matplotlib_inline.backend_inline' in sys.modules)"
    )
    quiet = {"OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}

    output = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=True, cwd=tmp_path, env=os.environ | quiet
    )

    assert "[]\n1 False\n" == output.stdout


@pytest.mark.slow
def test_little_is_imported_at_first_use(tmp_path: Path) -> None:
    """A kernel that opens the registry, checks a table and shows it and a figure finds almost all of it imported."""
    used = """
import importlib, io, sys
for name in {preload!r}: importlib.import_module(name)
before = set(sys.modules)
import matplotlib.pyplot as plt, pandas as pd, pandera.pandas as pa
from sundial.release.registry import Registry
assert Registry().alias("tiny", "production") is None
table = pa.DataFrameSchema({{"a": pa.Column(int, pa.Check.ge(0))}}).validate(pd.DataFrame({{"a": [1]}}))
table._repr_html_(), repr(table)
plt.figure().savefig(io.BytesIO(), format="png")
print(*[name for name in sys.modules if name not in before and not name.startswith("sundial")])
"""
    environment = {**os.environ, "SUNDIAL_ARTIFACTS": str(tmp_path), "MPLBACKEND": "agg"}

    output = subprocess.run(
        [sys.executable, "-c", used.format(preload=forkserver.PRELOAD)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=environment,
    )

    assert len(output.stdout.split()) < 30, output.stdout


def test_a_server_that_dies_takes_its_kernels(write: Write, tmp_path: Path) -> None:
    """When the server is killed its kernels are too, and the notebook says that its kernel died."""
    source = "import os, signal, time\nos.kill(os.getppid(), signal.SIGKILL)\ntime.sleep(600)"

    with start_kernel_server([]) as server:
        server.report()
        with pytest.raises(KernelDiedError):
            run_notebook(write(source), tmp_path / "done.ipynb", settings=load_settings())

    with pytest.raises(ServiceError, match="does not answer"):
        server.report()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_dies_with_its_parent(number: signal.Signals, tmp_path: Path) -> None:
    """However the worker ends, neither the server nor a kernel that it runs is left, nor their folder."""
    script = textwrap.dedent(
        """
        import threading, time
        from pathlib import Path
        import nbformat
        from sundial.execution.forkserver import start_kernel_server
        from sundial.execution.notebooks import run_notebook
        from sundial.settings import load_settings
        server = start_kernel_server([])
        server.report()
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(
            "import os, pathlib, time\\npathlib.Path('pid').write_text(str(os.getpid()))\\ntime.sleep(600)")])
        nbformat.write(notebook, "a.ipynb")
        print(server.pid, server.socket.parent, flush=True)
        run_notebook(Path("a.ipynb").resolve(), Path("b.ipynb").resolve(), settings=load_settings())
        """
    )
    worker = subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    with worker:
        assert worker.stdout is not None
        pid, folder = worker.stdout.readline().split()
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            assert worker.poll() is None
        processes = [psutil.Process(int(pid)), psutil.Process(int((tmp_path / "pid").read_text()))]
        worker.send_signal(number)
        worker.wait(20)

    _, alive = psutil.wait_procs(processes, timeout=10)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    assert not Path(folder).exists()


def test_only_on_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere the server says what to set instead."""
    monkeypatch.setattr(sys, "platform", "darwin")

    with pytest.raises(ServiceError, match="SUNDIAL_KERNEL=process"):
        start_kernel_server()
