"""Compaction: the same rows before and after, whoever reads or is killed meanwhile, and nothing let go in silence."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest
from folder_source import FolderSource
from logwriter import Writer

from sundial.serving import compaction
from sundial.serving.archive import Archive
from sundial.serving.compaction import closed_segments, compact_log, shadow_positions
from sundial.serving.positions import Position
from sundial.serving.predictions import PredictionLog, log_position, production_folder, read_log
from sundial.serving.replaying import replay_shadow
from sundial.serving.scorer import VersionScorer
from sundial.serving.shadow import lag, read_shadow_scores, score_shadow
from sundial.serving.stores import read_recent
from sundial.settings import Settings


@pytest.fixture
def writer(settings: Settings) -> Iterator[Writer]:
    """Open a prediction log of small segments."""
    made = Writer(settings, segment_bytes=4_000)
    yield made
    made.log.close()


def test_the_log_reads_the_same(settings: Settings, writer: Writer) -> None:
    """Rows, types and order are what they were, and a second compaction finds nothing to do."""
    writer.write(90, a_batch=10, carrier=np.array(["AA", None] * 45, object))
    writer.write(400, a_batch=50)
    before, position = read_log("demo", settings=settings), log_position("demo", settings)
    closed = closed_segments(production_folder("demo", settings))

    done = compact_log("demo", settings)

    assert len(closed) >= 2
    assert (len(closed), 0, 0) == (done.segments, done.duplicates, done.lost_rows)
    pd.testing.assert_frame_equal(before, read_log("demo", settings=settings))
    assert position == log_position("demo", settings)
    assert 1 == len(list(production_folder("demo", settings).glob("*.seg")))
    assert 0 == compact_log("demo", settings).segments
    pd.testing.assert_frame_equal(before.tail(30).reset_index(drop=True), read_recent("demo", 30, settings))


def test_duckdb_reads_it(settings: Settings, writer: Writer) -> None:
    """The files are plain Parquet by day and version, which any tool can query."""
    writer.write(400, a_batch=50)
    rows = compact_log("demo", settings).rows
    pattern = production_folder("demo", settings) / "compacted" / "*" / "*" / "*.parquet"

    with duckdb.connect() as connection:
        found = connection.execute(
            "SELECT count(*), avg(score), min(version) FROM read_parquet($1, hive_partitioning = true)", [str(pattern)]
        ).fetchone()

    assert (rows, 0.5, 1) == found
    assert {f"day={datetime.now(UTC):%Y-%m-%d}"} >= {path.parent.parent.name for path in pattern.parent.glob("x")}


def test_a_repeated_id_is_dropped(settings: Settings, writer: Writer) -> None:
    """Of an id that was logged twice the first row stays, also when it was compacted long before the other."""
    writer.write(200, a_batch=20)
    first = read_log("demo", settings=settings)
    compact_log("demo", settings)
    writer.rows = 0
    writer.write(400, a_batch=20)

    done = compact_log("demo", settings)

    assert 0 < done.duplicates <= 200
    found = read_log("demo", settings=settings)
    pd.testing.assert_frame_equal(first, found.head(200))
    assert found["request_id"].is_unique
    assert 400 == len(found)


@pytest.mark.parametrize("step", ["_write", "_put"])
def test_a_kill_in_between_changes_nothing(
    settings: Settings, writer: Writer, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Wherever a compaction ends, readers see each row once, and the next one does the rest."""
    writer.write(600, a_batch=20)
    before = read_log("demo", settings=settings)
    real, calls = getattr(compaction, step), []

    def dies(*args: object) -> object:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(compaction, step, dies)
        with pytest.raises(KeyboardInterrupt):
            compact_log("demo", settings)
    archive = Archive(production_folder("demo", settings))
    (archive.folder / "day=2000-01-01").mkdir()
    (archive.folder / "day=2000-01-01" / "orphan.parquet").write_bytes(b"half a file")

    pd.testing.assert_frame_equal(before, read_log("demo", settings=settings))
    compact_log("demo", settings)
    pd.testing.assert_frame_equal(before, read_log("demo", settings=settings))
    assert not list(archive.folder.rglob("orphan.parquet"))


def test_a_scorer_goes_on_from_the_middle(models: FolderSource, settings: Settings, writer: Writer) -> None:
    """A shadow whose place is in a segment that was compacted meanwhile misses no row, and its lag counts them."""
    models.point("shadow", 2)
    writer.write(400, a_batch=10)
    scorer = VersionScorer("demo", models.version(2), models, settings)
    scorer._orders = compaction_orders = type(scorer._orders)(unit=37)
    assert compaction_orders.unit == 37
    done = scorer.step()
    compact_log("demo", settings)
    writer.write(30)

    assert 430 - done == lag("demo", 2, settings).rows
    while scored := scorer.step():
        done += scored
    scorer.close()

    assert 430 == done
    scores, logged = read_shadow_scores("demo", 2, settings), read_log("demo", settings=settings)
    assert logged["key"].tolist() == scores["key"].tolist()
    assert 0 == lag("demo", 2, settings).rows


def test_a_late_candidate_scores_the_archive(models: FolderSource, settings: Settings, writer: Writer) -> None:
    """What is compacted is replayed like what is not."""
    writer.write(400, a_batch=10)
    compact_log("demo", settings)

    done = replay_shadow("demo", timedelta(days=1), settings, version=2, source=models)

    assert 400 == done.rows
    logged, scores = read_log("demo", settings=settings), read_shadow_scores("demo", 2, settings)
    assert (models.load(models.version(2)).score(logged) == scores["score"]).all()


def test_a_torn_tail_is_cut_and_reported(settings: Settings, writer: Writer) -> None:
    """Damage in a segment is counted, and the rest of it compacted."""
    writer.write(300, a_batch=10)
    folder = production_folder("demo", settings)
    paths = sorted(folder.glob("*.seg"))
    with paths[0].open("ab") as file:
        file.write(b"\xf5SDLhalf a frame")
    data = bytearray(paths[1].read_bytes())
    data[len(data) // 2] ^= 0xFF
    paths[1].write_bytes(data)

    done = compact_log("demo", settings)

    assert (16, 10) == (done.cut_bytes, done.lost_rows)
    found = read_log("demo", settings=settings)
    assert (290, 10) == (len(found), found.attrs["lost_rows"])


def test_retention_keeps_what_a_shadow_has_not_scored(models: FolderSource, settings: Settings, writer: Writer) -> None:
    """Old rows go once every shadow is past them; until then they are kept, and it is told for whom."""
    models.point("shadow", 2)
    models.point("shadow-slow", 1)
    writer.write(400, a_batch=20)
    keeping = settings.model_copy(update={"log_keep_days": 7})
    later = datetime.now(UTC) + timedelta(days=30)
    scorer = VersionScorer("demo", models.version(2), models, settings)
    while scorer.step():
        pass
    scorer.close()

    positions = shadow_positions("demo", models, settings)
    kept = compact_log("demo", keeping, positions, now=later)
    assert 0 == kept.dropped_rows
    assert {"shadow-slow"} == set(kept.held)
    assert kept.held == Archive(production_folder("demo", settings)).ledger().held
    assert 400 == len(read_log("demo", settings=settings))

    score_shadow("demo", settings, once=True, source=models)
    gone = compact_log("demo", keeping, shadow_positions("demo", models, settings), now=later)
    assert kept.rows == gone.dropped_rows
    assert {} == gone.held
    assert 400 - gone.dropped_rows == len(read_log("demo", settings=settings))


def test_too_much_is_let_go_oldest_first(settings: Settings, writer: Writer) -> None:
    """With a bound on its size the archive loses its oldest files, and no position becomes wrong."""
    writer.write(2000, a_batch=20)
    small = settings.model_copy(update={"log_keep_mb": 1})
    assert 0 == compact_log("demo", small, {}).dropped_rows
    archive = Archive(production_folder("demo", settings))
    sizes = [file.bytes for file in archive.ledger().files]
    assert compact_log("demo", small, {"shadow": Position()}).dropped_rows == 0
    assert sum(sizes) < 1 << 20


def test_a_new_server_remembers_what_is_compacted(settings: Settings, writer: Writer) -> None:
    """A caller who asks again is answered from the log, also when the row is in Parquet by now."""
    writer.write(400, a_batch=20)
    compact_log("demo", settings)
    writer.log.close()

    again = PredictionLog(production_folder("demo", settings))
    try:
        answer = again.find("0")
        assert answer is not None
        assert (0.5, True, 1) == answer
    finally:
        again.close()


def test_readers_beside_a_compaction(settings: Settings, writer: Writer, tmp_path: Path) -> None:
    """Whoever reads while segments become Parquet sees every row, each time."""
    writer.write(1500, a_batch=20)
    stop, counts, errors = threading.Event(), [], []

    def read() -> None:
        while not stop.is_set():
            try:
                counts.append(len(read_log("demo", settings=settings)))
            except Exception as error:  # noqa: BLE001  told below
                errors.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    compact_log("demo", settings)
    stop.set()
    thread.join(60)

    assert [] == errors
    assert {1500} == set(counts) | {len(read_log("demo", settings=settings))}


def test_two_compactions_do_not_meet(settings: Settings, writer: Writer) -> None:
    """While one runs another one says so and does nothing."""
    writer.write(300, a_batch=20)
    archive = Archive(production_folder("demo", settings))
    archive.folder.mkdir()
    with compaction._lock(archive.folder / "compaction.lock") as mine:
        assert mine
        assert compact_log("demo", settings).busy
