"""What all commands share: the application they register with, and how they find their pipeline."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Annotated

import typer

from sundial.errors import SettingsError

if TYPE_CHECKING:
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


def open_pipelines(names: list[str] | None) -> tuple[Settings, list[Pipeline]]:
    """Read settings and pipelines; with no name given, all there are."""
    from sundial.pipeline import list_pipelines, load_pipeline
    from sundial.settings import load_settings

    settings = load_settings()
    wanted = list(dict.fromkeys(names or list_pipelines(settings)))
    if not wanted:
        raise SettingsError(
            f"no pipeline under {settings.notebooks}", hint="set SUNDIAL_ROOT to the project's folder, or: sundial new"
        )
    return settings, [load_pipeline(name, settings) for name in wanted]


def open_pipeline(name: str, *, with_calendar: bool = False) -> tuple[Settings, Pipeline]:
    """Read settings and pipeline; with no name given, the only one there is, or the only one with a calendar."""
    from sundial.pipeline import list_pipelines, load_pipeline
    from sundial.settings import load_settings

    settings = load_settings()
    names = list_pipelines(settings)
    if with_calendar and len(names) > 1:
        names = [item for item in names if name or load_pipeline(item, settings).calendar] or names
    if not name and len(names) != 1:
        raise SettingsError(
            f"{len(names)} pipelines under {settings.notebooks}" + (f": {', '.join(names)}" if names else ""),
            hint="name one with --pipeline" if names else "set SUNDIAL_ROOT to the project's folder",
        )
    return settings, load_pipeline(name or names[0], settings)


def end_like_ctrl_c() -> None:
    """Let a SIGTERM, such as a service manager's, end all that was started, as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGHUP, interrupt)
