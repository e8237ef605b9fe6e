"""From a notebook opened by hand to an experiment: what a scratch run did is done again, and carried on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sundial.errors import RunError
from sundial.execution.parameters import MASK, read_parameters
from sundial.experiments.changes import Arm
from sundial.pipeline import Pipeline
from sundial.runs import Run
from sundial.settings import Settings


def read_scratch(run: Run, arm: Arm, pipeline: Pipeline, settings: Settings) -> Arm:
    """Turn what was tried in a scratch run into an experiment.

    A person at a notebook runs cells in any order and more than once; only a run from top to bottom is evidence. So
    the stages of the scratch run are not taken as they are: they are run again, with the notebook as it is saved now
    and the parameters that the scratch run had, and the later stages after them.

    Parameters
    ----------
    run : Run
        The scratch run.
    arm : Arm
        What else the command changes; it wins.
    pipeline : Pipeline
        What pipeline.yaml declares.
    settings : Settings
        Where the notebooks are.

    Returns
    -------
    Arm

    Raises
    ------
    RunError
        When it is no scratch run of this pipeline, or no stage of it is one of a release.
    """
    if run.kind != "scratch" or run.pipeline != pipeline.name:
        raise RunError(f"{run.name} is a {run.kind} run of {run.pipeline}", hint="name a scratch run of this pipeline")
    stages = [stage for stage in run.stages() if stage in pipeline.release_stages]
    if not stages:
        raise RunError(f"{run.name} has no stage of a release", hint="open one in JupyterLab, or: sundial run STAGE")
    parameters: dict[str, dict[str, Any]] = {stage: dict(values) for stage, values in arm.parameters.items()}
    for stage in stages:
        # a notebook run by hand has what its parameters cell says; the runner wrote down what it gave
        given = run.stage_record(stage).get("parameters", {})
        notebook = settings.root / arm.notebooks[stage] if stage in arm.notebooks else pipeline.notebook(stage)
        defaults = {name: declared.default for name, declared in read_parameters(notebook).items()}
        changed = {
            name: value
            for name, value in given.items()
            if name in defaults and name not in ("as_of", "run", "pipeline") and value not in (defaults[name], MASK)
        }
        if changed:
            parameters[stage] = {**changed, **parameters.get(stage, {})}
    name = arm.name if arm.parameters or arm.notebooks or arm.name != "as it is now" else f"from {run.name}"
    return replace(arm, name=name, as_of=arm.as_of or run.as_of.isoformat(), parameters=parameters)
