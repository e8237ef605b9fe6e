"""Runs are found, told apart, and pruned: those that something still stands on are never removed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from sundial.errors import SettingsError
from sundial.execution.cache import cache_folder
from sundial.execution.ingredients import compare_ingredients
from sundial.execution.pages import flatten
from sundial.execution.report import render_index
from sundial.experiments.showing import diff_stage
from sundial.release.publishing import unpublish_run
from sundial.release.registry import Registry
from sundial.runs import Kind, Run, list_runs
from sundial.scraps import from_plain
from sundial.settings import Settings

# A stage that says it runs, and has said so for longer, was killed.
RUNNING_FOR = pd.Timedelta(days=1)


@dataclass(frozen=True)
class Line:
    """One run in a list.

    Attributes
    ----------
    run : Run
        The run.
    name, kind, as_of, status : str
        What a person calls it, and how it stands.
    stages, reused : int
        That succeeded; of them reused.
    seconds : float
        Of all its stages.
    """

    run: Run
    name: str
    kind: str
    as_of: str
    status: str
    stages: int
    reused: int
    seconds: float


def describe_runs(pipeline: str, settings: Settings, *, kind: Kind | None = None) -> list[Line]:
    """Describe the runs of a pipeline, newest first."""
    lines = []
    for run in reversed(list_runs(pipeline, kind=kind, settings=settings)):
        manifest, records = run.manifest(), run.stages()
        statuses = {record.get("status") for record in records.values()}
        status = next((word for word in ("failed", "running", "succeeded") if word in statuses), "empty")
        lines.append(
            Line(
                run,
                str(manifest.get("name") or ""),
                str(manifest["kind"]),
                f"{run.as_of:%Y-%m-%d}",
                status,
                sum(record.get("status") == "succeeded" for record in records.values()),
                sum(bool(record.get("reused")) for record in records.values()),
                sum(float(record.get("seconds") or 0) for record in records.values()),
            )
        )
    return lines


def diff_runs(before: Run, after: Run) -> Iterator[str]:
    """Say line by line what differs between two runs: what each stage stood on, what it recorded, and its notebook.

    Parameters
    ----------
    before, after : Run
        The two runs.

    Yields
    ------
    str
        A line; none when the runs are the same.
    """
    ours, theirs = before.stages(), after.stages()
    for stage in sorted(set(ours) | set(theirs)):
        if stage not in ours or stage not in theirs:
            yield f"{stage}: only in {(before if stage in ours else after).name}"
            continue
        lines = list(_diff_records(ours[stage], theirs[stage]))
        lines += [f"  {line['text']}" for line in diff_stage(before, after, stage)]
        if lines:
            yield stage
            yield from lines


def _diff_records(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    for said in compare_ingredients(before.get("ingredients", {}), after.get("ingredients", {})):
        yield f"  other {said}"
    for name in sorted(set(before.get("observed", {})) | set(after.get("observed", {}))):
        if before.get("observed", {}).get(name) != after.get("observed", {}).get(name):
            yield f"  other answer to {name}"
    ours, theirs = (dict(flatten(from_plain(record.get("scraps", {})))) for record in (before, after))
    for name in [*ours, *(name for name in theirs if name not in ours)]:
        if ours.get(name) != theirs.get(name):
            yield f"  {name}: {ours.get(name, 'not recorded')} -> {theirs.get(name, 'not recorded')}"


def choose_removable(pipeline: str, keep: int, settings: Settings) -> tuple[list[Run], dict[str, str]]:
    """Choose the runs to remove: all but the newest, and but those that something stands on.

    Parameters
    ----------
    pipeline : str
        Name of the pipeline.
    keep : int
        How many of the newest stay in any case.
    settings : Settings
        Where the runs and the registry are.

    Returns
    -------
    tuple of list of Run and dict
        What may go, oldest first; and why each older run that stays does so.

    Raises
    ------
    SettingsError
        When keep is negative.
    """
    if keep < 0:
        raise SettingsError(f"--keep {keep} is less than none")
    runs = list_runs(pipeline, settings=settings)
    newest = {run.name for run in runs[len(runs) - keep :]} if keep else set()
    versions = {item.run: item.version for item in Registry(settings).versions(pipeline)}
    staying: dict[str, str] = {}
    for run in runs:
        if run.name in versions:
            staying[run.name] = f"made version {versions[run.name]}"
        elif (run.folder / "decisions.json").exists():
            staying[run.name] = "holds a person's decision"
        elif _is_running(run):
            staying[run.name] = "is running"
    waiting = [run for run in runs if run.name in newest or run.name in staying]
    by_name = {run.name: run for run in runs}
    while waiting:
        run = waiting.pop()
        for name, why in _stands_on(run):
            if name in by_name and name not in newest and name not in staying:
                staying[name] = f"{why} {run.name}"
                waiting.append(by_name[name])
    return [run for run in runs if run.name not in newest and run.name not in staying], staying


def remove_runs(runs: list[Run], settings: Settings) -> None:
    """Remove runs for good, each under a hidden name first, so that none is ever seen half; then tidy the index."""
    for run in runs:
        unpublish_run(run, settings)
        hidden = run.folder.with_name(f".removing-{run.name}")
        run.folder.rename(hidden)
        shutil.rmtree(hidden)
    _tidy_cache(cache_folder(settings), settings.runs)
    render_index(settings)


def _stands_on(run: Run) -> Iterator[tuple[str, str]]:
    """Name the runs that one needs, or leads a reader to."""
    manifest = run.manifest()
    if manifest.get("base"):
        yield str(manifest["base"]), "is the base of"
    if manifest.get("experiment"):
        yield str(manifest["experiment"]), "is the experiment behind"
    for record in run.stages().values():
        if record.get("reused"):
            yield str(record["reused"]["run"]), "made what was reused in"
        for item in record.get("inputs", {}).values():
            if str(item.get("path", "")).startswith("../"):
                yield Path(item["path"]).parts[1], "made an input of"


def _is_running(run: Run) -> bool:
    begun = [record.get("started") for record in run.stages().values() if record.get("status") == "running"]
    return any(pd.Timestamp.now(tz="UTC") - pd.Timestamp(start) < RUNNING_FOR for start in begun if start)


def _tidy_cache(folder: Path, runs: Path) -> None:
    """Forget keys whose runs are gone."""
    for key in folder.iterdir() if folder.is_dir() else ():
        entries = [path for path in key.iterdir() if not path.name.startswith(".")]
        for path in entries:
            if not (runs / path.name).is_dir():
                path.unlink(missing_ok=True)
