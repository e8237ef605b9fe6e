"""The handle that a stage notebook holds: load what earlier stages made, save what this one makes, record scraps."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from sundial import reads
from sundial import scraps as _scraps
from sundial.errors import ArtifactNotFoundError, PipelineError, ScrapError, nearest
from sundial.formats import hash_file, read_value, write_value
from sundial.pipeline import Pipeline, StageSpec, load_pipeline
from sundial.runs import Run, create_run, latest_run, list_runs, now, open_run
from sundial.scraps import from_plain, to_plain
from sundial.settings import Settings, load_settings
from sundial.soundness import check_input, check_output, newest_event

REVIEW, EXAMPLES = "13_review_production", "hard_examples"


@dataclass(frozen=True)
class Stage:
    """One stage of one run, as its notebook sees it.

    Attributes
    ----------
    name : str
        Such as ``06_train_model``.
    pipeline : Pipeline
        What pipeline.yaml declares.
    as_of : Timestamp
        The date that this stage pretends it is.
    run : Run
        Where it reads and writes.
    settings : Settings
        Where things are.
    """

    name: str
    pipeline: Pipeline
    as_of: pd.Timestamp
    run: Run
    settings: Settings

    @property
    def spec(self) -> StageSpec:
        """What pipeline.yaml declares of this stage."""
        return self.pipeline.stage(self.name)

    @property
    def folder(self) -> Path:
        """Folder of the stage in its run."""
        return self.run.stage_folder(self.name)

    @property
    def is_release(self) -> bool:
        """Whether this is a release; nothing else may touch an alias."""
        reads.observe("sundial.stage:kind_of_run")
        with reads.covered():
            return self.run.kind == "release"

    def load(self, name: str) -> Any:
        """Load an input that pipeline.yaml declares for this stage.

        Parameters
        ----------
        name : str
            Name of the output of the earlier stage, or ``stage/output`` where two share a name.

        Returns
        -------
        DataFrame, dict, list or estimator
            Checked against the hash that its maker wrote down.

        Raises
        ------
        ArtifactNotFoundError
            When it is not declared, or not there.
        ArtifactCorruptError
            When it was changed since.
        EmptyDataError, StaleDataError
            In a release, when there is nothing in it, or it was made as of another date.
        """
        matches = [item for item in self.spec.inputs if name in (item, item.partition("/")[2])]
        if not matches:
            names = [item.partition("/")[2] for item in self.spec.inputs]
            raise ArtifactNotFoundError(
                f"{self.name} declares no input {name!r} in pipeline.yaml", hint=nearest(name, names)
            )
        if len(matches) > 1 and name not in matches:
            raise ArtifactNotFoundError(
                f"{self.name} declares more than one input {name!r}: {', '.join(matches)}", hint="name the stage too"
            )
        source, _, output = matches[0].partition("/")
        with reads.covered():
            path = self.run.verify_output(source, output)
            self.run.update_stage(
                self.name, inputs={matches[0]: {"path": _relative(path, self.run), "sha256": hash_file(path)}}
            )
            value = read_value(path)
            if self.run.kind == "release":
                check_input(self.run, self.pipeline, matches[0], value, at=self.as_of)
        return from_plain(value) if isinstance(value, dict | list) else value

    def save(self, name: str, value: Any) -> Path:
        """Save an output that pipeline.yaml declares for this stage.

        Parameters
        ----------
        name : str
            Name of the output.
        value : DataFrame, dict, list or estimator
            Dicts and lists may hold numpy numbers; NaN in them is saved as undefined, and loaded as NaN.

        Returns
        -------
        Path
            The file.

        Raises
        ------
        ArtifactNotFoundError
            When it is not declared; gives the nearest name.
        EmptyDataError, StaleDataError
            In a release, when it is a table without a row, or without anything new.
        """
        if name not in self.spec.outputs:
            raise ArtifactNotFoundError(
                f"{self.name} declares no output {name!r} in pipeline.yaml",
                hint=nearest(name, self.spec.outputs),
            )
        if isinstance(value, dict | list):
            value = to_plain(value, name=name)
        newest = newest_event(value, self.pipeline.event_time)
        with reads.covered():
            if self.run.kind == "release" and isinstance(value, pd.DataFrame):
                check_output(self.run, self.pipeline, self.name, name, value, newest, at=self.as_of)
        path = write_value(self.folder / "outputs", name, value)
        entry: dict[str, Any] = {"path": _relative(path, self.run), "sha256": hash_file(path)}
        if isinstance(value, pd.DataFrame):
            entry["rows"] = len(value)
        if newest is not None:
            entry["newest"] = newest.isoformat()
        self.run.update_stage(self.name, outputs={name: entry})
        return path

    def record(self, **values: Any) -> None:
        """Record scraps: numbers, text, and small nested dicts of them, which gates can read.

        Parameters
        ----------
        **values
            By name. NaN and infinity are recorded as undefined, which no gate passes.

        Raises
        ------
        ScrapError
            When a name was recorded before in this notebook, or a value cannot be recorded.
        """
        with reads.covered():
            known, strict = self.run.stage_record(self.name).get("scraps", {}), self.run.kind == "release"
        for name in values:
            # a scratch run is opened anew each time, so that running a cell twice by hand is no repetition
            if name in known and strict:
                raise ScrapError(f"scrap {name!r} was recorded twice", hint="give each scrap one name")
        plain = {name: _scraps.glue(name, value)["data"] for name, value in values.items()}
        self.run.update_stage(self.name, scraps={**known, **plain})

    def scraps(self, stage: str) -> dict[str, Any]:
        """Read the scraps that an earlier stage of this run recorded; undefined numbers are NaN.

        Raises
        ------
        ArtifactNotFoundError
            When that stage did not run.
        """
        reads.observe("sundial.stage:scraps_of", stage)
        with reads.covered():
            found = _find_scraps(self.run, stage)
        if found is not None:
            return dict(from_plain(found))
        raise ArtifactNotFoundError(
            f"{stage} recorded no scraps in run {self.run.name}",
            hint=nearest(stage, self.pipeline.stages) if stage not in self.pipeline.stages else f"run {stage} first",
        )

    def labels(self, start: Any, end: Any) -> pd.DataFrame:
        """Load the labels known at ``as_of``, from the function that pipeline.yaml names under ``hooks.labels``.

        Parameters
        ----------
        start, end : Timestamp or str
            Of events in ``[start, end)``.

        Returns
        -------
        DataFrame
            The entity as text, as the prediction log has it; the label; and ``label_known_at``. One row an entity.

        Raises
        ------
        PipelineError
            When a column is missing, an entity stands twice, or a label was not known yet at ``as_of``.
        """
        entity, label = self.pipeline.entity, self.pipeline.label.column
        found: pd.DataFrame = self.pipeline.hook("labels")(self.as_of, pd.Timestamp(start), pd.Timestamp(end))
        target = self.pipeline.hooks.labels
        columns = (entity, label, "label_known_at")
        missing = [name for name in columns if name not in found.columns]
        if missing:
            raise PipelineError(f"{target} gave no column {', '.join(missing)}", hint=f"it gives {', '.join(columns)}")
        found = found.assign(**{entity: found[entity].astype(str)})
        twice = found.loc[found[entity].duplicated(), entity]
        if len(twice):
            raise PipelineError(
                f"{target} gave {len(twice):,} labels of entities that have one already, such as {twice.iloc[0]!r}",
                hint="one row an entity",
            )
        early = found.loc[found["label_known_at"] > self.as_of]
        if len(early):
            raise PipelineError(
                f"{target} gave {len(early):,} labels that were not known yet at {self.as_of:%Y-%m-%d}, such as "
                f"that of {early[entity].iloc[0]!r}, known at {early['label_known_at'].iloc[0]}",
                hint="leave out labels whose label_known_at is after as_of",
            )
        return found

    def feedback(self) -> pd.DataFrame | None:
        """Load the examples that reviews of production chose for the next training set.

        Returns
        -------
        DataFrame or None
            Those of all reviews dated ``as_of`` or earlier, newest choice first for an entity chosen twice; None when
            there are none. They are recorded as inputs of this stage. The entity is text, as in the prediction log.
        """
        frames: list[tuple[pd.Timestamp, pd.DataFrame]] = []
        reads.observe("sundial.stage:chosen_examples")
        with reads.covered():
            for run, record in _find_reviews(self.pipeline.name, self.as_of, self.settings):
                path = run.verify_output(REVIEW, EXAMPLES)
                self.run.update_stage(
                    self.name,
                    inputs={
                        f"{run.name}/{REVIEW}/{EXAMPLES}": {
                            "path": f"../{run.name}/{record['outputs'][EXAMPLES]['path']}",
                            "sha256": hash_file(path),
                        }
                    },
                )
                frames.append((pd.Timestamp(record["as_of"]), read_value(path)))
        if not frames:
            return None
        frames.sort(key=lambda item: item[0])  # by date: a release made again later is no newer for that
        newest_first = pd.concat([frame for _, frame in reversed(frames)], ignore_index=True)
        return newest_first.drop_duplicates(self.pipeline.entity, ignore_index=True)


def kind_of_run(_: str, reading: reads.Reading) -> str:
    """Answer with the kind of the run, for a stage that does something else in a release."""
    return Run(reading.run).kind


def scraps_of(stage: str, reading: reads.Reading) -> str:
    """Answer with a hash of the scraps that an earlier stage recorded."""
    return _hash(_find_scraps(Run(reading.run), stage))


def chosen_examples(_: str, reading: reads.Reading) -> str:
    """Answer with a hash of what reviews have chosen up to the release date."""
    reviews = _find_reviews(reading.pipeline, pd.Timestamp(reading.as_of), reading.settings)
    return _hash([[run.name, record["as_of"], record["outputs"][EXAMPLES]["sha256"]] for run, record in reviews])


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _find_scraps(run: Run | None, stage: str) -> dict[str, Any] | None:
    """Find the scraps of a stage in a run, or in those below it."""
    while run is not None:
        record = run.stage_record(stage)
        if "scraps" in record:
            return dict(record["scraps"])
        run = run.base
    return None


def _find_reviews(pipeline: str, as_of: pd.Timestamp, settings: Settings) -> list[tuple[Run, dict[str, Any]]]:
    """Find the reviews dated ``as_of`` or earlier, and their records, oldest run first."""
    found = []
    for run in list_runs(pipeline, kind="release", settings=settings):
        record = run.stage_record(REVIEW)
        if record.get("status") == "succeeded" and pd.Timestamp(record["as_of"]) <= as_of:
            found.append((run, record))
    return found


def _relative(path: Path, run: Run) -> str:
    """Give a path from the run's folder, so that moving artifacts breaks nothing."""
    return os.path.relpath(path, run.folder)


def open_stage(name: str, *, pipeline: str, as_of: str, run: str = "") -> Stage:
    """Open a stage, in the run that a flow names or in a scratch run of its own.

    Parameters
    ----------
    name : str
        Such as ``06_train_model``.
    pipeline : str
        Name of the pipeline.
    as_of : str
        The date to pretend it is, such as ``"2013-09-30"``.
    run : str
        Name of the run. Empty: what is loaded comes from the newest release of that date or earlier, and what is
        saved goes to a scratch run.

    Returns
    -------
    Stage

    Raises
    ------
    PipelineError
        When pipeline or stage is unknown.
    RunNotFoundError
        When the run, or a release to work on, is not there.
    """
    settings = load_settings()
    declared = load_pipeline(pipeline, settings)
    sources = {item.partition("/")[0] for item in declared.stage(name).inputs}
    date = pd.Timestamp(as_of)
    if run:
        opened = open_run(run, settings)
    else:
        # a release that stopped half way has what came before the stop
        last = next((stage for stage in reversed(declared.stages) if stage in sources), None)
        base = latest_run(pipeline, as_of=date, having=last, settings=settings).name if last else ""
        opened = create_run(pipeline, date, kind="scratch", base=base, started_by="notebook", settings=settings)
    record = opened.stage_record(name)
    if not run or record.get("status") != "running":
        opened.restart_stage(name, status="running", started=now(), as_of=date.isoformat())
    elif "key" in record or "not_reusable" in record:  # a runner's kernel, and not somebody's own
        reading = reads.Reading(pipeline, date.isoformat(), opened.folder, settings)

        def note(question: str, answer: str) -> None:
            opened.update_stage(name, observed={question: answer})

        # what may be reused one day must say what it reads beside its inputs
        reads.begin(reading, name, note if "key" in record else None)
    return Stage(name, declared, date, opened, settings)
