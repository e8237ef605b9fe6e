"""The shadow and the log it reads: its scorer, further shadows, traffic of the past scored at once, compaction."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from sundial.cli.application import PipelineOption, app, open_pipeline
from sundial.errors import SettingsError, nearest


@app.command()
def shadow(
    once: Annotated[bool, typer.Option(help="Score what is logged now, and stop.")] = False,
    since: Annotated[str, typer.Option(help="Score traffic of the past, at once: 7d, or the first day.")] = "",
    version: Annotated[int, typer.Option(help="With --since or --add: which version.")] = 0,
    add: Annotated[str, typer.Option(help="Put a version in shadow under this name, beside the candidate.")] = "",
    remove: Annotated[str, typer.Option(help="Take the shadow of this name out again.")] = "",
    pipeline: PipelineOption = "",
) -> None:
    """Run the shadow scorer; it follows the shadow aliases.

    With --since it scores, instead, what is logged of past days at full speed, as the candidate would have answered it.

    Example: sundial shadow --since 7d --version 3
    """
    if sum([once, bool(since), bool(add), bool(remove)]) > 1:
        raise SettingsError("--once, --since, --add and --remove exclude each other", hint="give one of them")
    if add and not version:
        raise SettingsError("--add needs --version", hint=f"sundial shadow --add {add} --version 3")
    settings, declared = open_pipeline(pipeline)
    if since:
        _replay(declared.name, since, version or None)
    elif add or remove:
        from sundial.operations.shadows import add_shadow, remove_shadow

        done = add_shadow(declared.name, add, version) if add else remove_shadow(declared.name, remove)
        print(done)
    else:
        from sundial.serving.shadow import score_shadow

        score_shadow(declared.name, settings, once=once)


@app.command()
def log(
    action: Annotated[str, typer.Argument(help="status or compact")] = "status",
    pipeline: PipelineOption = "",
) -> None:
    """Show the prediction log, or compact it now.

    The shadow scorer compacts by itself; old rows go as SUNDIAL_LOG_KEEP_DAYS and SUNDIAL_LOG_KEEP_MB say.

    Example: sundial log compact
    """
    if action not in ("status", "compact"):
        raise SettingsError(f"{action!r} is neither status nor compact", hint=nearest(action, ["status", "compact"]))
    settings, declared = open_pipeline(pipeline)
    from sundial.operations.logs import compact, describe_log

    if action == "compact":
        print(compact(declared.name, settings))
    for name, value in describe_log(declared.name, settings).items():
        print(f"{name:<28} {value}")


def _replay(pipeline: str, since: str, version: int | None) -> None:
    from tqdm import tqdm

    from sundial.serving.process import limit_threads
    from sundial.serving.replaying import parse_since, replay_shadow

    limit_threads()
    start = parse_since(since)
    with tqdm(unit="row", unit_scale=True, disable=not sys.stderr.isatty()) as bar:

        def show(rows: int) -> None:
            bar.update(rows - bar.n)

        done = replay_shadow(pipeline, start, version=version, progress=show)
    print(
        f"{pipeline} version {done.version}: {done.new_rows:,} logged requests scored in {done.seconds:.1f} s, "
        f"{done.rows:,} in all, {done.errors:,} with an error ({done.folder})"
    )
