"""How a notebook gets its kernel: a fork of the worker's kernel server, or a process of its own.

Both run the same ipykernel and give the same results. Neither waits for fixed times: a stock kernel costs 1.5 s before
and after an empty notebook, this 0.8 s in its own process and 0.4 s forked. Messages go over UNIX sockets in a folder
of the kernel's own, so that kernels which start together cannot take each other's ports.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Empty
from typing import Any, Literal

import zmq
import zmq.asyncio
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

from sundial.execution.forkserver import (
    KERNEL_DEFAULTS,
    ZYGOTE,
    ForkRefusedError,
    fork_kernel,
    short_folder,
    start_kernel_server,
)
from sundial.execution.watch import Watch
from sundial.settings import Settings, load_settings

__all__ = [
    "KernelClient",
    "KernelManager",
    "Provisioner",
    "choose_socket",
    "keep_kernel_server",
    "kernel_server",
    "start_kernel_server",
]

logger = logging.getLogger("sundial.execution")
Choice = Literal["auto", "fork", "process"]
POLL_SECONDS = 0.005
# How long a message socket waits before it tries again to reach a kernel that does not listen yet.
RECONNECT_MS = 10
LOG_TAIL = 2000


def choose_socket(settings: Settings) -> str:
    """Give the socket of the kernel server to use, '' for a process of its own.

    Parameters
    ----------
    settings : Settings
        ``kernel`` says what is wanted, ``kernel_socket`` where the worker's server is.

    Returns
    -------
    str
    """
    if settings.kernel == "process" or sys.platform != "linux":
        return ""
    if settings.kernel == "fork" and not settings.kernel_socket:
        logger.warning("SUNDIAL_KERNEL is fork, but no kernel server runs: the notebook gets a process of its own")
    return settings.kernel_socket


@contextlib.contextmanager
def kernel_server(settings: Settings) -> Iterator[Settings]:
    """Have a kernel server for a while, where forking is sound and wanted and no worker has one already.

    Parameters
    ----------
    settings : Settings
        ``kernel`` says what is wanted, ``kernel_socket`` where a server is.

    Yields
    ------
    Settings
        With the address of the server; as they were where there is none.
    """
    if settings.kernel == "process" or settings.kernel_socket or sys.platform != "linux":
        yield settings
        return
    with start_kernel_server() as server:
        yield settings.model_copy(update={"kernel_socket": str(server.socket)})


@functools.cache
def keep_kernel_server() -> None:
    """Have a kernel server for as long as this process lives, where forking is sound and wanted and none is announced.

    For a worker that is not ours to start, such as Dask's: its environment differs from that of any other server.
    """
    stack = contextlib.ExitStack()
    stack.enter_context(kernel_server(load_settings()))
    atexit.register(stack.close)


class Provisioner(LocalProvisioner):
    """Start the kernel's process, forked where that is sound.

    A kernel that is not ours to shorten (another language, another interpreter) is started as Jupyter does.

    Attributes
    ----------
    kind : str
        ``fork`` or ``process``, once it is launched.
    exit_code : int or None
        Once it has ended; negative for a signal.
    """

    kind: str = ""
    exit_code: int | None = None

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        """Start the kernel; returns jupyter_client's connection info."""
        manager = self.parent
        # of a manager of Jupyter's own, such as JupyterLab's: what the settings say
        path = manager.socket if isinstance(manager, KernelManager) else choose_socket(load_settings())
        log = getattr(manager, "log_path", None)
        ours = "ipykernel_launcher" in cmd and cmd[0] == sys.executable
        argv = cmd[cmd.index("ipykernel_launcher") + 1 :] if ours else []
        if ours:
            kwargs["env"] = {**KERNEL_DEFAULTS, **(kwargs.get("env") or os.environ)}
        if ours and path:
            try:
                self.process = fork_kernel(  # type: ignore[assignment]  # has what is used of Popen
                    path,
                    argv,
                    env=kwargs["env"],
                    cwd=str(kwargs.get("cwd") or Path.cwd()),
                    log=log or Path(os.devnull),
                )
            except ForkRefusedError as error:
                logger.info("a process of its own instead of a fork: %s", error)
        if self.process is not None:
            self.kind = "fork"
            self.pid = self.pgid = self.process.pid
            self.cwd = kwargs.get("cwd")
        else:
            self.kind = "process"
            if ours:
                cmd = [sys.executable, str(ZYGOTE), "kernel", *argv]
            if log is not None:
                with log.open("ab") as file:
                    await super().launch_kernel(cmd, stdout=file, stderr=file, **kwargs)
            else:
                await super().launch_kernel(cmd, **kwargs)
        watch = getattr(manager, "watch", None)
        if watch is not None:
            watch.start(self.pid)
        return self.connection_info

    async def poll(self) -> int | None:
        """Return the exit code, None while the process runs; what it leaves of its group is killed."""
        if self.process is None:
            return self.exit_code if self.kind else 0
        if self.kind == "process" and self.pgid and self.process.returncode is None and hasattr(os, "waitid"):
            # before it is reaped: as long as the zombie holds the number, nobody else can be hit
            with contextlib.suppress(OSError):
                if os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                    os.killpg(self.pgid, signal.SIGKILL)
        code: int | None = self.process.poll()
        if code is not None:
            self.exit_code = code
        return code

    async def wait(self) -> int | None:
        """Wait until the process has ended."""
        while self.process is not None and await self.poll() is None:
            await asyncio.sleep(POLL_SECONDS)
        self.process = None
        return self.exit_code


class KernelClient(AsyncKernelClient):
    """Talk to a kernel, without the fixed waits of the stock client.

    Attributes
    ----------
    language_info : dict
        What the kernel said of its language when it became ready.
    """

    language_info: dict[str, Any]

    def _context_default(self) -> zmq.asyncio.Context:
        self._created_context = True
        context = zmq.asyncio.Context()
        context.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
        return context

    async def _async_wait_for_ready(self, timeout: float | None = None) -> None:
        """Wait until the kernel answers and its outputs reach us.

        Its output channel is a subscription, and what is sent before that is joined is lost. The stock client
        therefore listens until it has been quiet for 0.2 s. Hearing "idle" after a question of our own proves as much.
        """
        end = None if timeout is None else time.monotonic() + timeout
        asked: set[str] = set()
        ask_again = 0.0
        answered = heard = False
        while not (answered and heard):
            if time.monotonic() >= ask_again:
                asked.add(self.kernel_info())
                ask_again = time.monotonic() + 0.2
            message = await self._next(self.shell_channel) if not answered else None
            if message is not None and message["msg_type"] == "kernel_info_reply":
                self._handle_kernel_info_reply(message)
                self.language_info = message["content"]["language_info"]
                answered = True
            message = await self._next(self.iopub_channel) if answered else None
            if message is not None and message["parent_header"].get("msg_id") in asked:
                heard = message["content"].get("execution_state") == "idle"
            if not await self._async_is_alive():
                raise RuntimeError("the kernel died while it started")
            if end is not None and time.monotonic() > end:
                raise RuntimeError(f"the kernel did not answer within {timeout:g} s")

    wait_for_ready = _async_wait_for_ready

    @staticmethod
    async def _next(channel: Any) -> dict[str, Any] | None:
        """Return the next message, None when there is none for a moment."""
        try:
            return dict(await channel.get_msg(timeout=0.02))
        except Empty:
            return None


class KernelManager(AsyncKernelManager):
    """Start, watch and end one kernel.

    Parameters
    ----------
    socket : str
        The kernel server's; '' for a process of its own.
    watch : Watch
        Watches the process.
    **kwargs
        For jupyter_client.
    """

    def __init__(self, *, socket: str = "", watch: Watch | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.socket = socket
        self.watch = watch
        spec = self.kernel_spec  # raises before there is a folder to leave behind
        # mode 0700: whoever can write to these sockets can run code
        self.folder = Path(tempfile.mkdtemp(prefix="sundial-kernel-", dir=short_folder()))
        self.log_path = self.folder / "kernel.log"
        self.last_log = ""
        self.connection_file = str(self.folder / "kernel.json")
        self.transport = "tcp" if sys.platform == "win32" else "ipc"
        self.client_factory = KernelClient
        self.kernel_id = self.folder.name
        self.provisioner: Provisioner = Provisioner(kernel_id=self.kernel_id, kernel_spec=spec, parent=self)

    def read_log(self) -> str:
        """Read the end of what the process wrote outside of the notebook: a crash leaves its words there."""
        return self.log_path.read_text(errors="replace")[-LOG_TAIL:].strip() if self.log_path.exists() else ""

    async def _async_interrupt_kernel(self) -> None:
        """Leave it alone: jupyter_client interrupts before it asks to shut down, and a kernel hit just then hangs."""

    async def _async_wait(self, pollinterval: float = POLL_SECONDS) -> None:
        while await self._async_is_alive():
            await asyncio.sleep(POLL_SECONDS)

    async def _async_cleanup_resources(self, restart: bool = False) -> None:
        await super()._async_cleanup_resources(restart=restart)
        if not restart:
            self.last_log = self.last_log or self.read_log()
            shutil.rmtree(self.folder, ignore_errors=True)

    cleanup_resources = _async_cleanup_resources
