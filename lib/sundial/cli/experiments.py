"""Experiments: run them beside production, ship them, and keep an eye on the runs there are."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer

from sundial.cli.application import PipelineOption, app, open_pipeline
from sundial.errors import SettingsError, nearest

Many = list[str] | None


@app.command()
def experiment(
    set_: Annotated[Many, typer.Option("--set", help="stage.parameter=value; repeatable.")] = None,
    grid: Annotated[Many, typer.Option(help="stage.parameter=value,value: one for each; repeatable.")] = None,
    notebook: Annotated[Many, typer.Option(help="stage=path of the notebook in its place; repeatable.")] = None,
    as_of: Annotated[Many, typer.Option(help="Release date, production's by default; repeatable.")] = None,
    name: Annotated[str, typer.Option(help="What to call it.")] = "",
    by: Annotated[str, typer.Option(help="Who starts it; git's user.name by default.")] = "",
    from_scratch: Annotated[str, typer.Option(help="Scratch run to carry on through the later stages.")] = "",
    pipeline: PipelineOption = "",
) -> None:
    """Compare other parameters, notebooks or code with production, on the same rows.

    What is above the change is reused from production's last release. Nothing an experiment does moves an alias.

    Example: sundial experiment --set 06_train_model.max_iter=400 --name deeper
    """
    settings, declared = open_pipeline(pipeline)
    from sundial.experiments.changes import plan_arms
    from sundial.experiments.running import run_experiments
    from sundial.experiments.scratch import read_scratch
    from sundial.experiments.showing import print_results, render_experiment
    from sundial.experiments.tracking import track_run
    from sundial.runs import open_run

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    arms = plan_arms(
        declared, settings, name=name, sets=set_ or [], grids=grid or [], notebooks=notebook or [], dates=as_of or []
    )
    if from_scratch:
        arms = [read_scratch(open_run(from_scratch, settings), arm, declared, settings) for arm in arms]
    results = run_experiments(
        arms, declared, settings, by=by, say=lambda line: print(line, file=sys.stderr, flush=True)
    )
    for result in results:
        if result.comparison:
            render_experiment(result)
    print_results(results)
    for result in results:  # after the answer: a person waits for that, and not for MLflow
        track_run(result.run, settings)
    failed = [result.run.name for result in results if result.error]
    if failed:
        raise typer.Exit(1)


@app.command()
def ship(
    name: Annotated[str, typer.Argument(metavar="EXPERIMENT", help="Name of the experiment, or of its run.")],
    pipeline: PipelineOption = "",
) -> None:
    """Make a release candidate of an experiment: run anew as a release, proven to give the same, then to the shadow.

    Refuses while its notebooks and code are not committed. The release runs on the worker ('sundial up').

    Example: sundial ship deeper
    """
    settings, declared = open_pipeline(pipeline)
    from sundial.experiments.shipping import check_shippable, find_experiment
    from sundial.operations.prefect_api import PrefectApi

    found = find_experiment(name, declared, settings)
    check_shippable(found, declared, settings)
    asked = {"pipeline": declared.name, "as_of": f"{found.as_of:%Y-%m-%d}", "refresh": True, "experiment": found.name}
    with PrefectApi(settings=settings) as api:
        flow_run = api.start("release", declared.name, asked, name=f"ship {name}", run=found.name)
        print(f"{flow_run.name}: {api.link(flow_run)}")


@app.command("ls")
def ls(
    kind: Annotated[str, typer.Option(help="Only release, experiment or scratch.")] = "",
    most: Annotated[int, typer.Option(help="How many of the newest.")] = 30,
    pipeline: PipelineOption = "",
) -> None:
    """List runs, newest first.

    Example: sundial ls --kind experiment
    """
    settings, declared = open_pipeline(pipeline)
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from sundial.experiments.keeping import describe_runs

    kinds = ("release", "experiment", "scratch")
    if kind and kind not in kinds:
        raise SettingsError(f"{kind!r} is no kind of run", hint=nearest(kind, kinds))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("run", "name", "as of", "status", "stages", "reused", "seconds"):
        table.add_column(heading, justify="right" if heading in ("stages", "reused", "seconds") else "left")
    for line in describe_runs(declared.name, settings, kind=kind or None)[:most]:  # type: ignore[arg-type]  # checked
        table.add_row(
            line.run.name, line.name, line.as_of, line.status, str(line.stages), str(line.reused), f"{line.seconds:.1f}"
        )
    Console(width=None if sys.stdout.isatty() else 160, highlight=False).print(table)


@app.command()
def diff(
    before: Annotated[str, typer.Argument(metavar="RUN", help="A run.")],
    after: Annotated[str, typer.Argument(metavar="RUN", help="Another.")],
) -> None:
    """Say what differs between two runs: what stages stood on, what they recorded, and their notebooks.

    Example: sundial diff fraud-2026-01-05-20260105T060004Z-1a2b3 experiment-fraud-2026-01-05-20260106T101500Z-4d5e6
    """
    from sundial.experiments.keeping import diff_runs
    from sundial.runs import open_run
    from sundial.settings import load_settings

    settings = load_settings()
    lines = list(diff_runs(open_run(before, settings), open_run(after, settings)))
    print("\n".join(lines) or "Nothing differs.")


@app.command()
def rm(
    keep: Annotated[int, typer.Option(help="How many of the newest runs stay in any case.")] = 20,
    yes: Annotated[bool, typer.Option(help="Do it; without, only say what would go.")] = False,
    pipeline: PipelineOption = "",
) -> None:
    """Remove old runs, but none that made a version, holds a decision, or that another run stands on.

    Example: sundial rm --keep 20
    """
    settings, declared = open_pipeline(pipeline)
    from sundial.experiments.keeping import choose_removable, remove_runs

    removable, staying = choose_removable(declared.name, keep, settings)
    for run_name, why in staying.items():
        print(f"stays   {run_name}  ({why})")
    for item in removable:
        print(f"{'removed' if yes else 'goes   '} {item.name}")
    if not removable:
        print("Nothing to remove.")
    elif yes:
        remove_runs(removable, settings)
    else:
        print(f"Nothing was removed. To remove these {len(removable)}: sundial rm --keep {keep} --yes")
