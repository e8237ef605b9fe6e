"""Requests that wait for their turn, which of their rows are new, and what they are answered."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple, Protocol

import msgspec

from sundial.serving.predictions import Answer
from sundial.serving.records import Batch
from sundial.serving.schema import Request, Schema


class Reply(msgspec.Struct, gc=False):
    """What a request is answered: what MLflow's clients read, and ids, decisions and the version beside it.

    Attributes
    ----------
    predictions : list of float
        A score a row.
    decisions : list of bool
        A row each.
    request_ids : list of str
        A row each.
    model_version : str
        Version that answered; empty when there are no rows.
    model_versions : list of str
        A row each, and only there when some rows were answered before, and come from the log.
    """

    predictions: list[float]
    decisions: list[bool]
    request_ids: list[str]
    model_version: str
    model_versions: list[str] | msgspec.UnsetType = msgspec.UNSET

    @property
    def repeated(self) -> bool:
        """Whether some of the rows were answered before."""
        return self.model_versions is not msgspec.UNSET


class Waiter(Protocol):
    """Who waits for a reply: a future, or a connection that answers by itself."""

    def done(self) -> bool:
        """Whether nobody waits any longer."""
        ...

    def set_result(self, reply: Reply, /) -> None:
        """Answer."""
        ...

    def set_exception(self, error: Exception, /) -> None:
        """Say why there is no answer."""
        ...


class Job(msgspec.Struct, gc=False):
    """A request that waits for its turn."""

    body: bytes
    request: Request
    schema: Schema
    arrived: float
    waiter: Waiter


class Plan(msgspec.Struct, gc=False):
    """Which rows of a job are new, and which were answered before."""

    job: Job
    request_ids: list[str]
    fresh: list[int] | None = None  # row numbers; None when all are
    known: dict[int, Answer | str] | None = None  # an id stands for a row of this very batch


class Fresh(NamedTuple):
    """The new rows of one request."""

    request_ids: list[str]
    values: Sequence[tuple[Any, ...]]
    entities: list[Any] | None
    event_times: list[Any] | None
    arrived: float

    @classmethod
    def of(cls, plan: Plan) -> Fresh:
        """Take the new rows out of a request."""
        request, rows = plan.job.request, plan.fresh
        entities, times = request.entities, request.event_times
        if rows is None:
            return cls(plan.request_ids, request.values, entities, times, plan.job.arrived)
        return cls(
            [plan.request_ids[row] for row in rows],
            [request.values[row] for row in rows],
            None if entities is None else [entities[row] for row in rows],
            None if times is None else [times[row] for row in rows],
            plan.job.arrived,
        )


def answers_of(batch: Batch) -> dict[str, Answer]:
    """Give the answers of a batch by request id."""
    return {
        request_id: Answer(score, decision, batch.version)
        for request_id, score, decision in zip(batch.request_ids, batch.scores, batch.decisions, strict=True)
    }


def fill(columns: list[list[Any] | None], parts: list[Fresh]) -> list[Any]:
    """Put columns end to end, with None for requests that have none; empty when no request has any."""
    if all(column is None for column in columns):
        return []
    return list(
        chain.from_iterable(
            [None] * len(part.request_ids) if column is None else column
            for column, part in zip(columns, parts, strict=True)
        )
    )
