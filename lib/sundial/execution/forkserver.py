"""The kernel server of a worker: third-party libraries are imported once, each notebook gets a fork.

Importing pandas, scikit-learn and matplotlib costs a notebook more than its work does. A worker starts one server;
its address travels to flows and stages in ``SUNDIAL_KERNEL_SOCKET``. Whoever cannot reach it, or is refused, uses a
process of its own, with the same results. The other half is ``zygote.py``, which says why it refuses.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from sundial.errors import ServiceError

SOCKET_VARIABLE = "SUNDIAL_KERNEL_SOCKET"
ZYGOTE = Path(__file__).with_name("zygote.py")
# Third-party libraries that notebooks use. Never scrapbook or papermill: they import project code by entry points.
# Never matplotlib_inline: it hooks itself into the shell when it is imported, and there is none before the fork.
PRELOAD = (
    "numpy",
    "pandas",
    "scipy.stats",
    "pyarrow.dataset",
    "pyarrow.parquet",
    "duckdb",
    "sklearn.calibration",
    "sklearn.compose",
    "sklearn.ensemble",
    "sklearn.inspection",
    "sklearn.linear_model",
    "sklearn.metrics",
    "sklearn.model_selection",
    "sklearn.pipeline",
    "sklearn.preprocessing",
    "matplotlib.pyplot",
    "matplotlib.backends.backend_agg",
    "skops.io",
    "pandera.pandas",
    "pydantic_settings",
    "yaml",
    "sqlalchemy",
    "mlflow",
    "mlflow.tracking",
    "nbconvert.exporters.html",  # of the pages, which are rendered in forks too
    "bs4",
    # what the libraries above import when they are first used: 1 s to open the registry, 0.2 s to check a table
    "alembic.command",
    "mlflow.store.model_registry.sqlalchemy_workspace_store",
    "mlflow.store.tracking.sqlalchemy_workspace_store",
    "narwhals._interchange",
    "narwhals._pandas_like.namespace",
    "pandas.core.reshape.reshape",
    "pandas.io.formats.html",
    "pandas.io.formats.string",
    "pandera.accessors.pandas_accessor",
    "pandera.backends.pandas.builtin_checks",
    "pandera.backends.pandas.builtin_hypotheses",
    "pandera.backends.pandas.register",
    "pandera.backends.register_checks",
    "PIL.BmpImagePlugin",
    "PIL.GifImagePlugin",
    "PIL.JpegImagePlugin",
    "PIL.PpmImagePlugin",
    "sqlalchemy.dialects.sqlite",
    "IPython.lib.lexers",
    "jinja2.ext",
    "mistune.plugins.def_list",
    "mistune.plugins.task_lists",
    "mistune.plugins.url",
    "pygments.lexers.markup",
)
# What a kernel's environment has unless it says otherwise; the server's must have it too, since it is read at import.
KERNEL_DEFAULTS = {
    "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait make a busy machine ten times slower
    # scikit-learn sets these when it is imported: whoever has it imported would be refused a fork
    "KMP_DUPLICATE_LIB_OK": "True",
    "KMP_INIT_AT_FORK": "FALSE",
}
# The server answers at once when it is ready; before, it is importing what the kernel would import anyway.
ANSWER_SECONDS = 60.0
STOP_SECONDS = 5.0


class ForkRefusedError(Exception):
    """The kernel server cannot be reached or refuses; the reason is the text."""


class ForkedProcess:
    """A forked kernel, with the methods of :class:`subprocess.Popen` that jupyter_client uses.

    Parameters
    ----------
    connection : socket
        The connection to the server; closing it kills the kernel.
    pid : int
        Process of the kernel, also the number of its group.
    """

    stdin = stdout = stderr = None

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.peak_kib = 0
        self._connection = connection
        self._received = b""
        connection.setblocking(False)

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while it runs."""
        if self.returncode is None:
            try:
                data = self._connection.recv(4096)
            except BlockingIOError:
                return None
            except OSError:
                data = b""
            self._received += data
            if b"\n" in self._received:
                answer = json.loads(self._received.partition(b"\n")[0])
                self.returncode = answer["exit"]
                self.peak_kib = answer["peak_kib"]
            elif not data:  # the server died, and Linux killed its kernels
                self.returncode = -signal.SIGKILL
            if self.returncode is not None:
                self._connection.close()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit code.

        Raises
        ------
        subprocess.TimeoutExpired
            When it still runs after ``timeout`` seconds.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired("forked kernel", timeout or 0)
            time.sleep(0.005)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


class KernelServer:
    """A running kernel server; use it as a context manager, or close it.

    Attributes
    ----------
    socket : Path
        Where it listens; mode 0600 in a folder of mode 0700.
    pid : int
        Its process.
    """

    def __init__(self, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self.socket = folder / "socket"
        self.pid = process.pid
        self._folder = folder
        self._process = process
        self._before = os.environ.get(SOCKET_VARIABLE)
        os.environ[SOCKET_VARIABLE] = str(self.socket)

    def report(self) -> dict[str, Any]:
        """Wait until it serves, and tell what it imported.

        Returns
        -------
        dict
            ``pid``, ``modules``, ``skipped`` (name to reason) and ``seconds``.

        Raises
        ------
        ServiceError
            When it did not start; holds the end of its log.
        """
        try:
            with connect(str(self.socket)) as connection:
                return _ask(connection, {"status": True})
        except ForkRefusedError as error:
            log = (self._folder / "server.log").read_text(errors="replace") if self._folder.exists() else ""
            raise ServiceError(f"the kernel server does not answer: {error}", hint=log[-2000:].strip()) from error

    def close(self) -> None:
        """Stop it, with all its kernels, and leave nothing behind."""
        if self._before is None:
            os.environ.pop(SOCKET_VARIABLE, None)
        else:
            os.environ[SOCKET_VARIABLE] = self._before
        if self._process.stdin is not None:
            self._process.stdin.close()  # its lifeline
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> KernelServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def start_kernel_server(modules: Iterable[str] = PRELOAD) -> KernelServer:
    """Start the kernel server of this worker, and announce it to all processes started from here on.

    It returns at once: the server listens from the start and answers when its imports are done, and a notebook that
    comes early waits for what it would have had to import itself. The server dies with this process.

    Parameters
    ----------
    modules : iterable of str
        Third-party modules to import; one that starts a thread or is not installed is left out.

    Returns
    -------
    KernelServer

    Raises
    ------
    ServiceError
        Elsewhere than on Linux.

    Examples
    --------
    >>> with start_kernel_server() as server:  # doctest: +SKIP
    ...     run_stage(run, "01_query_data")
    """
    if sys.platform != "linux":
        raise ServiceError("kernels can only be forked on Linux", hint="set SUNDIAL_KERNEL=process")
    folder = Path(tempfile.mkdtemp(prefix="sundial-kernels-", dir=short_folder()))  # mode 0700
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        (folder / "socket").chmod(0o600)
        listener.listen(64)
        with (folder / "server.log").open("wb") as log:
            process = subprocess.Popen(  # noqa: S603  our own script
                [
                    sys.executable,
                    str(ZYGOTE),
                    "serve",
                    "--listener",
                    str(listener.fileno()),
                    "--key",
                    installed_key(),
                    "--modules",
                    ",".join(modules),
                ],
                env={**KERNEL_DEFAULTS, **os.environ},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[listener.fileno()],
                start_new_session=True,  # Ctrl-C is ours to handle
            )
    return KernelServer(folder, process)


def short_folder() -> str | None:
    """Give a folder for sockets: their paths may have 107 bytes, which a long TMPDIR uses up."""
    return "/tmp" if len(tempfile.gettempdir()) > 50 and os.access("/tmp", os.W_OK) else None  # noqa: S108


def installed_key() -> str:
    """Name interpreter and installed packages; another key means that a server's imports are stale."""
    paths = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    times = [f"{path}@{os.stat(path).st_mtime_ns}" for path in paths]  # noqa: PTH116  these are texts
    return "|".join([sys.executable, sys.version, *times])


def connect(path: str) -> socket.socket:
    """Connect to a kernel server.

    Raises
    ------
    ForkRefusedError
        When nobody listens.
    """
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(ANSWER_SECONDS)
    try:
        connection.connect(path)
    except OSError as error:
        connection.close()
        raise ForkRefusedError(f"no kernel server at {path}: {error.strerror or error}") from error
    return connection


def fork_kernel(
    path: str, argv: list[str], *, env: Mapping[str, str], cwd: str, log: Path, module: str = ""
) -> ForkedProcess:
    """Ask the server for a kernel, or for another program that needs what it has imported.

    Parameters
    ----------
    path : str
        Socket of the server.
    argv : list of str
        Arguments of ipykernel, or of the module.
    env : mapping of str to str
        The kernel's whole environment.
    cwd : str
        Its working directory.
    log : Path
        File that takes what it writes to its own standard output and error.
    module : str
        Run this instead, as ``python -m`` would.

    Returns
    -------
    ForkedProcess

    Raises
    ------
    ForkRefusedError
        When a forked kernel is not to be had, or would not be what a fresh one is.
    """
    connection = connect(path)
    about = {"argv": argv, "module": module, "cwd": cwd, "log": str(log)}
    request = {**about, "env": dict(env), "key": installed_key()}
    try:
        answer = _ask(connection, request)
    except ForkRefusedError:
        connection.close()
        raise
    if "pid" not in answer:
        connection.close()
        raise ForkRefusedError(str(answer.get("refused")))
    return ForkedProcess(connection, int(answer["pid"]))


def _ask(connection: socket.socket, request: dict[str, Any]) -> dict[str, Any]:
    """Send one line and read one."""
    try:
        connection.sendall(json.dumps(request).encode() + b"\n")
        with connection.makefile("rb", buffering=0) as reader:
            line = reader.readline()  # unbuffered: the line after it is the process's to read
    except OSError as error:
        raise ForkRefusedError(f"the kernel server does not answer: {error}") from error
    if not line:
        raise ForkRefusedError("the kernel server hung up")
    return dict(json.loads(line))
