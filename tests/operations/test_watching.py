"""A really bad model under real HTTP is put back within seconds, and it is said as loudly as a failure."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import httpx
import numpy as np
import pandas as pd
import pytest

from sundial.declarations import WatchBounds
from sundial.monitoring.watch import read_watch
from sundial.operations.status import wait_for_version
from sundial.operations.watching import BY, watch_production
from sundial.pipeline import Pipeline
from sundial.release.history import ROLLBACK
from sundial.release.models import build_model_folder
from sundial.release.registry import Registry
from sundial.runs import Run
from sundial.settings import Settings, load_settings
from tests.release.conftest import FEATURES, save, toys

pytestmark = pytest.mark.slow


@pytest.fixture
def watched(pipeline: Pipeline) -> Pipeline:
    """Watch for two minutes, five times a second; what is bad is found long before."""
    bounds = WatchBounds(lasts=timedelta(minutes=2), every=timedelta(seconds=0.2), min_rows=100, latency_p99_ms=20_000)
    return pipeline.model_copy(update={"watch_bounds": bounds})


def shortly(watched: Pipeline) -> Pipeline:
    """Watch for seconds only: what is good is left."""
    assert watched.watch_bounds is not None
    bounds = watched.watch_bounds.model_copy(update={"lasts": timedelta(seconds=8)})
    return watched.model_copy(update={"watch_bounds": bounds})


@contextmanager
def traffic(url: str) -> Iterator[list[int]]:
    """Send toys to the server all the time meanwhile; give the statuses of its answers."""
    rows = toys(300, seed=9)[list(FEATURES)].astype(object)
    rows = rows.where(rows.notna(), None).to_dict("records")
    stop, statuses = threading.Event(), []

    def send() -> None:
        with httpx.Client(timeout=60, trust_env=False) as client:
            index = 0
            while not stop.is_set():
                body = {"dataframe_records": rows[index % 280 : index % 280 + 5]}
                statuses.append(client.post(f"{url}/invocations", json=body).status_code)
                index += 5

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield statuses
    finally:
        stop.set()
        thread.join()


def promote_by_hand(run: Run, registry: Registry, version: int, previous: int | None) -> None:
    """Leave what stage 11 leaves."""
    move = registry.set_alias("toy", "production", version, by="ada")
    save(run, "11_promote_model", promotion={"version": version, "previous": previous, "promoted_at": move.at})


def candidate(
    make_run: Callable[..., Run], registry: Registry, pipeline: Pipeline, tmp_path, *, as_of: str, **how: object
) -> tuple[Run, int]:
    """Make and register a model."""
    run = make_run(as_of, **how)
    return run, registry.register("toy", build_model_folder(run, tmp_path / as_of, pipeline=pipeline))


def forecast_as_before(run: Run) -> None:
    """Leave a comparison in which the shadow answered what production did."""
    score = np.linspace(0, 1, 500)
    joined = {"production_score": score, "shadow_score": score}
    joined |= {"production_decision": score > 0.9, "shadow_decision": score > 0.9}
    save(run, "10_compare_shadow", joined=pd.DataFrame(joined))


def test_a_bad_model_is_put_back_and_a_good_one_is_left(
    server: str,
    registry: Registry,
    watched: Pipeline,
    make_run: Callable[..., Run],
    tmp_path,
) -> None:
    """One that alerts on everything goes within seconds, without a failed request; one as forecast stays."""
    settings = load_settings()
    _, first = candidate(make_run, registry, watched, tmp_path, as_of="2013-09-30", threshold=0.45)
    good, second = candidate(make_run, registry, watched, tmp_path, as_of="2013-10-07", threshold=0.45)
    bad, third = candidate(make_run, registry, watched, tmp_path, as_of="2013-10-14", seed=1, threshold=0.0)
    registry.set_alias("toy", "production", first)
    wait_for_version(settings, str(first))
    with traffic(server) as statuses:
        forecast_as_before(good)
        promote_by_hand(good, registry, second, first)
        seen = watch_production(good, shortly(watched), settings)
        assert ("passed", second) == (seen.state, registry.alias("toy", "production").version), seen.said

        forecast_as_before(bad)
        promote_by_hand(bad, registry, third, second)
        seen = watch_production(bad, watched, settings)
        assert "rolled back" == seen.state, seen.said
        wait_for_version(settings, str(second))

    assert seen.is_broken
    assert "change of alert share against the version before" in seen.said
    assert f"version {second} is production again, instead of version {third}" in seen.said
    last = registry.history("toy")[-1]
    assert (second, BY, ROLLBACK) == (last.version, last.by, last.kind)
    assert {200} == set(statuses)
    assert "rolled back" == read_watch(bad)["state"]


def test_a_first_version_is_not_put_back_but_reported(
    server: str, registry: Registry, watched: Pipeline, make_run: Callable[..., Run], tmp_path
) -> None:
    """There is nothing to go back to, and the alarm says so."""
    run, only = candidate(make_run, registry, watched, tmp_path, as_of="2013-09-30", threshold=0.0)
    promote_by_hand(run, registry, only, None)
    wait_for_version(load_settings(), str(only))
    with traffic(server):
        seen = watch_production(run, watched, load_settings())

    assert ("alarm", only) == (seen.state, registry.alias("toy", "production").version)
    assert "alert share" in seen.said
    assert "nothing to roll back to" in seen.said


def test_another_version_ends_the_watch(
    toy: Settings, registry: Registry, watched: Pipeline, make_run: Callable[..., Run], tmp_path
) -> None:
    """Superseded: nobody watches what does not answer any more."""
    run, only = candidate(make_run, registry, watched, tmp_path, as_of="2013-09-30")
    _, newer = candidate(make_run, registry, watched, tmp_path, as_of="2013-10-07", seed=1)
    promote_by_hand(run, registry, only, None)
    registry.set_alias("toy", "production", newer)

    assert "superseded" == watch_production(run, watched, load_settings()).state


def test_a_silent_server_is_an_alarm(
    toy: Settings,
    registry: Registry,
    watched: Pipeline,
    make_run: Callable[..., Run],
    tmp_path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three looks that find no server break the watch."""
    monkeypatch.setenv("SUNDIAL_SERVE_PORT", "1")
    run, only = candidate(make_run, registry, watched, tmp_path, as_of="2013-09-30")
    promote_by_hand(run, registry, only, None)

    seen = watch_production(run, watched, load_settings(), sleep=lambda _: None)
    assert (3, "alarm") == (seen.looks, seen.state)
    assert "the model server does not answer" in seen.said
