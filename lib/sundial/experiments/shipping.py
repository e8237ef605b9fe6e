"""From an experiment to a release candidate: only what is committed, run anew, and proven to be the same.

The release that ships an experiment carries its parameters and notebooks, reuses nothing, and ends its stages with a
parity certificate, ``parity.json``: the hash of each output and of the scraps of each stage, in the experiment and in
the release. What is not equal is either explained by what the two runs stood on (another version in production, a file
that has changed), or it is not, and then the figures that convinced somebody are no figures of this candidate: the
release fails.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sundial.errors import ParityError, RunError, RunNotFoundError, nearest
from sundial.execution.ingredients import compare_ingredients, find_key
from sundial.execution.parameters import check_parameters
from sundial.execution.runner import notebook_of, parameters_of
from sundial.formats import write_json_atomically
from sundial.pipeline import Pipeline
from sundial.reads import UNREPEATABLE
from sundial.release.evidence import PARITY
from sundial.runs import Run, list_runs, now, open_run
from sundial.settings import Settings


def find_experiment(name: str, pipeline: Pipeline, settings: Settings) -> Run:
    """Find an experiment by the name of its run, or by the name that a person gave it.

    Raises
    ------
    RunNotFoundError
        When there is none; of several with the name the newest is meant.
    """
    runs = list_runs(pipeline.name, kind="experiment", settings=settings)
    for run in reversed(runs):
        if name in (run.name, run.manifest().get("name")):
            return run
    known = [str(run.manifest().get("name") or run.name) for run in runs]
    raise RunNotFoundError(f"{pipeline.name} has no experiment {name!r}", hint=nearest(name, known))


def check_shippable(experiment: Run, pipeline: Pipeline, settings: Settings) -> None:
    """Refuse to ship what is not whole, not committed, or no longer what the experiment ran.

    Parameters
    ----------
    experiment : Run
        What would be shipped.
    pipeline : Pipeline
        What pipeline.yaml declares.
    settings : Settings
        Where the project is.

    Raises
    ------
    RunError
        Naming the files, or the stage and what differs.
    """
    unfinished = [stage for stage in pipeline.release_stages if not experiment.succeeded(stage)]
    if unfinished:
        raise RunError(f"{experiment.name} did not finish: {unfinished[0]} has not succeeded", hint="run it again")
    own = sorted(experiment.manifest().get("notebooks", {}).values())
    changed = _list_uncommitted(settings, pipeline, own)
    if changed:
        raise RunError(
            f"{len(changed)} files that a release runs are not committed: {', '.join(changed[:5])}",
            hint="commit them: a candidate can be made again only from what git keeps",
        )
    for stage in pipeline.release_stages:
        record = experiment.stage_record(stage)
        notebook = notebook_of(experiment, stage, pipeline, settings)
        given = check_parameters(notebook, parameters_of(experiment, stage, pipeline, notebook, settings))
        key = find_key(experiment, stage, notebook, given, experiment.as_of.isoformat(), pipeline, settings)
        if record.get("key") and key.digest != record["key"]:
            differs = "; ".join(compare_ingredients(record["ingredients"], key.short)) or key.reason
            raise RunError(
                f"{stage} is no longer what {experiment.name} ran: {differs}",
                hint="run the experiment again, and ship that",
            )


def _list_uncommitted(settings: Settings, pipeline: Pipeline, notebooks: list[str]) -> list[str]:
    """List files of this pipeline that git does not have as they are."""
    own = [*map(str, _own_notebooks(pipeline)), *(str(settings.root / path) for path in notebooks)]
    folders = [settings.notebooks / pipeline.name, settings.notebooks / "lifecycle", settings.root / "lib"]
    status = _git(settings, "status", "--porcelain", "--untracked-files=all", "--", *map(str, folders), *own)
    known = {Path(line).name for line in _git(settings, "ls-files", "--", *own)}
    unknown = [path for path in own if Path(path).name not in known]
    return list(dict.fromkeys([line[3:] for line in status] + unknown))


def _git(settings: Settings, *words: str) -> list[str]:
    """Ask git about the project, and give the lines of its answer."""
    command = ["git", "-C", str(settings.root), *words]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  our words and paths
    except OSError as error:
        raise RunError(f"git cannot be asked: {error}", hint="install git") from error
    if asked.returncode != 0:
        raise RunError(
            f"git does not know the project: {asked.stderr.strip().splitlines()[-1]}",
            hint="a candidate is made from committed notebooks: put the project under git",
        )
    return asked.stdout.splitlines()


def _own_notebooks(pipeline: Pipeline) -> list[Path]:
    return [pipeline.notebook(stage) for stage in pipeline.release_stages]


def carry(run: Run, experiment: str, settings: Settings) -> None:
    """Let a release carry what an experiment changed, and say whose experiment it is.

    Parameters
    ----------
    run : Run
        A release that has just begun.
    experiment : str
        Name of the experiment's run.
    settings : Settings
        Where the runs are.
    """
    source = open_run(experiment, settings)
    manifest = source.manifest()
    run.update(
        experiment=source.name,
        experimenter=manifest.get("started_by", ""),
        name=manifest.get("name", ""),
        parameters=manifest.get("parameters", {}),
        notebooks=manifest.get("notebooks", {}),
    )


def certify(run: Run, pipeline: Pipeline, settings: Settings) -> dict[str, Any]:
    """Prove that a release gives what its experiment gave, and keep the proof in the run.

    Parameters
    ----------
    run : Run
        A release that carries an experiment, after its stages.
    pipeline : Pipeline
        Which stages.
    settings : Settings
        Where the experiment is.

    Returns
    -------
    dict
        ``verdict`` (``equal`` or ``explained``), ``sentence`` and ``items``: stage, name, both hashes, equal, reason.

    Raises
    ------
    ParityError
        When something differs and nothing explains it. The certificate is in the run by then.
    """
    experiment = open_run(str(run.manifest()["experiment"]), settings)
    items: list[dict[str, Any]] = []
    for stage in pipeline.release_stages:
        before, after = experiment.stage_record(stage), run.stage_record(stage)
        reason = _explain(before, after)
        ours, theirs = _hashes(before), _hashes(after)
        for name in sorted(set(ours) | set(theirs)):
            item = {"stage": stage, "name": name, "experiment": ours.get(name, ""), "release": theirs.get(name, "")}
            equal = item["experiment"] == item["release"]
            items.append({**item, "equal": equal, "reason": "" if equal else reason})
    differing = [item for item in items if not item["equal"]]
    unexplained = [item for item in differing if not item["reason"]]
    verdict = "unexplained" if unexplained else "explained" if differing else "equal"
    sentence = (
        f"{len(items) - len(differing)} of {len(items)} figures and files are equal to those of {experiment.name}"
    )
    if differing:
        reasons = dict.fromkeys(f"{item['stage']}: {item['reason'] or 'nothing explains it'}" for item in differing)
        sentence += f"; {'; '.join(reasons)}"
    certificate = {"experiment": experiment.name, "at": now(), "verdict": verdict, "sentence": sentence, "items": items}
    write_json_atomically(run.folder / PARITY, certificate)
    if unexplained:
        first = unexplained[0]
        raise ParityError(
            f"{run.name} does not reproduce {experiment.name}: {first['stage']} gives another {first['name']}, and "
            "code, parameters, inputs and environment are the same",
            hint=f"does the notebook fix its seed? See {run.folder / PARITY}",
        )
    return certificate


def _hashes(record: Mapping[str, Any]) -> dict[str, str]:
    found = {name: str(item["sha256"]) for name, item in record.get("outputs", {}).items()}
    scraps = json.dumps(record.get("scraps", {}), sort_keys=True)
    return {**found, "scraps": hashlib.sha256(scraps.encode()).hexdigest()}


def _explain(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Say what the same stage stood on in one run and not in the other; '' when it is all the same."""
    reasons = compare_ingredients(before.get("ingredients", {}), after.get("ingredients", {}))
    ours, theirs = before.get("observed", {}), after.get("observed", {})
    for name in sorted(set(ours) | set(theirs)):
        if ours.get(name) != theirs.get(name) or UNREPEATABLE in (ours.get(name), theirs.get(name)):
            reasons.append(f"it read {name}")
    if not after.get("inputs") and not theirs:
        reasons.append("its data comes from where nobody can look twice")
    return "; ".join(reasons)
