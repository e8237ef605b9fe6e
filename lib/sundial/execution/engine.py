"""The papermill engine ``sundial``: one notebook, executed under a deadline, and honest about how it ended.

papermill loads its engines when it is imported; this module therefore imports nothing of it until a notebook runs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import nbformat

ENGINE = "sundial"


@dataclass(frozen=True)
class Failure:
    """How a notebook failed.

    Attributes
    ----------
    kind : str
        ``error`` in a cell, ``cell timeout``, ``deadline``, ``died``, or ``start`` when no cell ran.
    index : int or None
        Index of the cell in the executed notebook.
    cause : str
        Name and text of the error.
    """

    kind: Literal["error", "cell timeout", "deadline", "died", "start"]
    index: int | None
    cause: str


@dataclass
class Job:
    """What to execute how, and then what came of it.

    Attributes
    ----------
    name : str
        For the log.
    output : Path, optional
        Where the executed notebook is saved, while it runs and when it ends.
    parameters : dict
        What the notebook is given; masked where names look secret.
    cwd : Path, optional
        The kernel's working directory.
    env : dict, optional
        The kernel's whole environment.
    deadline, cell_timeout : float, optional
        Seconds for the notebook, and for each cell.
    socket : str
        The kernel server's; '' for a process of its own.
    progress : callable, optional
        Called with the number of cells done and of all cells.
    notebook : NotebookNode, optional
        The executed notebook; from here on, results.
    failure : Failure, optional
        None when all cells ran.
    kernel : str
        ``fork`` or ``process``.
    exit_code : int or None
        Of the kernel; negative for a signal.
    peak_kib : int
        Most memory that the kernel held.
    """

    name: str = "notebook"
    output: Path | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    cwd: Path | None = None
    env: dict[str, str] | None = None
    deadline: float | None = None
    cell_timeout: float | None = None
    socket: str = ""
    progress: Callable[[int, int], None] | None = None
    notebook: nbformat.NotebookNode | None = None
    failure: Failure | None = None
    kernel: str = ""
    exit_code: int | None = None
    peak_kib: int = 0


class SundialEngine:
    """Engine for ``papermill --engine sundial``, and for all that Sundial runs."""

    @classmethod
    def execute_notebook(
        cls,
        nb: nbformat.NotebookNode,
        kernel_name: str,
        output_path: str | None = None,
        execution_timeout: float | None = None,
        start_timeout: float = 60,
        job: Job | None = None,
        **_: Any,
    ) -> nbformat.NotebookNode:
        """Execute a notebook, as papermill asks for it.

        Parameters
        ----------
        nb : NotebookNode
            The notebook, with its parameters injected.
        kernel_name : str
            Name of the kernelspec.
        output_path : str, optional
            Where papermill wants it saved.
        execution_timeout : float, optional
            Seconds for each cell.
        start_timeout : float
            Seconds for the kernel to start.
        job : Job, optional
            All else; holds the results afterwards.

        Returns
        -------
        NotebookNode
            Executed as far as it went. The failing cell holds an error output, by which papermill too knows of it.
        """
        from sundial.execution.client import execute
        from sundial.execution.kernels import choose_socket
        from sundial.settings import load_settings

        own = job or Job(
            name=Path(output_path).stem if output_path else "notebook",
            output=Path(output_path) if output_path and "://" not in output_path else None,
            parameters=dict(nb.metadata.get("papermill", {}).get("parameters", {})),
            cell_timeout=execution_timeout,
            socket=choose_socket(load_settings()),
        )
        execute(nb, kernel_name, own, start_timeout)
        # papermill writes big red marks into a notebook in which a cell raised; the job keeps it as it ran
        return copy.deepcopy(nb)

    @classmethod
    def nb_kernel_name(cls, nb: nbformat.NotebookNode, name: str | None = None) -> str:
        """Name the kernel of a notebook; Python's when it names none."""
        return name or nb.metadata.get("kernelspec", {}).get("name") or "python3"

    @classmethod
    def nb_language(cls, nb: nbformat.NotebookNode, language: str | None = None) -> str:
        """Name the language of a notebook; Python when it names none."""
        return language or nb.metadata.get("kernelspec", {}).get("language") or "python"


def register() -> None:
    """Make the engine known to papermill, where its entry point is not installed."""
    from papermill.engines import papermill_engines

    papermill_engines.register(ENGINE, SundialEngine)
