"""The four figures of software delivery, for releases of a model.

Deployment frequency, lead time for changes, change failure rate and time to restore service, as DORA counts them
(Forsgren, Humble and Kim 2018, Accelerate, ch. 2, pp. 14-17; the fourth is called failed deployment recovery time since
DORA's report of 2023). What they mean here:

release frequency
    Promotions a week, from the first release date to the last.
lead time
    From the release date, up to which a candidate has seen the world, to its promotion, in the time of the data; the
    median. A change is a week of new data: nothing newer is in a model than that.
share of failed releases
    Of the promotions that were reviewed, those whose monitoring gates failed or that a person did not keep. A release
    that a gate stopped has not failed in this sense: it never was in production. Those are counted beside it.
time to restore
    From the promotion of a failed release to the next promotion; the median. One that nothing has replaced yet is left
    out, and counted.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from sundial.execution.board import read_board, read_file, show_board
from sundial.pipeline import Pipeline
from sundial.runs import Run, list_runs
from sundial.settings import Settings

WEEK = pd.Timedelta(days=7)
DAY = pd.Timedelta(days=1)


class Delivery(NamedTuple):
    """How a pipeline delivers.

    Attributes
    ----------
    weeks : int
        From the first release date to the last, both counted.
    started, promoted, stopped : int
        Release dates for which a release was started; promotions; dates whose release a stage, a gate or a person
        ended.
    per_week : float
        Promotions a week.
    lead_days : float
        Median.
    reviewed, failed : int
        Promotions that were reviewed, and those of them that failed.
    restore_days : float
        Median; NaN when none failed, or none was replaced.
    unrestored : int
        Failed, and not replaced yet.
    longest_gap_days : float
        The longest time between two promotions.
    """

    weeks: int
    started: int
    promoted: int
    stopped: int
    per_week: float
    lead_days: float
    reviewed: int
    failed: int
    restore_days: float
    unrestored: int
    longest_gap_days: float

    @property
    def failed_share(self) -> float:
        """Share of the reviewed promotions that failed; NaN when none was reviewed."""
        return self.failed / self.reviewed if self.reviewed else float("nan")

    def as_facts(self) -> dict[str, str]:
        """Say the figures as a person reads them."""
        share = f"{self.failed} of {self.reviewed} ({self.failed_share:.0%})" if self.reviewed else "none reviewed"
        waiting = f", {self.unrestored} not yet" if self.unrestored else ""
        return {
            "Release frequency": f"{self.per_week:.2f} a week",
            "Lead time": _days(self.lead_days),
            "Failed releases": share,
            "Time to restore": ("none failed" if not self.failed else _days(self.restore_days)) + waiting,
            "Stopped before production": f"{self.stopped} of {self.started}",
            "Longest gap": _days(self.longest_gap_days),
        }


def measure_delivery(pipeline: str, settings: Settings) -> Delivery | None:
    """Count how a pipeline has delivered so far.

    Parameters
    ----------
    pipeline : str
        Its name.
    settings : Settings
        Where the runs are.

    Returns
    -------
    Delivery or None
        None when no release was ever started.
    """
    runs = list_runs(pipeline, kind="release", settings=settings)
    if not runs:
        return None
    last_of = {run.as_of: run for run in runs}
    promotions = sorted(
        (pd.Timestamp(run.stage_record("11_promote_model").get("as_of", run.as_of)), run.as_of, _review_of(run))
        for run in runs
        if run.succeeded("11_promote_model")
    )
    moments = [promoted for promoted, *_ in promotions]
    reviewed = [(index, found) for index, (*_, found) in enumerate(promotions) if found]
    failed = [index for index, found in reviewed if found == "failed"]
    restored = [(moments[index + 1] - moments[index]) / DAY for index in failed if index + 1 < len(moments)]
    weeks = (max(last_of) - min(last_of)) // WEEK + 1
    return Delivery(
        weeks=int(weeks),
        started=len(last_of),
        promoted=len(promotions),
        stopped=sum(_was_stopped(run) for run in last_of.values()),
        per_week=len(promotions) / int(weeks),
        lead_days=_median([(promoted - made) / DAY for promoted, made, _ in promotions]),
        reviewed=len(reviewed),
        failed=len(failed),
        restore_days=_median(restored),
        unrestored=len(failed) - len(restored),
        longest_gap_days=max((float((b - a) / DAY) for a, b in pairwise(moments)), default=np.nan),
    )


def describe_weeks(
    pipeline: Pipeline, settings: Settings, *, weeks: int = 13, until: pd.Timestamp | None = None
) -> dict[str, Any]:
    """Describe the last weeks of a pipeline for the report index and for JSON.

    Parameters
    ----------
    pipeline, settings, weeks, until
        As in :func:`sundial.execution.board.read_board`; links are from the folder of reports.

    Returns
    -------
    dict
        ``rows`` and ``weeks`` of the board, and ``facts``: how the pipeline delivers.
    """
    board = read_board(pipeline, settings, start=settings.reports, weeks=weeks, until=until)
    delivery = measure_delivery(pipeline.name, settings)
    return {"facts": delivery.as_facts() if delivery else {}, **show_board(board)}


def _review_of(run: Run) -> str:
    """Say ``kept`` or ``failed`` of a promoted release; empty when it was not reviewed yet."""
    gates = read_file(run, "gates.json", {}).get("monitoring", {}).get("results", ())
    answers = [item["decision"] for item in read_file(run, "decisions.json", []) if item["kind"] == "review"]
    if any(item["status"] == "failed" for item in gates) or any(answer != "keep" for answer in answers):
        return "failed"
    return "kept" if answers else ""


def _was_stopped(run: Run) -> bool:
    """Tell whether a release ended before production."""
    if run.succeeded("11_promote_model"):
        return False
    verdicts = read_file(run, "gates.json", {})
    failed_gate = any(item["status"] == "failed" for step in verdicts.values() for item in step["results"])
    rejected = any(item["decision"] == "reject" for item in read_file(run, "decisions.json", []))
    return failed_gate or rejected or any(record.get("status") == "failed" for record in run.stages().values())


def _median(values: list[Any]) -> float:
    return float(np.median(values)) if values else float("nan")


def _days(days: float) -> str:
    return "–" if np.isnan(days) else f"{days:g} day{'s' * (days != 1)}"
