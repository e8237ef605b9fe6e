"""The instant shadow: the logged past scored at once, marked, and never twice."""

from __future__ import annotations

import time
from datetime import date, timedelta

import numpy as np
import pytest
from folder_source import FolderSource
from logwriter import Writer

from sundial.errors import ServiceError, SettingsError
from sundial.serving import replaying
from sundial.serving.predictions import log_position, read_log
from sundial.serving.replaying import parse_since, replay_shadow
from sundial.serving.shadow import read_shadow_scores, score_shadow
from sundial.settings import Settings

WEEK = timedelta(days=7)


def test_the_past_is_scored_as_the_model_scores(
    models: FolderSource,
    settings: Settings,
    writer: Writer,
) -> None:
    """A version that was never in shadow gets a score for each logged row, marked as replayed."""
    writer.write(30)
    writer.write(300, a_batch=100)

    done = replay_shadow("demo", WEEK, settings, version=2, source=models)

    scores, logged = read_shadow_scores("demo", 2, settings), read_log("demo", settings=settings)
    assert (330, 330, 0, 2) == (done.rows, done.new_rows, done.errors, done.version)
    assert logged["key"].tolist() == scores["key"].tolist()
    assert np.array_equal(models.load(models.version(2)).score(logged), scores["score"])
    assert scores["replayed"].all()


def test_a_repeat_scores_only_what_is_new(models: FolderSource, settings: Settings, writer: Writer) -> None:
    """The same replay again goes on where it ended, also when it was cut in the middle."""
    writer.write(50)

    first = replay_shadow("demo", WEEK, settings, version=2, source=models)
    writer.write(7)
    second = replay_shadow("demo", WEEK, settings, version=2, source=models)

    assert (50, 7, 57) == (first.new_rows, second.new_rows, second.rows)
    assert 57 == len(read_shadow_scores("demo", 2, settings))


def test_live_rows_are_left_to_the_scorer(models: FolderSource, settings: Settings, writer: Writer) -> None:
    """What was logged since a version came to the shadow is live, the rest replayed, and no row is both."""
    writer.write(20, a_batch=5)
    models.point("shadow", 2, shadow_from=log_position("demo", settings))
    writer.write(9)
    assert 9 == score_shadow("demo", settings, once=True, source=models)

    done = replay_shadow("demo", WEEK, settings, source=models)

    assert 20 == done.new_rows
    scores = read_shadow_scores("demo", 2, settings)
    assert (20, 9) == (int(scores["replayed"].sum()), int((~scores["replayed"]).sum()))
    assert scores["key"].is_unique
    assert scores["replayed"].tolist() == [True] * 20 + [False] * 9


def test_only_the_days_asked_for(
    models: FolderSource,
    settings: Settings,
    writer: Writer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows served before the time asked for, or events before the day asked for, are left out."""
    writer.write(10)
    monkeypatch.setattr(replaying, "HOUR", 1)
    time.sleep(0.3)
    moment = time.time()
    writer.write(4)

    late = replay_shadow("demo", timedelta(seconds=time.time() - moment + 0.1), settings, version=2, source=models)
    none = replay_shadow("demo", date(2100, 1, 1), settings, version=1, source=models)
    everything = replay_shadow("demo", date(2000, 1, 1), settings, version=1, source=models)

    assert (4, 0, 14) == (late.rows, none.rows, everything.rows)


def test_without_a_shadow_a_version_must_be_named(models: FolderSource, settings: Settings) -> None:
    """With nothing in shadow and no version given there is nothing to replay with."""
    with pytest.raises(ServiceError, match="no version in shadow"):
        replay_shadow("demo", WEEK, settings, source=models)


@pytest.mark.parametrize("text", ["7", "yesterday", "7x"])
def test_what_is_no_time_is_told(text: str) -> None:
    """What is neither a duration nor a day is refused with an example."""
    with pytest.raises(SettingsError, match="neither how long ago nor a day"):
        parse_since(text)
