"""The command line: a command for each thing a person does, each a thin call of one function."""

from __future__ import annotations

import json
import signal
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sundial.errors import SettingsError, SundialError, nearest

if TYPE_CHECKING:
    from sundial.operations.prefect_api import FlowRun, PrefectApi
    from sundial.pipeline import Pipeline
    from sundial.settings import Settings

app = typer.Typer(
    name="sundial",
    help="Take a model from a notebook to production every week.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
PipelineOption = Annotated[str, typer.Option("--pipeline", "-p", help="Name of the pipeline; the only one by default.")]


def _open(name: str) -> tuple[Settings, Pipeline]:
    """Read settings and pipeline; with no name given, the only pipeline there is."""
    from sundial.pipeline import list_pipelines, load_pipeline
    from sundial.settings import load_settings

    settings = load_settings()
    names = list_pipelines(settings)
    if not name and len(names) != 1:
        raise SettingsError(
            f"{len(names)} pipelines under {settings.notebooks}" + (f": {', '.join(names)}" if names else ""),
            hint="name one with --pipeline" if names else "set SUNDIAL_ROOT to the project's folder",
        )
    return settings, load_pipeline(name or names[0], settings)


def _end_like_ctrl_c() -> None:
    """Let a SIGTERM, such as a service manager's, end all that was started, as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGHUP, interrupt)


@app.command()
def up(pipeline: PipelineOption = "") -> None:
    """Run the system, until Ctrl-C.

    Prefect's server (or the one that PREFECT_API_URL names), the model server, the shadow scorer, and the worker with
    its weekly schedule.

    Example: sundial up --pipeline payments
    """
    settings, declared = _open(pipeline)
    from sundial.operations.services import Supervisor
    from sundial.operations.system import bring_up, check_schedule

    _end_like_ctrl_c()
    with Supervisor(settings) as supervisor:
        print("Starting the servers ...", flush=True)
        bring_up(supervisor, declared, say=lambda text: print(text, flush=True))
        following = check_schedule(settings, declared)
        print(f"next release  {following.starts:%Y-%m-%d %H:%M %Z} ({declared.schedule.cron})", flush=True)
        print("Up. Ctrl-C ends all of it; waits and schedules go on when it is started again.", flush=True)
        supervisor.watch(say=lambda text: print(text, file=sys.stderr, flush=True))


@app.command()
def demo(
    approve: Annotated[str, typer.Option(help="Answer the forms in this name, through the API the UI calls.")] = "",
    first: Annotated[str, typer.Option(help="Date of the first release; the calendar's first by default.")] = "",
    pipeline: PipelineOption = "",
) -> None:
    """Turn the loop once on the data that ships.

    Example: sundial demo --approve reviewer
    """
    settings, declared = _open(pipeline)
    from sundial.operations.loop import turn_once
    from sundial.operations.summary import PeakMemory, print_summary

    if not first and declared.calendar is None:
        raise SettingsError(f"{declared.name} has no calendar", hint="give the first date: --first 2026-01-05")
    _end_like_ctrl_c()
    begun = time.monotonic()
    with PeakMemory() as memory:
        loop = turn_once(
            settings,
            declared,
            approver=approve or ("" if sys.stdin.isatty() else "reviewer"),
            first=first or str(declared.calendar.first if declared.calendar else ""),
        )
    print_summary(loop, seconds=time.monotonic() - begun, peak_bytes=memory.peak)


@app.command()
def release(
    as_of: Annotated[str, typer.Option(help="Release date; this week's by default.")] = "",
    pipeline: PipelineOption = "",
) -> None:
    """Start a release now, on the worker that runs.

    Example: sundial release --as-of 2013-10-14
    """
    settings, declared = _open(pipeline)
    from sundial.operations.prefect_api import PrefectApi

    with PrefectApi(settings=settings) as api:
        name = f"release {as_of or 'of this week'}"
        flow_run = api.start("release", declared.name, {"pipeline": declared.name, "as_of": as_of}, name=name)
        print(f"{flow_run.name}: {api.link(flow_run)}")


def _choose_question(api: PrefectApi, pipeline: str, wanted: str) -> FlowRun:
    questions = api.questions(pipeline)
    if wanted:
        questions = [item for item in questions if wanted in (item.id, item.name, item.run)]
    if not questions:
        known = [item.run for item in api.questions(pipeline)]
        raise SundialError(
            f"nothing{f' about {wanted!r}' if wanted else ''} waits for an answer", hint=nearest(wanted, known)
        )
    if len(questions) > 1:
        names = ", ".join(item.name for item in questions)
        raise SundialError(f"{len(questions)} questions wait: {names}", hint="name one: sundial approve RUN")
    return questions[0]


@app.command()
def approve(
    question: Annotated[str, typer.Argument(help="Run, or flow run, that asks; the only one by default.")] = "",
    decision: Annotated[str, typer.Option(help="The answer, such as approve or reject; asked for by default.")] = "",
    name: Annotated[str, typer.Option(help="Your name; asked for by default.")] = "",
    reason: Annotated[str, typer.Option(help="Why; asked for by default.")] = "",
    pipeline: PipelineOption = "",
) -> None:
    """Answer what waits for a person.

    The approval of a candidate, or the review of production.

    Example: sundial approve --decision approve --name "Ada Lovelace" --reason "better on every segment"
    """
    settings, declared = _open(pipeline)
    from sundial.operations.prefect_api import PrefectApi

    with PrefectApi(settings=settings) as api:
        asking = _choose_question(api, declared.name, question)
        shown, schema = api.form(asking)
        print(f"{asking.name}\n{api.link(asking)}\n\n{shown}\n")
        choices = schema.get("properties", {}).get("decision", {}).get("enum", [])
        if not decision:
            decision = typer.prompt(f"Decision ({', '.join(choices)})")
        if choices and decision not in choices:
            raise SundialError(f"{decision!r} is not an answer", hint=nearest(decision, choices))
        answer = {
            "decision": decision,
            "name": name or typer.prompt("Your name"),
            "reason": reason or typer.prompt("Reason"),
        }
        api.answer(asking, answer)
        print(f"{answer['name']}: {decision}. It goes on at {api.link(asking)}")


@app.command()
def rollback(
    name: Annotated[str, typer.Option(help="Your name, as it will stand in the record.")],
    reason: Annotated[str, typer.Option(help="Why, for whoever reads this in a year.")],
    pipeline: PipelineOption = "",
) -> None:
    """Put the previous production version back, at once.

    Example: sundial rollback --name "Ada Lovelace" --reason "alerts doubled overnight"
    """
    settings, declared = _open(pipeline)
    from sundial.operations.handover import roll_back

    print(roll_back(declared.name, name, reason, settings))


@app.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False, pipeline: PipelineOption = ""
) -> None:
    """Show versions, open questions, what is next, what failed.

    Example: sundial status
    """
    settings, declared = _open(pipeline)
    from sundial.operations.status import read_status
    from sundial.operations.summary import print_status

    found = read_status(settings, declared)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        print_status(found, settings)


@app.command()
def serve(
    port: Annotated[int, typer.Option(help="Port; SUNDIAL_SERVE_PORT or 8010 by default.")] = 0,
    pipeline: PipelineOption = "",
) -> None:
    """Run the model server; it follows the production alias.

    Example: sundial serve --port 8010
    """
    settings, declared = _open(pipeline)
    from sundial.serving.server import serve as run_server

    run_server(declared.name, settings, port=port or settings.serve_port)


@app.command()
def shadow(
    once: Annotated[bool, typer.Option(help="Score what is logged now, and stop.")] = False,
    pipeline: PipelineOption = "",
) -> None:
    """Run the shadow scorer; it follows the shadow alias.

    Example: sundial shadow --once
    """
    settings, declared = _open(pipeline)
    from sundial.serving.shadow import score_shadow

    score_shadow(declared.name, settings, once=once)


@app.command()
def traffic(
    start: Annotated[str, typer.Option("--from", help="First event time.")],
    end: Annotated[str, typer.Option("--to", help="Event time to stop before.")],
    rate: Annotated[float, typer.Option(help="Requests a second; 0 is as fast as they are answered.")] = 0.0,
    pipeline: PipelineOption = "",
) -> None:
    """Replay the requests of a time to the model server.

    Example: sundial traffic --from 2013-10-07 --to 2013-10-14
    """
    settings, declared = _open(pipeline)
    import pandas as pd
    from tqdm import tqdm

    from sundial.operations.traffic import Replay

    replay = Replay(declared, pd.Timestamp(start), pd.Timestamp(end), settings.serve_url, rate=rate or None)
    with tqdm(total=replay.total, unit="request", disable=not sys.stderr.isatty()) as bar:

        def show(sent: int) -> None:
            bar.update(sent - bar.n)

        result = replay.run(show)
    print(
        f"{result.sent:,} requests, {result.failed} failed, {result.seconds:.1f} s, p50 {result.quantile(0.5):.1f} ms, "
        f"p99 {result.quantile(0.99):.1f} ms, by version {dict(result.versions)}"
    )
    if result.failed:
        raise SundialError(f"{result.failed} requests failed: {result.first_error}")


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
    settings, declared = _open(pipeline)
    from sundial.execution.runner import run_stage
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
    print(f"{stage} succeeded in {record['seconds']:.1f} s: {target.stage_folder(stage) / 'report.html'}")


@app.command()
def report(
    name: Annotated[str, typer.Argument(help="Run to render again; all by default.")] = "",
    pipeline: PipelineOption = "",
) -> None:
    """Render the pages of runs again.

    Example: sundial report
    """
    settings, declared = _open(pipeline)
    from sundial.execution.report import render_index, render_run
    from sundial.runs import list_runs, open_run

    for item in [open_run(name, settings)] if name else list_runs(declared.name, settings=settings):
        render_run(item)
    print(render_index(settings))


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : list of str, optional
        Those of the process by default.

    Returns
    -------
    int
        0 when done, 1 for an error of ours (its sentence is on standard error), 2 for wrong usage, 130 for Ctrl-C.
    """
    try:
        app(arguments, standalone_mode=False)
    except SundialError as error:
        print(f"sundial: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, typer.Abort):
        print("sundial: interrupted; everything it started has been ended", file=sys.stderr)
        return 130
    except typer.Exit as error:
        return error.exit_code
    except Exception as error:
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # click's errors of usage
            print(f"sundial: {error.format_message()}\nTry 'sundial --help'.", file=sys.stderr)
            return int(error.exit_code)
        raise
    return 0
