"""What a notebook shows while it runs, kept output by output, so that none is lost when its runner is killed.

Writing the whole notebook for each output would cost more than the outputs did. So each output is appended to
``.<notebook>.journal``, and the notebook itself is saved once in a while and at the end, when the journal goes. If the
runner is killed, the journal is still there, and :func:`recover` puts what it holds into the notebook.

The first line of a journal is the SHA-256 of the notebook that it continues: a journal whose notebook was saved since
has nothing to add.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, BinaryIO

import nbformat

from sundial.execution.parameters import mask_text
from sundial.formats import hash_file, write_bytes_atomically

LOST = "the process that ran this notebook was killed"


class Journal:
    """Takes down what the cells of a notebook show.

    Parameters
    ----------
    notebook : Path
        Where the executed notebook is saved; the journal lies beside it.
    secrets : list of str
        Masked in every line.
    """

    def __init__(self, notebook: Path, secrets: list[str]) -> None:
        self.path = journal_path(notebook)
        self._secrets = [*secrets, *(json.dumps(secret)[1:-1] for secret in secrets)]
        self._file: BinaryIO | None = None

    def begin(self, sha256: str) -> None:
        """Begin anew: the notebook was saved just now, with all that was shown so far."""
        self.close()
        self._file = self.path.open("wb", buffering=0)  # the system has it at once, whatever becomes of this process
        self._write({"notebook": sha256})

    def add(self, index: int, output: Any) -> None:
        """Take down one more output of a cell; its index is that of the executed notebook."""
        self._write({"cell": index, "add": output})

    def replace(self, index: int, outputs: list[Any]) -> None:
        """Take down all outputs of a cell, after one was cleared or changed."""
        self._write({"cell": index, "outputs": outputs})

    def stand(self, index: int, recorded: Any) -> None:
        """Take down how a cell stands: what papermill records of it."""
        self._write({"cell": index, "papermill": recorded})

    def _write(self, line: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(mask_text(json.dumps(line), self._secrets).encode() + b"\n")

    def close(self, *, remove: bool = False) -> None:
        """End it; a notebook that was saved whole needs none."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if remove:
            self.path.unlink(missing_ok=True)


def journal_path(notebook: Path) -> Path:
    """Give the place of a notebook's journal."""
    return notebook.with_name(f".{notebook.name}.journal")


def read_cells(notebook: Path) -> list[nbformat.NotebookNode]:
    """Read the cells of an executed notebook with what papermill records of each, also while it runs or was left.

    Parameters
    ----------
    notebook : Path
        An executed notebook; nothing is changed.

    Returns
    -------
    list of NotebookNode
        ``metadata.papermill`` of a cell has ``status``, such as ``completed``, ``running`` or ``failed``, and
        ``start_time`` and ``end_time`` in ISO 8601, UTC, once there are any.
    """
    whole = nbformat.read(notebook, as_version=4)  # type: ignore[no-untyped-call]
    cells: list[nbformat.NotebookNode] = whole.cells
    for line in map(json.loads, _read_lines(notebook)):
        if "papermill" in line:
            cells[line["cell"]].metadata["papermill"] = line["papermill"]
    return cells


def recover(notebook: Path) -> bool:
    """Put what a journal holds into the notebook that was never finished, and mark where it was killed.

    Parameters
    ----------
    notebook : Path
        An executed notebook. Nobody may be running it.

    Returns
    -------
    bool
        Whether there was something to recover; a second call finds nothing.
    """
    path = journal_path(notebook)
    if not path.exists():
        return False
    if not notebook.exists():
        path.unlink()
        return False
    lines = _read_lines(notebook)
    whole = nbformat.read(notebook, as_version=4)  # type: ignore[no-untyped-call]
    for text in lines:
        line = nbformat.from_dict(json.loads(text))  # type: ignore[no-untyped-call]
        cell = whole.cells[line.cell]
        if "add" in line:
            cell.outputs.append(line.add)
        elif "outputs" in line:
            cell.outputs = line.outputs
        else:
            cell.metadata["papermill"] = line.papermill
    cut = False
    for cell in whole.cells:
        recorded = cell.metadata.get("papermill", {})
        cut = cut or recorded.get("status") in ("running", "pending")
        if recorded.get("status") == "running":
            recorded.update(status="failed", exception=True)
            if cell.cell_type == "code":
                lost = {"output_type": "error", "ename": "RunnerKilled", "evalue": LOST, "traceback": [LOST]}
                cell.outputs.append(nbformat.from_dict(lost))  # type: ignore[no-untyped-call]
        elif recorded.get("status") == "pending":
            recorded["status"] = "skipped"
    if not lines and not cut:  # it was saved for the last time
        path.unlink()
        return False
    written = nbformat.writes(whole)  # type: ignore[no-untyped-call]
    write_bytes_atomically(notebook, (written.rstrip("\n") + "\n").encode())
    path.unlink()  # after the notebook: it no longer hashes as the journal says, so nothing is put in twice
    return True


def _read_lines(notebook: Path) -> list[bytes]:
    """Read what a journal has beyond the saved notebook: nothing when that was just saved, or without a journal."""
    path = journal_path(notebook)
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []  # what has no newline was being written
    return lines[1:] if lines and json.loads(lines[0]).get("notebook") == hash_file(notebook) else []
