"""Working on runs by hand: run a stage, render reports."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from sundial.cli.application import PipelineOption, app, open_pipeline
from sundial.errors import SettingsError


@app.command()
def run(
    stage: Annotated[str, typer.Argument(help="Name of the stage.")],
    as_of: Annotated[str, typer.Option(help="The date to pretend it is; the run's by default.")] = "",
    into: Annotated[str, typer.Option("--run", help="Run to work in; a scratch run by default.")] = "",
    set_: Annotated[list[str] | None, typer.Option("--set", help="name=value, as JSON or text; repeatable.")] = None,
    pipeline: PipelineOption = "",
) -> None:
    """Run one stage notebook, as a flow would.

    Example: sundial run 06_train_model --set max_iter=400
    """
    settings, declared = open_pipeline(pipeline)
    from sundial.execution.runner import finish_rendering, run_stage
    from sundial.runs import create_run, latest_run, open_run

    parameters: dict[str, Any] = {}
    for item in set_ or []:
        key, equals, text = item.partition("=")
        if not equals:
            raise SettingsError(f"--set {item!r} has no '='", hint="write --set name=value")
        try:
            parameters[key] = json.loads(text)
        except ValueError:
            parameters[key] = text
    declared.stage(stage)
    if into:
        target = open_run(into, settings)
    else:
        base = latest_run(declared.name, as_of=as_of or None, settings=settings)
        target = create_run(
            declared.name, as_of or base.as_of, kind="scratch", base=base.name, started_by="sundial run"
        )
    record = run_stage(target, stage, as_of=as_of or None, parameters=parameters)
    finish_rendering()
    print(f"{stage} succeeded in {record['seconds']:.1f} s: {target.stage_folder(stage) / 'report.html'}")


@app.command()
def report(
    name: Annotated[str, typer.Argument(help="Run to render again; all by default.")] = "",
    pipeline: PipelineOption = "",
) -> None:
    """Render the pages of runs again.

    A notebook whose process was killed gets the outputs that it had shown, and is marked as failed.

    Example: sundial report
    """
    settings, declared = open_pipeline(pipeline)
    from sundial.execution.report import render_index, render_run
    from sundial.execution.runner import finish_pages, recover_run
    from sundial.runs import list_runs, open_run

    for item in [open_run(name, settings)] if name else list_runs(declared.name, settings=settings):
        for stage in recover_run(item, settings):
            print(f"{item.name}: {stage} was killed; what it had shown is in its report")
        finish_pages(item, settings)
        render_run(item, settings)
    print(render_index(settings))
