"""What a person sets going or decides, and what was decided: release, approve, rollback, history."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from sundial.cli.application import PipelineOption, app, open_pipeline
from sundial.errors import ApprovalRefusedError, SettingsError, SundialError, nearest

if TYPE_CHECKING:
    from sundial.operations.prefect_api import FlowRun, PrefectApi


@app.command()
def release(
    as_of: Annotated[str, typer.Option(help="Release date; this week's by default.")] = "",
    refresh: Annotated[bool, typer.Option("--refresh", help="Run every stage, also unchanged ones.")] = False,
    pipeline: PipelineOption = "",
) -> None:
    """Start a release now, on the worker that runs.

    A stage of which nothing has changed since an earlier run is reused from there, and the run says so.

    Example: sundial release --as-of 2013-10-14
    """
    settings, declared = open_pipeline(pipeline)
    from sundial.operations.prefect_api import PrefectApi

    with PrefectApi(settings=settings) as api:
        name = f"release {as_of or 'of this week'}"
        asked = {"pipeline": declared.name, "as_of": as_of, "refresh": refresh}
        flow_run = api.start("release", declared.name, asked, name=name)
        print(f"{flow_run.name}: {api.link(flow_run)}")


@app.command()
def resume(
    name: Annotated[str, typer.Argument(help="Run, or identity of a flow run, that stopped.")],
) -> None:
    """Let a release, or what follows it, go on where it stopped.

    What is finished is not done again. Outputs that a disk lost are put back first, where they come out the same.

    Example: sundial resume payments-2013-10-07-20261125T060003Z-1a2b3
    """
    from sundial.operations.prefect_api import PrefectApi
    from sundial.operations.resuming import resume as resume_run
    from sundial.settings import load_settings

    settings = load_settings()
    flow_run = resume_run(name, settings, say=print)
    with PrefectApi(settings=settings) as api:
        print(f"{flow_run.name} goes on: {api.link(flow_run)}")


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
    code: Annotated[str, typer.Option(help="Your one-time code, where you have a secret; asked for by default.")] = "",
    pipeline: PipelineOption = "",
) -> None:
    """Answer what waits for a person.

    The approval of a candidate, or the review of production. An answer that does not count changes nothing, and says
    why.

    Example: sundial approve --decision approve --name "Ada Lovelace" --reason "better on every segment"
    """
    settings, declared = open_pipeline(pipeline)
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
        if "code" in schema.get("properties", {}):
            wanted = f"One-time code ({schema['properties']['code'].get('description', '')}; empty for none)"
            answer["code"] = code or typer.prompt(wanted, default="", show_default=False)
        api.answer(asking, answer)
        print(f"{answer['name']}: {decision}. It goes on at {api.link(asking)}", flush=True)
        refusal = api.wait_for_refusal(asking)
        if refusal:
            raise ApprovalRefusedError(refusal, hint="the question still stands: sundial approve")


@app.command()
def rollback(
    name: Annotated[str, typer.Option(help="Your name, as it will stand in the record.")],
    reason: Annotated[str, typer.Option(help="Why, for whoever reads this in a year.")],
    pipeline: PipelineOption = "",
) -> None:
    """Put the previous production version back, at once.

    Example: sundial rollback --name "Ada Lovelace" --reason "alerts doubled overnight"
    """
    settings, declared = open_pipeline(pipeline)
    from sundial.operations.rollback import roll_back

    print(roll_back(declared.name, name, reason, settings))


@app.command()
def history(
    at: Annotated[str, typer.Option(help="A moment: which version was in production then.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="Also the seconds of rehearsals.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    pipeline: PipelineOption = "",
) -> None:
    """Show which version was in production when, who approved it, on which evidence.

    A moment before the first promotion is taken as a date of the data.

    Example: sundial history --at 2013-10-20
    """
    settings, declared = open_pipeline(pipeline)
    from sundial.operations.summary import print_tenures
    from sundial.release.tenures import find_tenure, list_tenures

    tenures = list_tenures(declared.name, settings, rehearsals=everything)
    clock = "clock"
    if at:
        try:
            found, clock = find_tenure(tenures, at)
        except ValueError as error:
            raise SettingsError(
                f"--at {at!r} is no moment", hint="write it like 2013-10-20 or 2013-10-20T15:00"
            ) from error
        tenures = [found] if found else []
    if as_json:
        print(json.dumps([item.as_dict() for item in tenures], indent=2))
    elif not tenures:
        print(f"nothing of {declared.name} was in production" + (f" at {at}" if at else ""))
    else:
        print_tenures(tenures, at=at, clock=clock)
