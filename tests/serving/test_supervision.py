"""Several shadows at once: each with a process, a log and a lag of its own, whatever the others do."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import numpy as np
import psutil
import pytest
from folder_source import FolderSource
from logwriter import Writer
from processes import running
from test_shadow import scores_of

from sundial.serving.shadow import lag, read_shadow_scores, wait_until_caught_up
from sundial.serving.status import read_status
from sundial.settings import Settings


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def shadows_of(settings: Settings) -> dict[str, dict[str, object]]:
    """Read the status of all shadows."""
    return dict(read_status("demo", settings).get("shadows", {}))


@pytest.mark.slow
def test_a_shadow_that_misbehaves_is_an_error_rate(
    models: FolderSource,
    settings: Settings,
    writer: Writer,
) -> None:
    """Rows at which a candidate raises, stalls, eats memory or dies get errors that say so; all others have scores.

    The shadow beside it, and the one that watches both, see nothing of it.
    """
    models.point("shadow", 3)
    models.point("shadow-calm", 2)
    carriers = np.array(["AA", "B6"] * 100, object)
    troubles = {11: "raises", 40: "stalls", 90: "eats", 150: "dies"}
    carriers[list(troubles)] = list(troubles.values())
    writer.write(200, a_batch=20, carrier=carriers)
    bounds = {"SUNDIAL_SHADOW_DEADLINE_MS": "700", "SUNDIAL_SHADOW_MEMORY_MB": "1024"}

    with running("troubled", settings.artifacts, models.root, **bounds) as process:
        wait_until_caught_up("demo", 2, timeout=120, settings=settings)
        wait_until_caught_up("demo", 3, timeout=120, settings=settings)
        writer.write(5)
        wait_until_caught_up("demo", 3, timeout=120, settings=settings)
        wait_for(lambda: [shadows_of(settings)[name]["rows"] for name in ("shadow", "shadow-calm")] == [205, 205])
        wait_for(lambda: shadows_of(settings)["shadow"]["error"] == "")
        found = shadows_of(settings)
        assert process.stop() == 0

    scores = scores_of(settings, 3)
    errors = scores.loc[scores["error"] != "", "error"]
    assert list(troubles) == errors.index.tolist()
    for row, words in {11: "no such carrier", 40: "within 0.7 s", 90: "of memory", 150: "signal 11"}.items():
        assert words in errors[row]
    assert (201, 0) == (int(scores["score"].notna().sum()), int((scores_of(settings, 2)["error"] != "").sum()))
    assert (4, 0) == (found["shadow"]["errors"], found["shadow-calm"]["errors"])
    assert found["shadow"]["error_share"] == pytest.approx(4 / 205)
    assert (True, 0) == (found["shadow"]["restarts"] >= 6, found["shadow-calm"]["restarts"])


@pytest.mark.slow
def test_a_shadow_that_always_stalls_is_given_up_on(
    models: FolderSource,
    settings: Settings,
    writer: Writer,
) -> None:
    """After three rows of a batch that stalled the rest of the batch is an error too, so that the lag has an end."""
    models.point("shadow", 3)
    writer.write(300, a_batch=300, carrier="stalls")

    with running("troubled", settings.artifacts, models.root, SUNDIAL_SHADOW_DEADLINE_MS="200") as process:
        wait_until_caught_up("demo", 3, timeout=120, settings=settings)
        assert process.stop() == 0

    errors = scores_of(settings, 3)["error"]
    assert errors.str.contains("no answer within 0.2 s").all()
    assert 3 <= (~errors.str.contains("not tried")).sum() < 10


@pytest.mark.slow
def test_kills_of_any_process_score_every_row_exactly_once(
    models: FolderSource,
    settings: Settings,
    writer: Writer,
) -> None:
    """Whatever process is killed, the scorer's or a shadow's, and however often: each shadow has each row once."""
    models.point("shadow", 2)
    models.point("shadow-other", 1)
    for _ in range(2):
        with running("scorer", settings.artifacts, models.root) as process:
            wait_for(lambda: len(shadows_of(settings)) == 2 and lag("demo", 1, settings).started)
            for chosen in (0, 1, 0):
                for _ in range(10):
                    writer.write(20)
                    time.sleep(0.02)
                watcher = psutil.Process(process.process.pid)
                wait_for(lambda watcher=watcher: len(watcher.children()) == 2)  # type: ignore[misc]
                children = watcher.children()
                os.kill(children[chosen].pid, signal.SIGKILL)
            process.kill()
    writer.write(50)

    with running("scorer", settings.artifacts, models.root) as process:
        for version in (1, 2):
            wait_until_caught_up("demo", version, timeout=120, settings=settings)
        assert process.stop() == 0

    for version in (1, 2):
        scores = scores_of(settings, version)
        assert len(scores) == writer.rows
        assert scores["key"].is_unique
        assert (scores["error"] == "").all()


@pytest.mark.slow
def test_shadows_come_and_go(models: FolderSource, settings: Settings, writer: Writer) -> None:
    """A version that leaves the shadow is scored no further; the scorer needs no restart for the next."""
    models.point("shadow", 2)
    writer.write(10)
    with running("scorer", settings.artifacts, models.root):
        wait_until_caught_up("demo", 2, timeout=120, settings=settings)
        models.point("shadow", 1)
        wait_for(lambda: shadows_of(settings).get("shadow", {}).get("version") == 1)
        writer.write(10)
        wait_until_caught_up("demo", 1, timeout=120, settings=settings)
        assert (10, 20) == (
            len(read_shadow_scores("demo", 2, settings)),
            len(read_shadow_scores("demo", 1, settings)),
        )
