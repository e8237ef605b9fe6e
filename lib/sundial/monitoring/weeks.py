"""The ledger of weeks: when the labels of each week in production are mature, and whether somebody looked.

A promotion starts two clocks. One runs in the time of the data: from when the version answers, for as long as the
pipeline watches, and until the last of these labels is surely known. The other is the wall clock, on which the second
human check opens itself after the same time, and is overdue when the day on which it opened is over.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pandas as pd

from sundial.formats import read_json
from sundial.pipeline import Pipeline
from sundial.release.approval import decisions
from sundial.runs import list_runs
from sundial.settings import Settings

State = Literal["maturing", "open", "overdue", "answered"]
A_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Week:
    """A week of one version in production, and its review.

    Attributes
    ----------
    run : str
        The release that made the version.
    version : int
        In production.
    since, until : str
        Event times that the monitoring looks at, ISO 8601.
    labels_mature : str
        When the last of these labels is surely known, in the time of the data.
    opens : str
        When the review opens itself, on the wall clock, UTC.
    due : str
        When it is overdue.
    state : str
        ``maturing``, ``open``, ``overdue`` or ``answered``.
    answer : str
        Decision and name, once somebody answered.
    """

    run: str
    version: int
    since: str
    until: str
    labels_mature: str
    opens: str
    due: str
    state: State
    answer: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, for JSON."""
        return asdict(self)


def list_weeks(pipeline: Pipeline, settings: Settings, *, now: datetime | None = None) -> list[Week]:
    """List the weeks of every version that was promoted, oldest first.

    Parameters
    ----------
    pipeline : Pipeline
        For how long it watches, and how old a label must be.
    settings : Settings
        Where the runs are.
    now : datetime, optional
        With a time zone; the present by default.

    Returns
    -------
    list of Week
    """
    now = now or datetime.now(UTC)
    watch, maturity = pipeline.schedule.watch, pipeline.label.maturity
    weeks = []
    for run in list_runs(pipeline.name, kind="release", settings=settings):
        if not run.succeeded("11_promote_model"):
            continue
        path = run.stage_folder("11_promote_model") / "outputs" / "promotion.json"
        promotion = read_json(path) if path.is_file() else {}
        if not promotion.get("promoted_at"):
            continue  # its outputs were cleared away, or it was in production already and nothing moved
        since = pd.Timestamp(promotion["production_from"])
        opens = datetime.fromisoformat(promotion["promoted_at"]) + watch + maturity
        # the flow opens it at a time of day; it is due by the end of a whole day
        due = opens + A_DAY
        answers = [item for item in decisions(run) if item.kind == "review"]
        # somebody may have had it opened earlier
        opened = now >= opens or run.succeeded("12_monitor_production")
        state: State = "answered" if answers else "overdue" if now >= due else "open" if opened else "maturing"
        weeks.append(
            Week(
                run=run.name,
                version=promotion["version"],
                since=since.isoformat(),
                until=(since + watch).isoformat(),
                labels_mature=(since + watch + maturity).isoformat(),
                opens=opens.isoformat(timespec="seconds"),
                due=due.isoformat(timespec="seconds"),
                state=state,
                answer=f"{answers[-1].decision}, {answers[-1].name}" if answers else "",
            )
        )
    return sorted(weeks, key=lambda week: week.opens)
