"""What a person sets going or decides: release, approve, rollback."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sundial.cli.application import PipelineOption, app, open_pipeline
from sundial.errors import SundialError, nearest

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
    settings, declared = open_pipeline(pipeline)
    from sundial.operations.rollback import roll_back

    print(roll_back(declared.name, name, reason, settings))
