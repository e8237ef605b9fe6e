"""Which steps a replay has, what each waits for, and which comes first when several could.

A week is six steps, and what one waits for is what its notebooks read:

data        the stages that read neither reviews nor production: weeks are independent of each other
training    from the stage that reads the examples of reviews on: waits for every review dated on its Monday or earlier
judgement   from the stage that reads production on, the gates, the shadow: waits for the decision of the week before
traffic     the week's requests, answered by production and then by the shadow
decision    shadow beside production, the gates, the policy's answer, the promotion; then what is left of the week
review      production on mature labels: waits for the traffic of the weeks that it watches

So judgement, traffic and decision of all weeks are one chain: production at that week is decided by the week before.
Everything else runs beside it. ``scores`` (every model so far on the week's requests) and ``planted`` (bad releases,
for the back-test of the gates) are measurements: nothing waits for them.

Which stages read production or reviews, pipeline.yaml does not say; the code cells do. A word too many in them costs
parallelism and never a result, and a later stage is never put before an earlier one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import pandas as pd

from sundial.execution.parameters import read_notebook
from sundial.pipeline import Pipeline
from sundial.replay.plantings import PLANTINGS, choose_weeks
from sundial.replay.replays import WEEK, Replay

Records = Mapping[tuple[int, str], Mapping[str, Any]]

CHAIN = ("judgement", "traffic", "decision")
READS_REVIEWS = re.compile(r"feedback|hard_examples", re.IGNORECASE)
READS_PRODUCTION = re.compile(r"production|registry|shadow|alias|read_log|mlflow", re.IGNORECASE)


class Step(NamedTuple):
    """One step of one week.

    Attributes
    ----------
    week : int
        Number of the week in the replay, from 0.
    kind : str
        Such as ``training``, or ``planted labels shifted``.
    """

    week: int
    kind: str


def group_stages(pipeline: Pipeline) -> dict[str, tuple[str, ...]]:
    """Divide the stages that make a candidate by what they read, in their order.

    Parameters
    ----------
    pipeline : Pipeline
        Whose notebooks.

    Returns
    -------
    dict of str to tuple of str
        Names of stages of ``data``, ``training`` and ``judgement``.
    """
    groups: dict[str, list[str]] = {"data": [], "training": [], "judgement": []}
    reached = "data"
    for stage in pipeline.release_stages:
        cells = read_notebook(pipeline.notebook(stage)).cells
        code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
        if READS_PRODUCTION.search(code):
            reached = "judgement"
        elif READS_REVIEWS.search(code) and reached == "data":
            reached = "training"
        groups[reached].append(stage)
    return {name: tuple(stages) for name, stages in groups.items()}


def list_steps(replay: Replay) -> list[Step]:
    """List all steps of a replay, in the order in which one process would do them."""
    planted = choose_weeks(len(replay.weeks), replay.plant)
    steps = []
    for week in range(len(replay.weeks)):
        steps += [Step(week, kind) for kind in ("data", "training", *CHAIN)]
        steps += [Step(week, "review"), Step(week, "scores")]
        steps += [Step(week, f"planted {kind}") for kind in PLANTINGS if week in planted]
    return steps


def find_ready(replay: Replay, records: Records, running: Collection[Step]) -> list[Step]:
    """List the steps that nothing holds up any more, the most urgent first.

    Parameters
    ----------
    replay : Replay
        Of which.
    records : mapping
        What was done, by week and kind.
    running : collection of Step
        What is being done.

    Returns
    -------
    list of Step
    """
    open_steps = [step for step in list_steps(replay) if step not in records and step not in running]
    return sorted((step for step in open_steps if _may_start(replay, step, records)), key=_urgency)


def _urgency(step: Step) -> tuple[int, float]:
    """Order steps: the chain before all, then what the chain will need first, measurements last."""
    if step.kind in CHAIN:
        return 0, step.week
    if step.kind in ("data", "training"):
        return 1, step.week
    if step.kind == "review":  # a week's training reads the reviews of two or three weeks before it
        return 1, step.week + 1.5
    return 2, step.week


def _may_start(replay: Replay, step: Step, records: Records) -> bool:
    week, kind = step
    if kind == "data":
        return True
    if kind == "training":
        return (week, "data") in records and _reviews_are_in(replay, week, records)
    if kind == "judgement":
        return (week, "training") in records and (week == 0 or (week - 1, "decision") in records)
    if kind in ("traffic", "decision"):
        return (week, "judgement" if kind == "traffic" else "traffic") in records
    if kind == "review":
        if not records.get((week, "decision"), {}).get("promoted"):
            return (week, "decision") in records
        # a soak shorter than a week leaves requests for the decision's step to send
        served = "traffic" if replay.pipeline.schedule.soak == WEEK else "decision"
        return all((other, served) in records for other in range(week, _last_watched(replay, week, records) + 1))
    if kind == "scores":
        return (week, "decision") in records
    return (week + 1, "decision") in records  # planted: judged on the requests of the week after, too


def find_promotion(replay: Replay, week: int, records: Records) -> pd.Timestamp | None:
    """Give the date at which a week's candidate goes into production, if it does; None when that is not known yet.

    The first release has nothing to be compared with, and is promoted on its own Monday; which one is the first is
    known once it was judged.
    """
    first = next((other for other in range(len(replay.weeks)) if _is_first(records, other)), None)
    if first is None and any((other, "judgement") not in records for other in range(week + 1)):
        return None
    return replay.weeks[week] + (pd.Timedelta(0) if first == week else pd.Timedelta(replay.pipeline.schedule.soak))


def _is_first(records: Records, week: int) -> bool:
    return bool(records.get((week, "judgement"), {}).get("first"))


def _reviews_are_in(replay: Replay, week: int, records: Records) -> bool:
    """Tell whether every review dated on this Monday or earlier has been written."""
    pipeline = replay.pipeline
    delay = pd.Timedelta(pipeline.schedule.watch) + pd.Timedelta(pipeline.label.maturity)
    for earlier in range(week):
        earliest = replay.weeks[earlier] + delay
        if earliest > replay.weeks[week]:
            break  # not even a first release's
        promoted = find_promotion(replay, earlier, records)
        if promoted is None:
            return False
        if promoted + delay <= replay.weeks[week] and (earlier, "review") not in records:
            return False
    return True


def _last_watched(replay: Replay, week: int, records: Records) -> int:
    """Give the number of the last week whose requests a review of this week's release watches."""
    promoted = find_promotion(replay, week, records) or replay.weeks[week]
    until = promoted + pd.Timedelta(replay.pipeline.schedule.watch)
    last = -(-(until - replay.weeks[0]) // WEEK) - 1
    return min(int(last), len(replay.weeks) - 1)
