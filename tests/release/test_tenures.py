"""Which version was in production at a time, who approved it, and on which evidence."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from sundial.release.history import PROMOTION, REHEARSAL, ROLLBACK
from sundial.release.models import build_model_folder
from sundial.release.registry import Registry
from sundial.release.tenures import find_tenure, list_tenures
from sundial.runs import Run
from sundial.settings import Settings


@pytest.fixture
def two_weeks(registry: Registry, make_run: Callable[..., Run], pipeline: object, tmp_path) -> Registry:
    """Promote a version, a week of data later another with its rehearsal, and take that back."""
    for index, as_of in enumerate(("2013-09-30", "2013-10-14")):
        run = make_run(as_of, seed=index)
        version = registry.register("toy", build_model_folder(run, tmp_path / as_of, pipeline=pipeline))
        registry.tag(
            "toy", version, {"decided_by": "ada", "decision_proof": "one-time code", "evidence": f"{version}" * 64}
        )
        registry.set_alias("toy", "production", version, by="ada", as_of=as_of, kind=PROMOTION)
    for version in (1, 2):
        registry.set_alias("toy", "production", version, by="11_promote_model", as_of="2013-10-14", kind=REHEARSAL)
    registry.set_alias("toy", "production", 1, by="grace", reason="rollback: alerts doubled", kind=ROLLBACK)
    return registry


def test_stays_follow_each_other_without_rehearsals(two_weeks: Registry, settings: Settings) -> None:
    """Each stay ends when the next begins; the seconds of a rehearsal show only when they are asked for."""
    stays = list_tenures("toy", settings)

    assert [1, 2, 1] == [item.version for item in stays]
    assert [item.since for item in stays[1:]] == [item.until for item in stays[:-1]]
    assert "" == stays[-1].until
    assert ["ada", "ada", "grace"] == [item.by for item in stays]
    assert ("ada", "one-time code", "2" * 64) == (stays[1].approved_by, stays[1].proof, stays[1].evidence)
    assert [1, 2, 1, 2, 1] == [item.version for item in list_tenures("toy", settings, rehearsals=True)]


@pytest.mark.parametrize(
    ("moment", "version"), [("2013-09-29", None), ("2013-09-30", 1), ("2013-10-13T23:59", 1), ("2013-10-20", 2)]
)
def test_a_date_of_the_data_is_found(two_weeks: Registry, settings: Settings, moment: str, version: int | None) -> None:
    """A moment before all promotions by the clock is one of the data."""
    found, clock = find_tenure(list_tenures("toy", settings), moment)

    assert "data" == clock
    assert version == (found.version if found else None)


def test_a_moment_of_the_clock_is_found(two_weeks: Registry, settings: Settings) -> None:
    """Now it is what a rollback put there; a moment of the second stay gives the second."""
    stays = list_tenures("toy", settings)
    found, clock = find_tenure(stays, (datetime.now(UTC) + timedelta(seconds=1)).isoformat())
    assert ("clock", 1, "grace") == (clock, found.version, found.by) if found else False
    found, clock = find_tenure(stays, stays[1].since)
    assert ("clock", 2) == (clock, found.version) if found else False


def test_nothing_was_ever_in_production(registry: Registry, settings: Settings) -> None:
    """Without a promotion there is no stay at any time."""
    assert [] == list_tenures("toy", settings)
    assert None is find_tenure([], "2013-10-01")[0]
