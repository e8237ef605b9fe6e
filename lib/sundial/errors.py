"""Errors of Sundial, drawn as a tree.

SundialError                         everything below; catch this one to catch all
├── SettingsError        ValueError  a setting or environment variable cannot be used
├── PipelineError        ValueError  pipeline.yaml is wrong: unknown key, bad value, missing notebook
├── ScrapError           ValueError  a value that cannot be recorded, or a scrap recorded twice
├── ParameterError       ValueError  a notebook was given an unknown, missing or badly typed parameter
├── RunError                         a run folder cannot be used
│   ├── RunNotFoundError       LookupError
│   ├── ArtifactNotFoundError  LookupError   an input or output is not there or not declared
│   ├── ArtifactCorruptError                 a file does not hash as its manifest says
│   └── ParityError                          a release does not give what its experiment gave
├── StageFailedError     RuntimeError  a notebook did not succeed: stage, cell, source, cause, report
│   ├── StageTimeoutError  TimeoutError
│   └── KernelDiedError
├── GateFailedError      RuntimeError  one or more gates failed: nothing was deployed
├── ModelRefusedError    TypeError   a model file holds what our allow-list does not trust
├── ServabilityError RuntimeError    a candidate cannot be served: it fails, is too slow, or answers otherwise
├── RegistryError                    the model registry cannot do what was asked
│   ├── VersionNotFoundError   LookupError
│   └── RehearsalError                       the way back from a promotion failed: production is what it was
├── ApprovalError                    a decision cannot be taken
│   ├── EvidenceChangedError             what was shown is not what is there now
│   └── ApprovalRefusedError  PermissionError  this person, or this moment, may not decide
│       └── AnswerRefusedError                     this answer does not count: the question is asked again
├── RequestError         ValueError  a request to the model server cannot be answered (4xx)
├── PredictionLogError   OSError     the prediction log cannot be written or read
├── StoreError           OSError     a store, or a place of backups, cannot be read or written
├── BackupError                      nothing can be restored from there, or not to here
├── DataError            ValueError  a table is not what the schema says
│   ├── EmptyDataError                   a table without a row where there must be some
│   └── StaleDataError                   a table of another date, or that has seen nothing new
└── ServiceError         RuntimeError  a server of ours, or one we need, cannot be started or reached
    └── PortInUseError

A message says what and where; ``hint`` says what to do about it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SundialError(Exception):
    """Base of all errors raised on purpose.

    Parameters
    ----------
    message : str
        What went wrong, and where.
    hint : str
        What the reader can do about it; shown on a line of its own.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nHint: {self.hint}" if self.hint else self.message


class SettingsError(SundialError, ValueError):
    """A setting or environment variable cannot be used."""


class PipelineError(SundialError, ValueError):
    """A pipeline.yaml cannot be used."""


class ScrapError(SundialError, ValueError):
    """A value cannot be recorded, or a scrap cannot be read."""


class ParameterError(SundialError, ValueError):
    """A notebook was given parameters that it does not take."""


class RunError(SundialError):
    """A run folder cannot be used."""


class RunNotFoundError(RunError, LookupError):
    """No such run, or no release yet."""


class ArtifactNotFoundError(RunError, LookupError):
    """An input or output is not there, or was never declared."""


class ArtifactCorruptError(RunError):
    """A file does not hash as its manifest says."""


class ParityError(RunError):
    """A release does not give what its experiment gave, and nothing explains it."""


class StageFailedError(SundialError, RuntimeError):
    """A notebook did not succeed.

    Parameters
    ----------
    message : str
        One sentence: stage, cell and cause.
    stage : str
        Stage name, such as ``06_train_model``.
    cell : int or None
        Number of the failing cell as a reader counts them, from 1; None when no cell is to blame.
    source : str
        Source of the failing cell.
    cause : str
        Name and text of the error in the cell.
    report : str
        Path of the rendered notebook.
    hint : str
        What to do about it.
    """

    def __init__(
        self,
        message: str,
        *,
        stage: str = "",
        cell: int | None = None,
        source: str = "",
        cause: str = "",
        report: str = "",
        hint: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.stage = stage
        self.cell = cell
        self.source = source
        self.cause = cause
        self.report = report


class StageTimeoutError(StageFailedError, TimeoutError):
    """A notebook ran past its deadline and was killed."""


class KernelDiedError(StageFailedError):
    """A kernel went away while a cell ran: killed, out of memory, or crashed."""


class GateFailedError(SundialError, RuntimeError):
    """One or more gates failed; nothing was deployed."""


class ModelRefusedError(SundialError, TypeError):
    """A model file holds types that our allow-list does not trust."""


class ServabilityError(SundialError, RuntimeError):
    """A candidate cannot be served: it does not load, is too slow, or answers otherwise than in evaluation."""


class RegistryError(SundialError):
    """The model registry cannot do what was asked."""


class VersionNotFoundError(RegistryError, LookupError):
    """No such model version or alias."""


class RehearsalError(RegistryError):
    """The way back from a promotion failed when it was rehearsed; production is what it was before."""


class ApprovalError(SundialError):
    """A decision cannot be taken."""


class EvidenceChangedError(ApprovalError):
    """The evidence is no longer what the person was shown."""


class ApprovalRefusedError(ApprovalError, PermissionError):
    """This person, or this moment, may not decide."""


class AnswerRefusedError(ApprovalRefusedError):
    """This answer does not count, and another may: the question is asked again."""


class RequestError(SundialError, ValueError):
    """A request to the model server cannot be answered.

    Parameters
    ----------
    message : str
        The reason, fit for the caller's eyes.
    status : int
        HTTP status, 400 to 499.
    column : str or None
        The column to blame, if it is one.
    hint : str
        What the caller can change.
    """

    def __init__(self, message: str, *, status: int = 400, column: str | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.column = column


class PredictionLogError(SundialError, OSError):
    """The prediction log cannot be written or read."""

    # OSError.__str__ would print its own arguments
    __str__ = SundialError.__str__


class StoreError(SundialError, OSError):
    """A store, or a place of backups, cannot be read or written."""

    # as above
    __str__ = SundialError.__str__


class BackupError(SundialError):
    """Nothing can be restored from there, or not to here."""


class DataError(SundialError, ValueError):
    """A table is not what its schema says."""


class EmptyDataError(DataError):
    """A table has no row where there must be some."""


class StaleDataError(DataError):
    """A table is of another date than the release, or has seen nothing new."""


class ServiceError(SundialError, RuntimeError):
    """A server cannot be started or reached."""


class PortInUseError(ServiceError):
    """Another process listens on the port."""


def nearest(name: str, names: Iterable[str]) -> str:
    """Suggest the known name that is closest to an unknown one.

    Parameters
    ----------
    name : str
        What somebody wrote.
    names : iterable of str
        What they may have meant.

    Returns
    -------
    str
        ``"Did you mean 'x'?"``, or the list of what there is, or an empty string when there is nothing.

    Examples
    --------
    >>> nearest("max_itr", ["max_iter", "seed"])
    "Did you mean 'max_iter'?"
    >>> nearest("zzz", ["max_iter", "seed"])
    'Known: max_iter, seed.'
    """
    known = list(names)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"Did you mean {close[0]!r}?"
    return f"Known: {', '.join(known)}." if known else ""
