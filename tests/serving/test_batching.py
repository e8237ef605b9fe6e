"""Tick batching: who is scored together, who is refused alone, who is answered from the log."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folder_source import FolderSource

from sundial.errors import PredictionLogError, RequestError
from sundial.serving import batching
from sundial.serving.batching import Batcher, UnavailableError
from sundial.serving.following import load
from sundial.serving.jobs import Reply
from sundial.serving.predictions import PredictionLog, production_folder, read_log
from sundial.serving.sources import Loaded
from sundial.settings import Settings

ROW = {"distance": 900.0, "minute": 600, "weekend": False, "carrier": "AA"}


def submit(batcher: Batcher, *rows: dict[str, Any], ids: list[str] | None = None) -> asyncio.Future[Reply]:
    """Submit rows as a request would."""
    document = {"dataframe_records": list(rows), **({"request_ids": ids} if ids else {})}
    future = asyncio.get_running_loop().create_future()
    return batcher.submit(json.dumps(document).encode(), time.perf_counter(), future)


def in_loop(
    model: Callable[[], Loaded | None],
    settings: Settings,
    work: Callable[[Batcher], Coroutine[Any, Any, Any]],
    **options: Any,
) -> tuple[Any, PredictionLog]:
    """Run some work with a batcher and its log."""
    log = PredictionLog(production_folder("demo", settings), **options)
    try:

        async def run() -> Any:
            return await work(Batcher(model, log))

        return asyncio.run(run()), log
    finally:
        log.close()


@pytest.fixture
def loaded(models: FolderSource) -> Loaded:
    """Load version 1."""
    version = models.alias("production")
    assert version is not None
    return load(models, version)


@pytest.fixture
def strict(models: FolderSource) -> Loaded:
    """Load version 3, which raises for a carrier that it does not know."""
    models.point("production", 3)
    version = models.alias("production")
    assert version is not None
    return load(models, version)


def test_one_turn_is_one_batch(loaded: Loaded, settings: Settings) -> None:
    """Requests of one turn of the loop are scored together, and each gets what it would have got alone."""

    async def work(batcher: Batcher) -> tuple[list[Reply], int]:
        rows = [{**ROW, "minute": minute} for minute in range(0, 1400, 100)]
        replies = await asyncio.gather(*(submit(batcher, row) for row in rows), submit(batcher, *rows))
        return replies, batcher.batches

    (replies, batches), _ = in_loop(lambda: loaded, settings, work)

    assert batches == 1
    together = replies[-1].predictions
    assert together == [reply.predictions[0] for reply in replies[:-1]]
    assert len(set(together)) > 3


def test_one_bad_request_is_refused_alone(strict: Loaded, settings: Settings) -> None:
    """A request that makes the model raise is told so; the others of its batch are answered."""

    async def work(batcher: Batcher) -> list[Reply | BaseException]:
        carriers = ("AA", "??", "DL")
        waiting = [submit(batcher, {**ROW, "carrier": carrier}, ids=[carrier]) for carrier in carriers]
        return await asyncio.gather(*waiting, return_exceptions=True)

    found, _ = in_loop(lambda: strict, settings, work)

    assert isinstance(found[1], RequestError)
    assert found[1].status == 422
    assert "Found unknown categories" in str(found[1])
    assert [["AA"], ["DL"]] == [found[0].request_ids, found[2].request_ids]
    assert ["AA", "DL"] == read_log("demo", settings=settings)["request_id"].tolist()


def test_a_repeated_id_is_answered_from_the_log(loaded: Loaded, settings: Settings) -> None:
    """An id asked again, in the same batch or later, gets its first answer and no second row."""

    async def work(batcher: Batcher) -> list[Reply]:
        first = submit(batcher, ROW, {**ROW, "minute": 5}, ids=["a", "a"])
        beside = submit(batcher, {**ROW, "minute": 9}, {**ROW, "minute": 10}, ids=["b", "a"])
        await asyncio.gather(first, beside)
        later = submit(batcher, {**ROW, "minute": 11}, ids=["a"])
        return [first.result(), beside.result(), await later]

    (first, beside, later), _ = in_loop(lambda: loaded, settings, work)

    answer = (first.predictions[0], first.decisions[0])
    assert [answer, answer] == list(zip(first.predictions, first.decisions, strict=True))
    assert [True, True, True] == [reply.repeated for reply in (first, beside, later)]
    assert answer == (beside.predictions[1], beside.decisions[1]) == (later.predictions[0], later.decisions[0])
    assert ["a", "b"] == read_log("demo", settings=settings)["request_id"].tolist()


def test_a_model_that_changes_in_between_checks_again(models: FolderSource, loaded: Loaded, settings: Settings) -> None:
    """A request checked for one model and scored by the next is checked for that one too."""
    models.point("production", 4)
    version = models.alias("production")
    assert version is not None
    current = [loaded]

    async def work(batcher: Batcher) -> list[Reply | BaseException]:
        waiting = submit(batcher, ROW)
        current[0] = load(models, version)
        fits = submit(batcher, {**ROW, "wind": 3.0})
        return await asyncio.gather(waiting, fits, return_exceptions=True)

    (waited, fitted), _ = in_loop(lambda: current[0], settings, work)

    assert isinstance(waited, RequestError)
    assert "wind" in str(waited)
    assert fitted.model_version == "4"


def test_without_a_model_callers_are_told_to_wait(settings: Settings) -> None:
    """Before the first promotion a request is not an error of the caller's."""

    async def work(batcher: Batcher) -> None:
        with pytest.raises(UnavailableError, match="no model in production"):
            submit(batcher, ROW)

    in_loop(lambda: None, settings, work)


def test_too_many_waiting_rows_are_turned_away(
    loaded: Loaded, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the bound callers are told to come back; those before it are answered, in several batches."""
    monkeypatch.setattr(batching, "WAITING_ROWS", 20)
    monkeypatch.setattr(batching, "BATCH_ROWS", 4)

    async def work(batcher: Batcher) -> int:
        waiting = [submit(batcher, ROW, ROW) for _ in range(10)]
        with pytest.raises(UnavailableError, match="20 rows are waiting"):
            submit(batcher, ROW)
        await asyncio.gather(*waiting)
        return batcher.batches

    batches, _ = in_loop(lambda: loaded, settings, work)

    assert batches == 5


def test_a_caller_who_went_away_is_not_scored(loaded: Loaded, settings: Settings) -> None:
    """A request whose caller is gone by the end of the turn costs nothing, and its neighbours are answered."""

    async def work(batcher: Batcher) -> None:
        gone, there = submit(batcher, ROW, ids=["gone"]), submit(batcher, ROW, ids=["there"])
        gone.cancel()
        await there

    in_loop(lambda: loaded, settings, work)

    assert ["there"] == read_log("demo", settings=settings)["request_id"].tolist()


def test_no_answer_before_the_sync_when_asked_for(loaded: Loaded, settings: Settings) -> None:
    """With log_sync_ms at 0 no request is answered before its row is on the disk, and batches share a sync."""
    may_sync = threading.Event()
    synced = []

    async def work(batcher: Batcher) -> list[Reply]:
        real = batcher._log.sync

        def slow() -> None:
            assert may_sync.wait(5)
            real()
            synced.append(True)

        batcher._log.sync = slow  # type: ignore[method-assign]
        waiting = []
        for _ in range(5):
            waiting.append(submit(batcher, ROW))
            await asyncio.sleep(0.01)
        assert not any(future.done() for future in waiting)
        may_sync.set()
        return await asyncio.gather(*waiting)

    replies, _ = in_loop(lambda: loaded, settings, work, sync_ms=0)

    assert len(replies) == 5
    assert len(synced) == 2


def test_a_failing_sync_is_not_acknowledged(loaded: Loaded, settings: Settings) -> None:
    """When the disk refuses to sync, the caller is told, and asking again does not find an answer in memory."""

    async def work(batcher: Batcher) -> None:
        real, failures = batcher._log.sync, [True]

        def fail_once() -> None:
            if failures:
                failures.clear()
                raise PredictionLogError("no disk")
            real()

        batcher._log.sync = fail_once  # type: ignore[method-assign]
        with pytest.raises(UnavailableError, match="no disk"):
            await submit(batcher, ROW, ids=["a"])
        assert not (await submit(batcher, ROW, ids=["a"])).repeated

    in_loop(lambda: loaded, settings, work, sync_ms=0)


def test_a_log_that_cannot_be_written_answers_nobody(
    loaded: Loaded, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a row cannot be logged its caller gets no prediction; once the disk is back, the next one does."""

    async def work(batcher: Batcher) -> list[Any]:
        writer = batcher._log._writer
        folder = writer.folder
        writer.folder = tmp_path / "gone"
        failed = await asyncio.gather(submit(batcher, ROW, ids=["a"]), return_exceptions=True)
        error = batcher._log.error
        writer.folder = folder
        return [*failed, error, await submit(batcher, ROW, ids=["a"]), batcher._log.error]

    (failed, error, reply, after), _ = in_loop(lambda: loaded, settings, work)

    assert isinstance(failed, UnavailableError)
    assert "cannot be begun" in error
    assert not reply.repeated
    assert after == ""
    assert ["a"] == read_log("demo", settings=settings)["request_id"].tolist()


def test_a_score_that_is_no_number_is_refused(loaded: Loaded, settings: Settings) -> None:
    """A model that gives NaN for a row answers nothing for it, and nothing is logged."""

    class Undefined:
        """Version 1, whose scores are lost."""

        def __getattr__(self, name: str) -> Any:
            return getattr(loaded.model, name)

        def score(self, frame: Any) -> Any:
            return np.full(len(frame), np.nan)

    broken = Loaded(9, Undefined(), loaded.schema, 0.5, 0.0)

    async def work(batcher: Batcher) -> None:
        with pytest.raises(RequestError, match="no score"):
            await submit(batcher, ROW)

    in_loop(lambda: broken, settings, work)

    assert read_log("demo", settings=settings).empty
