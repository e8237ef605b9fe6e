"""The releases of a replay as cases for the back-test of the gates: what was recorded, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from sundial.evaluation.backtest import Case
from sundial.evaluation.comparison import days
from sundial.evaluation.intervals import Estimate, paired_bootstrap
from sundial.pipeline import Gate, Pipeline
from sundial.release.registry import Registry
from sundial.replay.replays import WEEK, Replay, read_records
from sundial.replay.scoring import MODEL
from sundial.runs import Run, list_runs

PLANTED = "planted "


def collect_cases(replay: Replay, scores: Mapping[pd.Timestamp, pd.DataFrame]) -> list[Case]:
    """Collect real and planted releases, oldest first.

    Parameters
    ----------
    replay : Replay
        Which.
    scores : mapping of Timestamp to DataFrame
        From :func:`sundial.replay.scoring.read_scores`.

    Returns
    -------
    list of Case
        Of real ones, how they compared with the production of their week on the requests of the week after; a release
        without a production to compare with is left out.
    """
    registry = Registry(replay.settings)
    moves = {}
    for week in replay.weeks:
        info = registry.production_at(replay.pipeline.name, week, in_run_time=True)
        moves[week] = pd.Timestamp(info.as_of) if info else None
    cases = []
    for run in list_runs(replay.pipeline.name, kind="release", settings=replay.settings):
        before = moves.get(run.as_of)
        # the first release is in production from its own date on
        if before is None or before == run.as_of:
            continue
        stages = run.stages().items()
        failed = next((stage for stage, record in stages if record.get("status") == "failed"), "")
        later = compare_later(replay.pipeline, scores.get(run.as_of + WEEK), run.as_of, before)
        cases.append(Case(f"{run.as_of:%Y-%m-%d}", run.scraps(), failed_stage=failed, later=later))
    return cases + collect_planted(replay)


def collect_planted(replay: Replay) -> list[Case]:
    """Collect the planted releases, by week."""
    cases = []
    for (week, kind), record in sorted(read_records(replay).items()):
        if not kind.startswith(PLANTED) or record["outcome"] != "done":
            continue
        folder = (
            replay.folder / "planted" / f"{replay.weeks[week]:%Y-%m-%d}-{kind.removeprefix(PLANTED).replace(' ', '-')}"
        )
        run = Run(folder / "runs" / record["run"])
        base = Run(replay.settings.runs / record["base"]).scraps()
        own = run.scraps()
        # stages above the fault are the real run's; those below that did not run have recorded nothing
        above = {stage: found for stage, found in base.items() if stage < min(own)}
        cases.append(
            Case(
                f"{replay.weeks[week]:%Y-%m-%d}",
                {**above, **own},
                planted=kind.removeprefix(PLANTED),
                failed_stage=record.get("failed_stage", ""),
                later=record.get("harm", {}).get("roc_auc"),
            )
        )
    return cases


def compare_later(
    pipeline: Pipeline, table: pd.DataFrame | None, candidate: pd.Timestamp, production: pd.Timestamp
) -> Estimate | None:
    """Compare two models on the rows of a week that came after both; None when one has no scores there."""
    columns = [f"{MODEL}{made:%Y-%m-%d}" for made in (candidate, production)]
    if table is None or not set(columns) <= set(table):
        return None
    ours, theirs = (table[column] for column in columns)
    by_day = days(table[pipeline.event_time])
    return paired_bootstrap(table[pipeline.label.column], ours, theirs, "roc_auc", clusters=by_day)


def find_scraps(gates: tuple[Gate, ...]) -> tuple[str, str]:
    """Find what plain point gates would read: the candidate's own figure, and its difference from production.

    The first declared gate with a lower bound on a metric, and the first with an allowed drop; empty where there is
    none.
    """
    absolute = next((gate.scrap for gate in gates if gate.at_least is not None and ".metrics." in f".{gate.scrap}"), "")
    change = next((gate.scrap for gate in gates if gate.allowed_drop is not None), "")
    return absolute, change
