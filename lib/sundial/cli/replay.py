"""The command that releases weeks of the past again."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from sundial.cli.application import PipelineOption, app, end_like_ctrl_c, open_pipeline


@app.command()
def replay(
    first: Annotated[str, typer.Option("--from", help="First release date.")],
    last: Annotated[str, typer.Option("--to", help="Last release date, whole weeks later.")],
    approve: Annotated[str, typer.Option(help="Policy that stands in for the person, and is recorded as such.")],
    name: Annotated[str, typer.Option(help="Name of the replay; made from the other options by default.")] = "",
    plant: Annotated[int, typer.Option(help="Weeks in which bad releases are planted, to test the gates.")] = 0,
    workers: Annotated[int, typer.Option(help="Steps at a time; one a processor by default.")] = 0,
    pages_only: Annotated[bool, typer.Option("--pages", help="Only make the pages again, of what is done.")] = False,
    pipeline: PipelineOption = "",
) -> None:
    """Release weeks of the past again, each as it would have been then.

    In a folder of its own: production does not move. The same command goes on where an interrupted replay was.

    Example: sundial replay --from 2013-03-11 --to 2013-12-09 --approve passing --plant 6
    """
    settings, declared = open_pipeline(pipeline)
    from tqdm import tqdm

    from sundial.replay.pages import render_replay
    from sundial.replay.replays import begin_replay
    from sundial.replay.running import run_replay

    begun = begin_replay(declared, first, last, approve=approve, name=name, plant=plant, settings=settings)
    if not pages_only:
        end_like_ctrl_c()
        with tqdm(unit="step", disable=not sys.stderr.isatty()) as bar:

            def show(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            seconds = run_replay(begun, settings, workers=workers, progress=show)
        print(f"{len(begun.weeks)} weeks, {seconds:.0f} s in this go")
    print(render_replay(begun))
