"""Making a pipeline of one's own: write it, try it."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from sundial.cli.application import PipelineOption, app, open_pipeline
from sundial.errors import SettingsError


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Name of the pipeline: a folder, a package and a model.")],
    as_of: Annotated[str, typer.Option(help="Release date of its notebooks; this week's Monday by default.")] = "",
) -> None:
    """Write a pipeline of your own, which runs at once on a made-up table.

    Eight notebooks and pipeline.yaml, a package in lib/, and tests; each TODO says what to replace.

    Example: sundial new fraud
    """
    from datetime import date

    from sundial.operations.scaffold import make_pipeline
    from sundial.settings import load_settings

    try:
        first = date.fromisoformat(as_of) if as_of else None
    except ValueError as error:
        raise SettingsError(f"--as-of {as_of!r} is not a date", hint="write it as 2026-01-05") from error
    settings = load_settings()
    for folder, files in make_pipeline(name, as_of=first, settings=settings).items():
        print(f"{folder.relative_to(settings.root) if folder.is_relative_to(settings.root) else folder}/")
        for file in files:
            print(f"    {file}")
    print(f"\nTry it:      sundial try --pipeline {name}\nThen:        docs/your-model.md")


@app.command("try")
def try_(
    as_of: Annotated[str, typer.Option(help="The date to pretend it is; this week's by default.")] = "",
    pipeline: PipelineOption = "",
) -> None:
    """Run a whole release here, without any server: nothing is registered.

    All stages that make a candidate, in a scratch run, and then the gates.

    Example: sundial try --pipeline fraud --as-of 2026-01-05
    """
    settings, declared = open_pipeline(pipeline)
    from datetime import UTC, datetime

    import pandas as pd

    from sundial.operations.trial import try_release

    try:
        date = pd.Timestamp(as_of or declared.as_of(datetime.now(UTC)))
    except ValueError as error:
        raise SettingsError(f"--as-of {as_of!r} is not a date", hint="write it as 2026-01-05") from error
    run, results = try_release(declared, date, settings, say=lambda line: print(line, file=sys.stderr, flush=True))
    for result in results:
        print(f"{result.status:<8} {result.sentence}")
    print(run.folder / "index.html")
