"""An experiment beside the release it was made from: both models' scores for the same rows, paired.

Everything is read from what stages 05, 07 and 08 of both runs saved: the rows and their sets, the scores, the policy.
So any pipeline's experiments can be compared, whatever its notebooks record.

How it is judged: differences are paired, whole days are resampled (see ``evaluation.intervals``), seed 0. Who is hurt
is asked as the gates ask it (see ``evaluation.guardrail``): a group of a segment in pipeline.yaml is hurt when its
money is shown to be less, corrected for all groups, so that with no true harm at most 5 % of experiments name one.
Evaluation sets overlap and are not the gates' business; they are judged in the same way, as a family of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from sundial.declarations import SegmentSpec
from sundial.evaluation.comparison import compare_metrics, days
from sundial.evaluation.guardrail import BETTER, SMALL_ONES, TOO_SMALL, WORSE, Comparison, compare_groups
from sundial.evaluation.intervals import Estimate, paired_bootstrap
from sundial.evaluation.metrics import Value
from sundial.evaluation.segments import count_cells
from sundial.formats import read_value
from sundial.pipeline import Pipeline
from sundial.release.registry import Registry
from sundial.runs import Run
from sundial.scraps import to_plain
from sundial.settings import Settings

# By the lifecycle's own contract: stage 09 reads them of every pipeline.
ROWS = ("05_build_evaluation_sets", "evaluation_set")
MEMBERS = ("05_build_evaluation_sets", "evaluation_members")
SCORES = ("07_evaluate_model", "scores")
POLICY = ("08_evaluate_business", "policy")
SET = "evaluation set"
VERDICTS = {WORSE: "hurt", BETTER: "better"}
#: Groups to show where none is hurt and none better.
FEW = 5


def compare_runs(run: Run, base: Run, pipeline: Pipeline, settings: Settings) -> dict[str, Any]:
    """Compare an experiment with a release.

    Parameters
    ----------
    run, base : Run
        The experiment, and the release.
    pipeline : Pipeline
        Names of the columns, and the hook that prices decisions.
    settings : Settings
        Says whether the release is production's.

    Returns
    -------
    dict
        Plain values: ``against`` (what the release is to production), ``rows``, ``left_out`` (rows that only one of the
        two has), ``metrics`` and ``last`` (all rows, and the first set: metric to estimates of ``production``,
        ``experiment`` and their ``difference``, positive where the experiment is better; ``value`` is money per 1,000
        rows), ``sets`` (name to rows, verdict and differences), ``segments`` (how many groups were judged, how, and the
        groups to look at), ``hurt`` (names of groups and sets), ``thresholds``, and ``seconds`` (of the release).
    """
    joined, left_out = _join(run, base, pipeline)
    value = pipeline.hook("value")
    label, event_time = pipeline.label.column, pipeline.event_time
    members = _read(run, *MEMBERS)
    groups = {
        str(name): joined[joined[pipeline.entity].isin(rows)]
        for name, rows in members.groupby("set", sort=False)[pipeline.entity]
    }
    given: dict[str, Any] = {"label": label, "event_time": event_time, "value": value}
    sets, segments = _judge_sets(groups, len(joined), given), judge_segments(joined, pipeline.segments, **given)
    hurt = [item["name"] for item in segments["groups"] if item["verdict"] == "hurt"]
    hurt += [f"the set {name}" for name, item in sets.items() if item["verdict"] == "hurt"]
    first = next(iter(groups.values()), joined)
    found = {
        "base": base.name,
        "against": _describe_base(base, settings),
        "rows": len(joined),
        "left_out": left_out,
        "metrics": _tabulate(compare_metrics(joined, label=label, value=value, event_time=event_time)),
        "first_set": next(iter(groups), ""),
        "last": _tabulate(compare_metrics(first, label=label, value=value, event_time=event_time)),
        "sets": sets,
        "segments": segments,
        "hurt": hurt,
        "thresholds": {"production": _threshold(base), "experiment": _threshold(run)},
        "seconds": round(sum(took(base.stage_record(stage)) for stage in pipeline.release_stages), 2),
    }
    return dict(to_plain(found))


def _read(run: Run, stage: str, output: str) -> Any:
    return read_value(run.verify_output(stage, output))


def _threshold(run: Run) -> float:
    return float(_read(run, *POLICY)["threshold"])


def took(record: Mapping[str, Any]) -> float:
    """Give the seconds that a stage took when it was run; of a reused one, those of the original."""
    return float((record.get("reused") or record).get("seconds") or 0)


def _join(run: Run, base: Run, pipeline: Pipeline) -> tuple[pd.DataFrame, int]:
    """Put both models' scores for the rows that both runs have into one table, as `compare_metrics` wants it."""
    entity, label = pipeline.entity, pipeline.label.column
    rows = _read(run, *ROWS)
    wanted = [pipeline.event_time, *(name for segment in pipeline.segments for name in segment.columns)]
    known = rows[[entity, *(name for name in dict.fromkeys(wanted) if name in rows and name not in (entity, label))]]
    ours, theirs = _read(run, *SCORES), _read(base, *SCORES)
    joined = (
        known.merge(ours[[entity, label, "candidate"]], on=entity)
        .rename(columns={"candidate": "shadow_score"})
        .merge(theirs[[entity, "candidate"]].rename(columns={"candidate": "production_score"}), on=entity)
    )
    joined["production_decision"] = joined["production_score"] >= _threshold(base)
    joined["shadow_decision"] = joined["shadow_score"] >= _threshold(run)
    return joined, len(set(ours[entity]) ^ set(theirs[entity]))


def _tabulate(compared: dict[str, dict[str, Estimate]]) -> dict[str, dict[str, Any]]:
    return {
        metric: {"production": item["production"], "experiment": item["shadow"], "difference": item["difference"]}
        for metric, item in compared.items()
    }


def _judge_sets(groups: Mapping[str, pd.DataFrame], everything: int, given: Mapping[str, Any]) -> dict[str, Any]:
    """Judge the sets that are not all there is: money as a gate would, ROC AUC with an interval of its own."""
    parts = {name: rows.assign(**{SET: name}) for name, rows in groups.items() if 0 < len(rows) < everything}
    compared = _compare(pd.concat(parts.values()), [SegmentSpec(name=SET, columns=(SET,))], given) if parts else None
    lines = {} if compared is None else {str(line["of"]): line for line in _list_lines(compared)}
    sets: dict[str, Any] = {}
    for name, rows in groups.items():
        sets[name] = {"rows": len(rows), "verdict": "all rows" if len(rows) == everything else TOO_SMALL}
        if compared is not None and name in parts:
            outcome, event_time = rows[given["label"]].to_numpy(dtype="float64"), rows[given["event_time"]]
            after, before = (rows[f"{who}_score"].to_numpy(dtype="float64") for who in ("shadow", "production"))
            line = lines[name]
            sets[name] |= {
                "verdict": VERDICTS.get(line["verdict"], line["verdict"]),
                "value": _estimate(line, compared),
                "roc_auc": paired_bootstrap(outcome, after, before, "roc_auc", clusters=days(event_time)),
            }
    return sets


def judge_segments(
    joined: pd.DataFrame, segments: Sequence[SegmentSpec], *, label: str, event_time: str, value: Value
) -> dict[str, Any]:
    """Judge every group of every segment whose columns the rows have, by money and as the gates do.

    Parameters
    ----------
    joined : DataFrame
        As :func:`sundial.evaluation.segments.count_cells` wants it.
    segments : sequence of SegmentSpec
        Of the pipeline.
    label, event_time : str
        Names of the columns.
    value : callable
        The pipeline's hook.

    Returns
    -------
    dict
        ``judged`` and ``too_small`` (groups), ``method``, and ``groups``: those that are hurt or better, else those
        whose interval lies lowest; each with ``name``, ``verdict`` and ``value`` (difference of money per 1,000 rows).
    """
    there = [segment for segment in segments if set(segment.columns) <= set(joined.columns)]
    if not there:
        return {"judged": 0, "too_small": 0, "method": "", "groups": []}
    compared = _compare(joined, there, {"label": label, "event_time": event_time, "value": value})
    lines = pd.DataFrame(_list_lines(compared))
    judged = lines[lines["p_value"].notna()]
    shown = judged[judged["verdict"].isin([*VERDICTS])].sort_values("high")
    shown = shown if len(shown) else judged.nsmallest(FEW, "high")
    return {
        "judged": len(judged),
        "too_small": int(((lines["verdict"] == TOO_SMALL) & (lines["of"] != SMALL_ONES)).sum()),
        "method": compared.method,
        "groups": [
            {
                "name": f"{line['segment']} {line['of']}",
                "verdict": VERDICTS.get(line["verdict"], line["verdict"]),
                "value": _estimate(line, compared),
            }
            for line in _to_records(shown)
        ],
    }


def _compare(rows: pd.DataFrame, segments: Sequence[SegmentSpec], given: Mapping[str, Any]) -> Comparison:
    cells = count_cells(rows, segments, label=given["label"], event_time=given["event_time"])
    return compare_groups(cells, given["value"])


def _list_lines(compared: Comparison) -> list[dict[str, Any]]:
    """List what was found about money, a dict a group."""
    return _to_records(compared.table.reset_index().query("figure == 'value'"))


def _to_records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in line.items()} for line in table.to_dict(orient="records")]


def _estimate(line: Mapping[str, Any], compared: Comparison) -> Estimate:
    return Estimate(
        estimate=line["difference"],
        low=line["low"],
        high=line["high"],
        confidence=compared.confidence["value"],
        rows=int(line["rows"]),
        method="simultaneous",
    )


def _describe_base(base: Run, settings: Settings) -> str:
    """Say what a release is to production."""
    production = Registry(settings).alias(base.pipeline, "production")
    if production is not None and production.run == base.name:
        return f"production, version {production.version}"
    return f"the {base.kind} of {base.as_of:%Y-%m-%d}, which is not in production"
