"""An experiment beside the release it was made from: both models' scores for the same rows, paired.

Everything is read from what stages 05, 07 and 08 of both runs saved: the rows and their sets, the scores, the policy.
So any pipeline's experiments can be compared, whatever its notebooks record.

How it is judged: differences are paired, whole days are resampled (see ``evaluation.intervals``), seed 0. A set is
called hurt when the whole interval of its money or of its ROC AUC lies below zero. So many sets are looked at that some
would seem hurt by chance: their intervals are therefore at 1 - 0.05 / n for n looks (Bonferroni; Dunn 1961, Journal of
the American Statistical Association 56:52-64), so that with no true harm anywhere at most 5 % of experiments name one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from sundial.evaluation.comparison import compare_metrics, days
from sundial.evaluation.intervals import Estimate, paired_bootstrap
from sundial.evaluation.metrics import value_at
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
SMALL_SET = 200
LEVEL = 0.05
LOOKS = ("value", "roc_auc")


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
        rows), ``sets`` (name to rows, verdict and differences), ``hurt`` (names), ``looks`` and ``confidence`` of the
        sets, ``thresholds``, and ``seconds`` (of the
        release).
    """
    joined, left_out = _join(run, base, pipeline)
    value = pipeline.hook("value")
    label, event_time = pipeline.label.column, pipeline.event_time
    members = _read(run, *MEMBERS)
    groups = {
        str(name): joined[joined[pipeline.entity].isin(rows)]
        for name, rows in members.groupby("set", sort=False)[pipeline.entity]
    }
    judged = {name: rows for name, rows in groups.items() if SMALL_SET <= len(rows) < len(joined)}
    looks = len(judged) * len(LOOKS)
    confidence = 1 - LEVEL / max(looks, 1)
    sets = {
        name: {
            "rows": len(rows),
            "verdict": "too small to judge" if len(rows) < SMALL_SET else "all rows",
            **(_judge(rows, label, event_time, value, confidence) if name in judged else {}),
        }
        for name, rows in groups.items()
    }
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
        "hurt": [name for name, item in sets.items() if item["verdict"] == "hurt"],
        "looks": looks,
        "confidence": confidence,
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
    times = _read(run, *ROWS)[[entity, pipeline.event_time]]
    ours, theirs = _read(run, *SCORES), _read(base, *SCORES)
    joined = (
        times.merge(ours[[entity, label, "candidate"]], on=entity)
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


def _judge(rows: pd.DataFrame, label: str, event_time: str, value: Any, confidence: float) -> dict[str, Any]:
    """Judge one set: hurt, better, or neither."""
    outcome = rows[label].to_numpy(dtype="float64")
    how: dict[str, Any] = {"clusters": days(rows[event_time]), "confidence": confidence}
    differences: dict[str, Estimate] = {}
    for name in LOOKS:
        kind = "decision" if name == "value" else "score"
        after, before = (np.asarray(rows[f"{who}_{kind}"], dtype="float64") for who in ("shadow", "production"))
        measure = value_at(value) if name == "value" else name
        differences[name] = paired_bootstrap(outcome, after, before, measure, **how)
    known = [item for item in differences.values() if math.isfinite(item["low"])]
    verdict = "no clear difference" if known else "undefined"
    if any(item["low"] > 0 for item in known):
        verdict = "better"
    if any(item["high"] < 0 for item in known):
        verdict = "hurt"
    return {"verdict": verdict, **differences}


def _describe_base(base: Run, settings: Settings) -> str:
    """Say what a release is to production."""
    production = Registry(settings).alias(base.pipeline, "production")
    if production is not None and production.run == base.name:
        return f"production, version {production.version}"
    return f"the {base.kind} of {base.as_of:%Y-%m-%d}, which is not in production"
