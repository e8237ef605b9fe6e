"""The prediction log as a table: what was asked and answered, each request id once."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pandas as pd
import pytest

from sundial.serving.frames import list_segments, segment_path
from sundial.serving.predictions import PredictionLog, log_position, production_folder, read_frames, read_log
from sundial.serving.records import Batch
from sundial.serving.schema import EPOCH, MICROSECOND, Schema
from sundial.settings import Settings

SCHEMA = Schema.of({"distance": "float64", "minute": "int64", "late": "bool", "carrier": "str"})


def make_batch(*request_ids: str, score: float = 0.5, version: int = 1, **fields: object) -> Batch:
    """Make a batch of rows that are alike."""
    rows = len(request_ids)
    values = {
        "version": version,
        "threshold": 0.4,
        "served_at": time.time_ns(),
        "request_ids": list(request_ids),
        "entities": [],
        "event_times": [],
        "features": [[1.5] * rows, [7] * rows, [True] * rows, ["AA"] * rows],
        "scores": [score] * rows,
        "decisions": [score >= 0.4] * rows,
        "latencies": [0.25] * rows,
    }
    return Batch(**{**values, **fields})  # type: ignore[arg-type]


def write(settings: Settings, *batches: Batch, schema: Schema = SCHEMA) -> None:
    """Write batches as one server process would."""
    log = PredictionLog(production_folder("demo", settings))
    for batch in batches:
        log.append(batch, schema)
    log.close()


def test_an_empty_log_is_an_empty_table(settings: Settings) -> None:
    """Reading before anything was served gives no rows and the usual columns."""
    table = read_log("demo", settings=settings)

    assert table.empty
    assert {"request_id", "entity", "event_time", "served_at", "score", "key"} <= set(table.columns)
    assert log_position("demo", settings) == ""


def test_rows_come_back_as_they_were(settings: Settings) -> None:
    """Each row has what was asked, what was answered, when, by which version, in columns of the right types."""
    moment = (pd.Timestamp("2013-10-07T05:15").to_pydatetime() - EPOCH) // MICROSECOND
    write(
        settings,
        make_batch(
            "a",
            "b",
            entities=["f1", "f2"],
            event_times=[moment, None],
            features=[[math.nan, 2.5], [1, 2], [True, False], [None, "DL"]],
            scores=[0.1, 0.9],
            decisions=[False, True],
        ),
    )

    table = read_log("demo", settings=settings)

    assert ["a", "b"] == table["request_id"].tolist()
    assert ["f1", "f2"] == table["entity"].tolist()
    assert pd.Timestamp("2013-10-07T05:15") == table["event_time"][0]
    assert table["event_time"].isna().tolist() == [False, True]
    assert str(table["served_at"].dt.tz) == "UTC"
    assert table["distance"].isna().tolist() == [True, False]
    assert ["int64", "bool", "str"] == [str(table[name].dtype) for name in ("minute", "late", "carrier")]
    assert [0.1, 0.9] == table["score"].tolist()
    assert [False, True] == table["decision"].tolist()
    assert [0, 1] == table["key"].tolist()
    assert {(0.4, 1, 0.25)} == set(zip(table["threshold"], table["model_version"], table["latency_ms"], strict=True))


def test_the_first_row_of_an_id_counts(settings: Settings) -> None:
    """Of a request id that two servers logged, readers see what was served first."""
    early, late = make_batch("a", score=0.1), make_batch("a", "b", score=0.9)
    write(settings, late)
    write(settings, early)

    table = read_log("demo", settings=settings)

    assert [("a", 0.1), ("b", 0.9)] == list(zip(table["request_id"], table["score"], strict=True))


def test_rows_are_chosen_by_event_time(settings: Settings) -> None:
    """Start is included and end is not; a row without event time is placed by when it was served."""
    days = [(pd.Timestamp(f"2013-10-{day:02}").to_pydatetime() - EPOCH) // MICROSECOND for day in (6, 7, 13, 14)]
    write(settings, make_batch("a", "b", "c", "d", "e", event_times=[*days, None]))

    week = read_log("demo", "2013-10-07", "2013-10-14", settings)
    recent = read_log("demo", start=pd.Timestamp.now() - pd.Timedelta(days=2), settings=settings)

    assert ["b", "c"] == week["request_id"].tolist()
    assert ["e"] == recent["request_id"].tolist()


def test_rows_of_several_schemas_are_one_table(settings: Settings) -> None:
    """After a release with another feature, older rows have it missing."""
    wider = Schema.of({"distance": "float64", "wind": "float64"})
    write(settings, make_batch("a"))
    write(settings, make_batch("b", features=[[2.5], [9.0]]), schema=wider)

    table = read_log("demo", settings=settings).set_index("request_id")

    assert math.isnan(table.loc["a", "wind"])
    assert table.loc["b", "wind"] == 9.0
    assert ["score", "decision", "threshold", "model_version", "latency_ms", "key"] == list(table.columns)[-6:]


def test_a_feature_may_be_called_score(settings: Settings) -> None:
    """A feature of the same name as a column of the log is kept beside it."""
    write(settings, make_batch("a", features=[[650.0]]), schema=Schema.of({"score": "float64"}))

    table = read_log("demo", settings=settings)

    assert [(0.5, 650.0)] == list(zip(table["score"], table["score_feature"], strict=True))


def test_damaged_rows_are_counted(settings: Settings) -> None:
    """Rows that cannot be read are told in the table's attrs, and the others are there."""
    write(settings, make_batch("a"), make_batch("b", "c"), make_batch("d"))
    path = segment_path(production_folder("demo", settings), 0, 0)
    data = bytearray(path.read_bytes())
    data[data.index(b"\xa1b\xa1c")] ^= 0x01
    path.write_bytes(data)

    table = read_log("demo", settings=settings)

    assert ["a", "d"] == table["request_id"].tolist()
    assert table.attrs["lost_rows"] == 2


def test_a_position_divides_the_log(settings: Settings) -> None:
    """Reading from where the log ended gives what was written since, and nothing else."""
    write(settings, make_batch("a"))
    position = log_position("demo", settings)
    write(settings, make_batch("b"), make_batch("c"))

    found = [batch for _, batches in read_frames(production_folder("demo", settings), position) for batch in batches]

    assert [["b"], ["c"]] == [batch.request_ids for batch in found]


def test_answers_are_remembered_over_a_restart(settings: Settings) -> None:
    """A server knows what its predecessors answered, the first answer of an id, whoever wrote it."""
    write(settings, make_batch("a", score=0.25, version=3), make_batch("b", score=0.75))

    log = PredictionLog(production_folder("demo", settings))
    log.append(make_batch("a", score=0.9), SCHEMA)
    found = log.find("a")
    log.close()

    assert found is not None
    assert (0.25, False, 3) == found
    assert log.find("z") is None


def test_memory_of_answers_is_bounded(tmp_path: Path) -> None:
    """Only the newest ids are kept, while writing and after a restart."""
    log = PredictionLog(tmp_path, remembered=3)
    for number in range(5):
        log.append(make_batch(str(number)), SCHEMA)
    kept = [log.find(str(number)) is not None for number in range(5)]
    log.close()
    again = PredictionLog(tmp_path, remembered=2)
    again.close()

    assert [False, False, True, True, True] == kept
    assert [False, False, False, True, True] == [again.find(str(number)) is not None for number in range(5)]


@pytest.mark.timeout(120)  # what grows with the square of the rows takes many minutes; seconds are a benchmark's
def test_many_single_rows_read_quickly(settings: Settings) -> None:
    """A hundred thousand rows, one a frame as single requests make them, are a table, and not after minutes."""
    log = PredictionLog(production_folder("demo", settings), segment_bytes=1 << 20)
    for number in range(100_000):
        log.append(make_batch(str(number)), SCHEMA)
    log.close()
    assert len(list_segments(production_folder("demo", settings))[0]) > 5

    table = read_log("demo", settings=settings)

    assert len(table) == 100_000
    assert table["key"].is_unique
