"""Start IPython kernels: one at once, or many by forking a warm process.

Two uses, as a script; nothing imports it::

    zygote.py kernel -f CONNECTION_FILE ...         become one kernel
    zygote.py serve --listener FD --modules A,B     fork a kernel for each request

It is a script and no module of the package because the process that forks must hold no project
code: every kernel then imports ``sundial`` and the user's packages as they are on disk.

The server speaks lines of JSON over a UNIX socket. A request is ``{"argv", "env", "cwd", "log", "key"}``; with
``"module"`` that is run as ``python -m`` would, in place of a kernel. The answer is ``{"pid"}`` or ``{"refused"}``,
later ``{"exit", "peak_kib"}``. The connection is a lifeline: when the client goes, kernel and children are killed.

Rules the server keeps, each of which a crash or a hang taught:

- It serves only while it is single-threaded: a fork copies locks but not the threads that hold them.
- It imports and does nothing else: one OpenMP region before the fork hangs every child for ever.
- What libraries read once, at import, must be equal in server and request, else it refuses.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import ctypes
import gc
import importlib
import io
import json
import os
import random
import runpy
import selectors
import shutil
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

# Imported for every kernel, before the libraries that the caller names.
KERNEL_MODULES = (
    "ipykernel.kernelapp",
    "IPython.core.completerlib",
    "IPython.core.debugger",
    "IPython.core.oinspect",
    "IPython.core.pylabtools",
    "IPython.extensions.storemagic",
    "psutil",
    "sqlite3",
    "tornado.platform.asyncio",
    "threadpoolctl",
)
# Environment that is read at import or start-up and so cannot differ between server and kernel.
PINNED_PREFIXES = ("PYTHON", "OMP_", "GOMP_", "KMP_", "MKL_", "ARROW_", "LC_", "MPL", "SKLEARN_", "PANDERA_")
PINNED_NAMES = ("LANG", "LANGUAGE", "TZ", "CUDA_VISIBLE_DEVICES", "LD_PRELOAD", "LD_LIBRARY_PATH")
# Set while importing, so that no library starts a thread of its own.
QUIET_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
PR_SET_PDEATHSIG = 1
CLOSE_SECONDS = 2.0
BUFFERED = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)
THREADED = "it starts a thread when it is imported"


def pinned(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the part of an environment that a forked kernel cannot change."""
    names = [name for name in environment if name.startswith(PINNED_PREFIXES) or name in PINNED_NAMES]
    return {name: environment[name] for name in names if name != "PYTHONPATH"}


def module_folders(environment: Mapping[str, str]) -> list[Path]:
    """Return what PYTHONPATH names."""
    return list(map(Path, environment["PYTHONPATH"].split(os.pathsep))) if environment.get("PYTHONPATH") else []


def find_elsewhere(ours: list[Path], theirs: list[Path]) -> str:
    """Name what would be another module with their folders in PYTHONPATH; Prefect's pools add the project's to ours."""
    if ours == theirs:
        return ""
    if not set(ours) <= set(theirs) or not all(folder.is_absolute() for folder in theirs):
        return "the kind or number of its folders"
    for file in (file for folder in theirs for file in folder.iterdir()):
        name = file.name.partition(".")[0]
        if name in sys.modules and (file.suffix in (".py", ".pyc", ".so") or (file / "__init__.py").exists()):
            return name
    return ""


def count_threads() -> int:
    """Return the number of threads of this process, as the kernel sees them."""
    return sum(1 for _ in Path("/proc/self/task").iterdir())


def import_kernel() -> None:
    """Import ipykernel without its debugger (0.4 s and 25 MB that nobody attaches to)."""
    sys.modules["debugpy"] = None  # type: ignore[assignment]
    importlib.import_module("ipykernel.debugger")
    del sys.modules["debugpy"]
    for name in KERNEL_MODULES:
        importlib.import_module(name)


def run_kernel(argv: list[str]) -> int:
    """Run an IPython kernel until it is shut down, and return its exit code."""
    from ipykernel.kernelapp import IPKernelApp

    sys.argv = ["ipykernel_launcher.py", *argv]
    try:
        IPKernelApp.launch_instance(argv=argv)
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 0
    finally:
        # at exit ipykernel stops the thread that sends outputs, while the control thread may be handing it some: one
        # shutdown in twenty then hung until it was killed
        control = IPKernelApp.instance().control_thread if IPKernelApp.initialized() else None
        if control is not None and control.is_alive():
            control.stop()
            control.join(timeout=CLOSE_SECONDS)
    return 0


def run_module(name: str, argv: list[str]) -> int:
    """Run a module as ``python -m`` would, and return its exit code."""
    sys.argv = [name, *argv]
    try:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 1
    return 0


def leave(code: int) -> NoReturn:
    """End this process as the interpreter would, but for taking apart what Linux frees at once.

    A fork that takes its modules apart copies every page that it shared with the server. What can be seen from outside
    happens all the same, in the interpreter's order: threads are waited for, what was registered for the end runs
    (IPython empties the notebook's namespace there), cycles are collected, and open files are flushed.
    """
    for step in (threading._shutdown, atexit._run_exitfuncs, gc.collect, flush_files):  # type: ignore[attr-defined]
        try:
            step()
        except BaseException:  # noqa: BLE001  as the interpreter does: told, and the end goes on
            traceback.print_exc()
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
    os._exit(code)


def flush_files() -> None:
    """Write out what open files hold back: Python's that were opened here, and those of libraries in C."""
    opened = [one for one in gc.get_objects() if issubclass(type(one), BUFFERED)]
    opened.sort(key=lambda one: not isinstance(one, io.TextIOWrapper))  # text first: it writes into a buffer
    for file in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__, *opened):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or there is none
            file.flush()
    ctypes.CDLL(None).fflush(None)


class Server:
    """Fork kernels on request, watch them, and take them along when it ends."""

    def __init__(self, listener: socket.socket, key: str, environment: dict[str, str]) -> None:
        self.listener = listener
        self.key = key
        self.environment = environment
        self.report: dict[str, Any] = {}
        self.stopping = False
        self.selector = selectors.DefaultSelector()
        self.kernels: dict[int, socket.socket] = {}  # pid -> the connection it lives by
        self.received: dict[socket.socket, bytes] = {}  # what each connection has sent so far
        self.wake_read, self.wake_write = os.pipe()

    def serve(self) -> dict[str, Any] | None:
        """Answer requests; return a request in a forked child, None when stopped."""
        os.set_blocking(self.wake_read, False)
        os.set_blocking(self.wake_write, False)
        signal.set_wakeup_fd(self.wake_write)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "stopping", True))
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then closes us
        self.listener.setblocking(False)
        self.selector.register(self.listener, selectors.EVENT_READ, self._accept)
        self.selector.register(self.wake_read, selectors.EVENT_READ, self._reap)
        self.selector.register(0, selectors.EVENT_READ, self._parent_gone)
        while not self.stopping:
            for key, _ in self.selector.select():
                request = key.data(key.fileobj)
                if request is not None:
                    return dict(request)
        for pid in self.kernels:
            kill_group(pid)
        return None

    def _accept(self, _: Any) -> None:
        connection, _address = self.listener.accept()
        self.received[connection] = b""
        self.selector.register(connection, selectors.EVENT_READ, self._read)

    def _parent_gone(self, _: Any) -> None:
        self.stopping = True

    def _read(self, connection: socket.socket) -> dict[str, Any] | None:
        try:
            data = connection.recv(1 << 20)
        except OSError:
            data = b""
        if not data:
            self._drop(connection)
            return None
        self.received[connection] += data
        line, newline, rest = self.received[connection].partition(b"\n")
        if not newline:
            return None
        self.received[connection] = rest
        request = json.loads(line)
        refusal = "" if request.get("status") else self._refuse(request)
        if request.get("status") or refusal:
            self._answer(connection, {"refused": refusal} if refusal else self.report)
            return None
        pid = os.fork()
        if pid == 0:
            return dict(request)
        self.kernels[pid] = connection
        self._answer(connection, {"pid": pid})
        return None

    def _refuse(self, request: dict[str, Any]) -> str:
        """Return why a forked kernel would differ from a fresh one, or ''."""
        if request["key"] != self.key:
            return "the installed packages changed since the kernel server started"
        ours, theirs = pinned(self.environment), pinned(request["env"])
        if differing := sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)):
            return f"{', '.join(differing)} differ from the kernel server's environment"
        try:
            other = find_elsewhere(module_folders(self.environment), module_folders(request["env"]))
        except OSError as error:  # an archive, or a folder that is not there
            other = str(error)
        if other:
            return f"PYTHONPATH differs from the kernel server's in {other}"
        return f"the kernel server has {threads} threads" if (threads := count_threads()) != 1 else ""

    def _drop(self, connection: socket.socket) -> None:
        self.selector.unregister(connection)
        self.received.pop(connection)
        for pid in [pid for pid, owner in self.kernels.items() if owner is connection]:
            kill_group(pid)
        connection.close()

    def _reap(self, _: Any) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self.wake_read, 4096)
        while True:
            try:
                # looked at before it is reaped: while the zombie holds the number, the signal hits no other process
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            kill_group(ended.si_pid)
            _, status, usage = os.wait4(ended.si_pid, 0)
            if (connection := self.kernels.pop(ended.si_pid, None)) is not None:
                code = os.waitstatus_to_exitcode(status)
                self._answer(connection, {"exit": code, "peak_kib": usage.ru_maxrss})

    def _answer(self, connection: socket.socket, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # the client has gone; its kernel is killed when the selector says so
            connection.sendall(json.dumps(message).encode() + b"\n")

    def leave(self) -> None:
        """Close in a child what belongs to the server."""
        signal.set_wakeup_fd(-1)
        self.selector.close()
        for connection in (*self.received, self.listener):
            connection.close()
        os.close(self.wake_read)
        os.close(self.wake_write)


def kill_group(pid: int) -> None:
    """Kill a kernel and what is left of its group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def become(request: dict[str, Any], parent: int) -> NoReturn:
    """Turn a forked child into the kernel, or the program, that a fresh interpreter would be."""
    os.setsid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # it dies with its parent
    if os.getppid() != parent:  # the server died between the fork and the line above
        os._exit(1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    environment: dict[str, str] = request["env"]
    os.environ.clear()
    os.environ.update(environment)
    os.environ["JPY_PARENT_PID"] = str(parent)
    os.chdir(request["cwd"])
    sys.path[:] = list(dict.fromkeys([*(str(folder.absolute()) for folder in module_folders(environment)), *sys.path]))
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for source, targets in ((os.open(os.devnull, os.O_RDONLY), (0,)), (log, (1, 2))):
        for target in targets:
            os.dup2(source, target)
        os.close(source)
    restore_random_state()
    restore_blas_threads(environment)
    with contextlib.suppress(OSError):  # when memory runs out, Linux should take the kernel and not the server
        Path("/proc/self/oom_score_adj").write_text("500")
    gc.enable()
    module = request.get("module")
    leave(run_module(module, request["argv"]) if module else run_kernel(request["argv"]))


def restore_random_state() -> None:
    """Seed anew what the fork copied: without it all kernels draw the same numbers."""
    random.seed()
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(None)


def restore_blas_threads(environment: Mapping[str, str]) -> None:
    """Give BLAS the threads it would have chosen, had it not been imported quietly."""
    from threadpoolctl import threadpool_limits

    cores = len(os.sched_getaffinity(0))
    asked = environment.get("OPENBLAS_NUM_THREADS") or environment.get("OMP_NUM_THREADS") or ""
    threads = int(asked) if asked.isdigit() else cores
    threadpool_limits(min(threads, cores) or cores, user_api="blas")


def import_modules(names: list[str]) -> tuple[list[str], dict[str, str]]:
    """Import modules; return those loaded and, with the reason, those that were not."""
    loaded: list[str] = []
    skipped: dict[str, str] = {}
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            skipped[name] = str(error)
            continue
        if count_threads() != 1:
            skipped[name] = THREADED
            break
        loaded.append(name)
    return loaded, skipped


def serve(arguments: argparse.Namespace) -> int:
    """Import the modules, then fork kernels until the parent or a signal ends it."""
    began = time.monotonic()
    environment = dict(os.environ)
    os.environ.update(QUIET_ENVIRONMENT)
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    gc.disable()
    import_kernel()
    loaded, skipped = import_modules(names := list(filter(None, arguments.modules.split(","))))
    threaded = [name for name, reason in skipped.items() if reason == THREADED]
    if threaded:  # a thread cannot be taken back: start over without the module that made it
        names.remove(threaded[0])
        given = sys.orig_argv[: sys.orig_argv.index("--modules")]
        known = ",".join(filter(None, [arguments.threaded, threaded[0]]))
        command = [*given, "--modules", ",".join(names), "--threaded", known]
        os.execve(sys.executable, command, environment)  # noqa: S606  ourselves, from the start
    skipped |= dict.fromkeys(filter(None, arguments.threaded.split(",")), THREADED)
    gc.collect()
    gc.freeze()  # the children share these objects' pages for as long as nobody writes to them
    server = Server(socket.socket(fileno=arguments.listener), arguments.key, environment)
    parent, seconds = os.getpid(), round(time.monotonic() - began, 2)
    server.report = {"pid": parent, "modules": loaded, "skipped": skipped, "seconds": seconds}
    if (request := server.serve()) is None:  # the parent removes the folder, unless it was killed
        shutil.rmtree(Path(server.listener.getsockname()).parent, ignore_errors=True)
        return 0
    server.leave()
    become(request, parent)


def main() -> int:
    """Run as a kernel or as the server of kernels."""
    words = sys.argv[1:]
    del sys.path[0]  # the folder of this script: its neighbours are no top-level modules
    if words[0] == "kernel":
        import_kernel()
        leave(run_kernel(words[1:]))
    parser = argparse.ArgumentParser(prog="zygote.py serve")
    parser.add_argument("--listener", type=int, required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--modules", default="")
    parser.add_argument("--threaded", default="", help="modules found to start a thread, and left out")
    return serve(parser.parse_args(words[1:]))


if __name__ == "__main__":
    sys.exit(main())
