"""Execute a notebook cell by cell: papermill's client and recorder, made honest and quick.

papermill calls every cell completed when the kernel dies or a cell runs out of time, and rewrites the whole file
twice a cell, in place. Here a cell that failed is marked failed, those behind it skipped, and the file is replaced as a
whole, once in a while and always at the end; a journal holds what came since.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import signal
import time
from typing import Any

import nbformat
from jupyter_client.kernelspec import NoSuchKernel
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NotebookExecutionManager

from sundial.execution.engine import Failure, Job
from sundial.execution.journal import Journal
from sundial.execution.kernels import POLL_SECONDS, KernelManager
from sundial.execution.parameters import INJECTED_TAG, list_secrets, mask_secrets, mask_text
from sundial.execution.watch import Watch
from sundial.formats import write_bytes_atomically

logger = logging.getLogger("sundial.execution")
SKIPPED = "skipped"
# How long outputs of a kernel that has died may still be on their way.
LAST_WORDS_SECONDS = 0.2
# Nothing is lost between two saves, so they are for people who look on, and may take this share of the time.
SAVE_SECONDS = 3.0
SAVE_SHARE = 0.02


class Recorder(NotebookExecutionManager):  # type: ignore[misc]  # papermill ships no types
    """Keep the executed notebook, and save it.

    Parameters
    ----------
    notebook : NotebookNode
        Executed in place.
    job : Job
        Where to save, what to mask, whom to tell.
    """

    def __init__(self, notebook: nbformat.NotebookNode, job: Job) -> None:
        super().__init__(notebook, output_path=str(job.output or ""), progress_bar=False)
        self.job = job
        self.secrets = list_secrets(job.parameters)
        self.journal = Journal(job.output, self.secrets) if job.output is not None else None
        self._lines = {"stdout": "", "stderr": ""}
        self._next_save = 0.0
        for cell in notebook.cells:
            if INJECTED_TAG in cell.metadata.get("tags", []):
                cell["id"] = INJECTED_TAG  # papermill draws a random one
        if job.output is not None:
            notebook.metadata.setdefault("papermill", {})["output_path"] = job.output.name

    def save(self, force: bool = False, **_: Any) -> None:
        """Save the notebook, unless that was done a moment ago."""
        began = time.monotonic()
        if self.job.output is None or (began < self._next_save and not force):
            return
        text = nbformat.writes(mask_secrets(self.nb, self.job.parameters))  # type: ignore[no-untyped-call]
        data = (text.rstrip("\n") + "\n").encode()
        write_bytes_atomically(self.job.output, data)
        if self.journal is not None:
            self.journal.begin(hashlib.sha256(data).hexdigest())
        took = time.monotonic() - began
        self._next_save = began + max(SAVE_SECONDS, took / SAVE_SHARE)

    def autosave_cell(self) -> None:
        """Leave it to :meth:`note`: papermill calls this before an output is in the journal."""

    def note(self, cell_index: int, output: nbformat.NotebookNode | None) -> None:
        """Take down an output of a cell, or all of them when one was changed (None), and save once in a while."""
        if self.journal is not None and output is not None:
            self.journal.add(cell_index, output)
        elif self.journal is not None:
            self.journal.replace(cell_index, self.nb.cells[cell_index].outputs)
        self.save()

    def note_status(self, cell_index: int | None) -> None:
        """Take down how a cell stands."""
        if self.journal is not None and cell_index is not None:
            self.journal.stand(cell_index, self.nb.cells[cell_index].metadata.papermill)

    def cell_start(self, cell: nbformat.NotebookNode, cell_index: int | None = None, **kwargs: Any) -> None:
        """Note that a cell begins, and tell how many are done."""
        super().cell_start(cell, cell_index, **kwargs)
        self.note_status(cell_index)
        if self.job.progress is not None and cell_index is not None:
            self.job.progress(cell_index, len(self.nb.cells))

    def cell_complete(self, cell: nbformat.NotebookNode, cell_index: int | None = None, **kwargs: Any) -> None:
        """Note that a cell has ended, well or not."""
        super().cell_complete(cell, cell_index, **kwargs)
        self.note_status(cell_index)
        self.log_rest()

    def fail(self, index: int | None, kind: str, cause: str, details: str = "") -> None:
        """Mark a cell failed and those behind it skipped; leave the cause in it for whoever opens the notebook."""
        self.job.failure = Failure(kind, index, mask_text(cause, self.secrets))  # type: ignore[arg-type]
        self.nb.metadata.papermill["exception"] = True
        for cell in self.nb.cells[0 if index is None else index + 1 :]:
            cell.metadata.papermill["status"] = SKIPPED
        if index is None:
            return
        cell = self.nb.cells[index]
        self.cell_exception(cell, cell_index=index)
        if kind != "error":
            name, _, text = cause.partition(": ")
            trace = [cause, *details.splitlines()]
            error = nbformat.from_dict({"output_type": "error", "ename": name, "evalue": text, "traceback": trace})  # type: ignore[no-untyped-call]
            cell.outputs.append(error)

    def notebook_complete(self, **_: Any) -> None:
        """Note the end and save for the last time."""
        self.end_time = self.now()
        recorded = self.nb.metadata.papermill
        recorded["kernel"] = self.job.kernel
        recorded["end_time"] = self.end_time.isoformat()
        recorded["duration"] = (self.end_time - self.start_time).total_seconds()
        if self.job.progress is not None and self.job.failure is None:
            self.job.progress(len(self.nb.cells), len(self.nb.cells))
        self.save(force=True)
        if self.journal is not None:
            self.journal.close(remove=True)

    def log(self, stream: str, text: str) -> None:
        """Log what a cell prints, line by line; of a progress bar that overwrites itself, its last state."""
        *lines, self._lines[stream] = (self._lines[stream] + text).split("\n")
        for line in lines:
            self._log_line(stream, line)

    def log_rest(self) -> None:
        """Log what was printed without a newline at its end."""
        for stream, line in self._lines.items():
            if line:
                self._log_line(stream, line)
                self._lines[stream] = ""

    def _log_line(self, stream: str, line: str) -> None:
        level = logging.WARNING if stream == "stderr" else logging.INFO
        shown = mask_text(line.rstrip("\r").rpartition("\r")[2], self.secrets)
        logger.log(level, "%s: %s", self.job.name, shown)


class NotebookClient(PapermillNotebookClient):  # type: ignore[misc]
    """Run the cells of one notebook in one kernel.

    Parameters
    ----------
    recorder : Recorder
        Notes what happens.
    watch : Watch
        Enforces the deadline.
    **kwargs
        For nbclient.
    """

    def __init__(self, recorder: Recorder, watch: Watch, **kwargs: Any) -> None:
        super().__init__(recorder, **kwargs)
        self.watch = watch

    def create_kernel_manager(self) -> KernelManager:
        """Create the manager of the kernel."""
        self.km = KernelManager(
            socket=self.nb_man.job.socket, watch=self.watch, kernel_name=self.kernel_name, config=self.config
        )
        return self.km

    def execute(self, **kwargs: Any) -> None:
        """Run the notebook; what goes wrong is recorded, not raised."""
        job: Job = self.nb_man.job
        self.reset_execution_trackers()
        manager: KernelManager | None = None
        try:
            manager = self.create_kernel_manager()
            with self.setup_kernel(**kwargs):
                self.nb.metadata["language_info"] = self.kc.language_info
                self.papermill_execute_cells()
                self.set_widgets_metadata()
                self.watch.sample()
                self.watch.stop()  # a deadline that passes from here on has nothing left to stop
        except (RuntimeError, OSError, NoSuchKernel) as error:
            if job.failure is None:
                words = (manager.last_log if manager is not None else "").splitlines()[-1:]
                cause = f"{type(error).__name__}: {error}" + "".join(f"; its last words: {line}" for line in words)
                late = f"Deadline: the notebook ran for more than {job.deadline or 0:g} s"
                self.nb_man.fail(None, *(("deadline", late) if self.watch.expired else ("start", cause)))
        finally:
            self.watch.stop()
            if manager is not None:
                job.kernel = manager.provisioner.kind
                job.exit_code = manager.provisioner.exit_code
            job.peak_kib = self.watch.peak_kib

    def papermill_execute_cells(self) -> None:
        """Run the cells until one fails."""
        for index, cell in enumerate(self.nb.cells):
            self.nb_man.cell_start(cell, index)
            try:
                self.execute_cell(cell, index)
            except CellExecutionError as error:
                self.nb_man.fail(index, "error", f"{error.ename}: {error.evalue}")
            except CellTimeoutError:
                self.shutdown_kernel = "immediate"
                seconds = self.nb_man.job.cell_timeout
                self.nb_man.fail(index, "cell timeout", f"CellTimeout: the cell ran for more than {seconds:g} s")
            except DeadKernelError:
                self.nb_man.fail(index, *self._explain_death())
            except BaseException as error:  # Ctrl-C, or a fault of ours: the cell did not complete
                self.shutdown_kernel = "immediate"
                self.nb_man.fail(index, "error", f"Interrupted: {error!r}")
                raise
            finally:
                self.nb_man.cell_complete(self.nb.cells[index], index)
            if self.nb_man.job.failure is not None:
                return

    def _explain_death(self) -> tuple[str, str, str]:
        """Say why the kernel is gone: kind, cause and what it left in its log."""
        if self.watch.expired:
            return "deadline", f"Deadline: the notebook ran for more than {self.nb_man.job.deadline:g} s", ""
        code = self.km.provisioner.process.poll() if self.km.provisioner.process else None
        peak = f"; it held up to {self.watch.peak_kib / 1024:,.0f} MiB" if self.watch.peak_kib else ""
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            guess = ", as Linux does when memory runs out" if code == -signal.SIGKILL else ""
            how = f"killed by {name}{guess}{peak}"
        else:
            how = f"it exited with code {code}{peak}"
        return "died", f"KernelDied: {how}", self.km.read_log()

    def process_message(self, msg: dict[str, Any], cell: nbformat.NotebookNode, cell_index: int) -> Any:
        """Take in one message of the kernel, take down what it shows, and log what it prints."""
        clears = self.clear_before_next_output
        output = super().process_message(msg, cell, cell_index)
        kind = msg["msg_type"]
        if kind == "update_display_data":
            shown = self._display_id_map.get((msg["content"].get("transient") or {}).get("display_id"), {})
            for index in {cell_index, *shown}:
                self.nb_man.note(index, None)
        elif kind == "clear_output" or (output is not None and clears):
            self.nb_man.note(cell_index, None)
        elif output is not None:
            self.nb_man.note(cell_index, output)
        if output is not None and output.output_type == "stream":
            self.nb_man.log(output.name, "".join(output.text))
        return output

    async def _async_poll_kernel_alive(self) -> None:
        """Look every few milliseconds whether the kernel lives, where nbclient looks once a second."""
        while True:
            await asyncio.sleep(POLL_SECONDS * 10)
            try:
                await self._async_check_alive()
            except DeadKernelError:
                await asyncio.sleep(LAST_WORDS_SECONDS)
                self.task_poll_for_reply.cancel()
                return


def execute(notebook: nbformat.NotebookNode, kernel_name: str, job: Job, start_timeout: float) -> None:
    """Execute a notebook as a job says, and note in the job what came of it."""
    job.notebook = notebook
    recorder = Recorder(notebook, job)
    watch = Watch(job.deadline)
    recorder.notebook_start()
    try:
        client = NotebookClient(
            recorder,
            watch,
            kernel_name=kernel_name,
            timeout=job.cell_timeout,
            startup_timeout=start_timeout,
            log=logger,
        )
        options: dict[str, Any] = {"env": job.env} if job.env is not None else {}
        client.execute(cwd=str(job.cwd) if job.cwd is not None else None, **options)
    finally:
        recorder.notebook_complete()
