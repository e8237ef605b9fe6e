"""A bad release beside a real one: the same week, the same production, one planted fault.

What stops it? It is made in a sandbox of its own under the replay, with a registry in which production is what it was
that week. From the stage with the fault on, the real notebooks run, the real gates judge, and the week's real requests
are answered by production and by the bad candidate in shadow. Nothing is promoted, and nothing of the replay changes.
"""

from __future__ import annotations

import os
import shutil
from typing import Any

import numpy as np
import pandas as pd

from sundial.errors import DataError, KernelDiedError, StageFailedError
from sundial.evaluation.comparison import days
from sundial.evaluation.gates import judge_gates
from sundial.evaluation.intervals import Estimate, paired_bootstrap
from sundial.evaluation.metrics import value_at
from sundial.execution.runner import run_stage
from sundial.formats import hash_file, read_value, write_value
from sundial.pipeline import Pipeline
from sundial.release.models import CARD_FILE
from sundial.release.registry import Registry, VersionInfo
from sundial.replay.plantings import PLANTINGS
from sundial.replay.replays import WEEK, Replay, isolate
from sundial.replay.scoring import add_mature_labels, read_answers
from sundial.replay.traffic import serve_requests
from sundial.runs import Run, create_run, list_runs
from sundial.settings import Settings


def plant_release(replay: Replay, week: int, kind: str) -> dict[str, Any]:
    """Make a bad release of a week, and say what stopped it and what it would have done.

    Parameters
    ----------
    replay : Replay
        After the decision of the week after.
    week : int
        Number of the week.
    kind : str
        One of :data:`sundial.replay.plantings.PLANTINGS`.

    Returns
    -------
    dict
        ``verdicts`` (as in gates.json, of the release and the comparison), ``failed_stage``, and ``harm``: on the
        requests of the week after, the bad candidate against the model that was in production (estimates of the
        difference of ROC AUC and of money, negative where it is worse).
    """
    base = next(run for run in _releases(replay) if run.as_of == replay.weeks[week])
    in_production = Registry(replay.settings).production_at(replay.pipeline.name, replay.weeks[week], in_run_time=True)
    if in_production is None or not base.succeeded("08_evaluate_business"):
        return {"outcome": "nothing", "message": "no release to spoil, or no production to compare it with"}
    folder = replay.folder / "planted" / f"{replay.weeks[week]:%Y-%m-%d}-{kind.replace(' ', '-')}"
    shutil.rmtree(folder, ignore_errors=True)  # of an interrupted attempt
    sandbox = replay.settings.model_copy(update={"artifacts": folder})
    with isolate(sandbox):
        run = _spoil(replay, base, kind, sandbox)
        _copy_production(replay, in_production, sandbox)
        record = _release(replay, run, base, sandbox)
        if "failed_stage" not in record:
            registry = Registry(sandbox)
            candidate = registry.load(run.pipeline, int(run.stage_record("09_deploy_shadow")["scraps"]["version"]))
            record["harm"] = _measure_harm(replay, week, candidate, registry.load(run.pipeline, "production"))
    return {"run": run.name, "base": base.name, **record}


def _releases(replay: Replay) -> list[Run]:
    return list_runs(replay.pipeline.name, kind="release", settings=replay.settings)


def _spoil(replay: Replay, base: Run, kind: str, sandbox: Settings) -> Run:
    """Make a run on top of the real one, in which one output is spoilt."""
    sandbox.runs.mkdir(parents=True)
    for run in _releases(replay):  # the stages below read outputs of the real run, and examples of all reviews
        (sandbox.runs / run.name).symlink_to(os.path.relpath(run.folder, sandbox.runs))
    (sandbox.artifacts / "warehouse").symlink_to(os.path.relpath(replay.settings.warehouse, sandbox.artifacts))
    pipeline = replay.pipeline
    features = list(read_value(base.verify_output("06_train_model", "model_card"))["features"])
    stage, output = find_planting_place(pipeline, base, features)
    frame = read_value(base.verify_output(stage, output))
    segment = pipeline.segments[0].columns[0] if pipeline.segments else features[0]
    spoilt = PLANTINGS[kind](frame, pipeline.label.column, features, segment)
    run = create_run(
        pipeline.name, base.as_of, kind="release", base=base.name, started_by=f"planted: {kind}", settings=sandbox
    )
    path = write_value(run.stage_folder(stage) / "outputs", output, spoilt)
    real = base.stage_record(stage)
    run.restart_stage(stage, status="succeeded", scraps=real.get("scraps", {}), as_of=real["as_of"])
    entry = {"path": os.path.relpath(path, run.folder), "sha256": hash_file(path), "rows": len(spoilt)}
    run.update_stage(stage, outputs={output: entry})
    return run


def find_planting_place(pipeline: Pipeline, run: Run, features: list[str]) -> tuple[str, str]:
    """Find the first table that holds the label and all features of the model, as ``stage``, ``output``.

    Raises
    ------
    DataError
        When there is none.
    """
    import pyarrow.parquet

    wanted = {pipeline.label.column, *features}
    for stage in pipeline.release_stages:
        for output in pipeline.stage(stage).outputs:
            path = run.stage_folder(stage) / "outputs" / f"{output}.parquet"
            if path.exists() and wanted <= set(pyarrow.parquet.read_schema(path).names):
                return stage, output
    raise DataError(f"no output of {run.name} holds label and features together", hint="nothing can be planted in it")


def _copy_production(replay: Replay, info: VersionInfo, sandbox: Settings) -> None:
    """Give the sandbox a registry of its own, in which the production of that week is production."""
    servable = replay.settings.runs / info.run / "09_deploy_shadow" / "servable"
    folders = [path.parent for path in servable.glob(f"*/{CARD_FILE}") if hash_file(path) == info.card_sha256]
    registry = Registry(sandbox)
    own = registry.register(info.pipeline, folders[0], {"copied_from": info.version})
    registry.set_alias(info.pipeline, "production", own, by="planted", reason="production of that week")


def _release(replay: Replay, run: Run, base: Run, sandbox: Settings) -> dict[str, Any]:
    """Run what is below the fault, judge, serve the week's requests, compare, judge again."""
    pipeline = replay.pipeline
    begun = next(iter(run.stages()))
    below = pipeline.release_stages[pipeline.release_stages.index(begun) + 1 :]
    start = base.as_of
    until = start + pd.Timedelta(pipeline.schedule.soak)

    def scraps() -> dict[str, Any]:
        return {**base.scraps(), **run.scraps()}

    def verdicts(step: str) -> list[dict[str, Any]]:
        return [item.as_dict() for item in judge_gates(getattr(pipeline.gates, step), scraps())]

    record: dict[str, Any] = {"verdicts": {}}
    try:
        for stage in below:
            run_stage(run, stage, settings=sandbox)
        record["verdicts"]["release"] = verdicts("release")
        # also when a gate has failed: the back-test asks what each would have done alone
        run_stage(run, "09_deploy_shadow", settings=sandbox)
        serve_requests(pipeline, start, until, sandbox)
        run_stage(run, "10_compare_shadow", as_of=until, settings=sandbox)
        record["verdicts"]["comparison"] = verdicts("comparison")
    except KernelDiedError:
        raise
    except StageFailedError as error:
        record |= {"failed_stage": error.stage, "message": error.message.partition("\n")[0]}
    return record


def _measure_harm(replay: Replay, week: int, candidate: Any, production: Any) -> dict[str, Estimate]:
    """Score both on the requests of the week after, and estimate the difference."""
    start = replay.weeks[week] + WEEK
    rows = add_mature_labels(replay, read_answers(replay, start, start + WEEK), start)
    label = rows[replay.pipeline.label.column]
    by_day = days(rows[replay.pipeline.event_time])
    ours, theirs = candidate.score(rows), production.score(rows)
    money = value_at(replay.pipeline.hook("value"))
    our_alerts, their_alerts = np.asarray(candidate.decide(ours)), np.asarray(production.decide(theirs))
    return {
        "roc_auc": paired_bootstrap(label, ours, theirs, "roc_auc", clusters=by_day),
        "value": paired_bootstrap(label, our_alerts, their_alerts, money, clusters=by_day),
    }
