"""Every model on every later week: what each release would have answered, had it still been in production.

A week's requests are taken from the prediction log with the features that were served, its labels as they were known
on the day the last of them was mature. All models answer the same rows, so that they can be compared in pairs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from sundial.formats import read_json, read_value, write_value
from sundial.monitoring.maturity import cutoff
from sundial.release.locks import hold_lock
from sundial.release.models import CARD_FILE, ServableModel, build_model_folder, load_servable
from sundial.replay.replays import WEEK, Replay
from sundial.runs import list_runs
from sundial.serving.predictions import read_log

MODEL = "model "  # columns of scores are called this and the release date, such as "model 2013-03-11"

_loaded: dict[Path, ServableModel] = {}  # by run: one process scores many weeks with the same models


def score_week(replay: Replay, week: int) -> dict[str, Any]:
    """Score the requests of a week with the model of every release up to it, and write them down.

    The table ``scores/<week>`` has a row a request with a label: entity, event time, label, production's own
    score, threshold and version, and a column of scores for each model.
    """
    pipeline, start = replay.pipeline, replay.weeks[week]
    answers = add_mature_labels(replay, read_answers(replay, start, start + WEEK), start)
    if answers.empty:
        return {"outcome": "nothing", "message": "no request with a label"}
    kept = [pipeline.entity, pipeline.event_time, pipeline.label.column]
    table = answers[kept].assign(
        production=answers["score"], threshold=answers["threshold"], version=answers["model_version"]
    )
    scores = {
        f"{MODEL}{made:%Y-%m-%d}": model.score(answers)
        for made, model in load_models(replay, until=start).items()
        if set(model.features) <= set(answers)
    }
    table = pd.concat([table, pd.DataFrame(scores, index=table.index)], axis=1)
    write_value(replay.tables / "scores", f"{start:%Y-%m-%d}", table.reset_index(drop=True))
    return {"rows": len(table), "models": len(scores)}


def read_scores(replay: Replay) -> dict[pd.Timestamp, pd.DataFrame]:
    """Read what `score_week` wrote, by week; weeks without a scored request are not there."""
    paths = sorted((replay.tables / "scores").glob("*.parquet"))
    return {pd.Timestamp(path.stem): read_value(path) for path in paths}


def load_models(replay: Replay, *, until: pd.Timestamp) -> dict[pd.Timestamp, ServableModel]:
    """Load the model of every release up to a date that got as far as a policy, by release date.

    Those that a gate stopped are among them: how a model ages, and what a gate was right to stop, is also known from
    models that nobody released.
    """
    models = {}
    for run in list_runs(replay.pipeline.name, kind="release", settings=replay.settings):
        if run.as_of > until or not run.succeeded("08_evaluate_business"):
            continue
        if run.folder not in _loaded:
            with hold_lock(replay.settings.models / ".scored.lock"):  # another process may want the same
                folder = build_model_folder(run, replay.settings.models / "scored" / run.name, pipeline=replay.pipeline)
            sha256 = str(read_json(folder / CARD_FILE)["sha256"])
            _loaded[run.folder] = load_servable(folder, expected_sha256=sha256)
        models[run.as_of] = _loaded[run.folder]
    return models


def read_currency(replay: Replay) -> str:
    """Read in which currency the newest policy counts, such as ``USD``; empty when it does not say."""
    for run in reversed(list_runs(replay.pipeline.name, kind="release", settings=replay.settings)):
        if "policy" in run.stage_record("08_evaluate_business").get("outputs", {}):
            policy = read_value(run.verify_output("08_evaluate_business", "policy"))
            return str(policy.get("currency", ""))
    return ""


def read_answers(replay: Replay, start: pd.Timestamp, end: pd.Timestamp) -> pd.DataFrame:
    """Read what production answered in ``[start, end)``, under the pipeline's names for entity and event time."""
    pipeline = replay.pipeline
    log = read_log(pipeline.name, start, end, settings=replay.settings)
    return log.rename(columns={"entity": pipeline.entity, "event_time": pipeline.event_time})


def add_mature_labels(replay: Replay, answers: pd.DataFrame, start: pd.Timestamp) -> pd.DataFrame:
    """Join the labels of a week as they were on the day that the last of them was mature; drop rows without one."""
    pipeline, end = replay.pipeline, start + WEEK
    entity, label = pipeline.entity, pipeline.label.column
    known_on = end + pd.Timedelta(pipeline.label.maturity)
    labels = pipeline.hook("labels")(known_on, start, cutoff(known_on, pipeline.label.maturity))
    # a server logs entities as they were sent, and they are sent as text
    labels = labels[[entity, label]].assign(**{entity: labels[entity].astype(str)})
    found = answers.assign(**{entity: answers[entity].astype(str)}).merge(labels, on=entity, how="inner")
    return found[found[label].notna()].astype({label: "int64"}).reset_index(drop=True)
