"""pipeline.yaml: one model and all that releases it, read strictly.

An unknown key, a stage that nobody made, an input that no stage gives: each is an error that names the file, the line
and the nearest name, before anything runs.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import yaml
from pydantic import BaseModel, Field, ValidationError

try:  # libyaml reads in 2 ms what takes 17 in Python, and each stage reads it twice
    from yaml import CSafeLoader as _SafeLoader
except ImportError:
    from yaml import SafeLoader as _SafeLoader  # type: ignore[assignment]

from sundial import declarations
from sundial.declarations import (
    LIFECYCLE,
    Calendar,
    Gate,
    Gates,
    Hooks,
    LabelSpec,
    Schedule,
    Segments,
    Serving,
    StageSpec,
    Strict,
    WatchBounds,
)
from sundial.errors import PipelineError, nearest
from sundial.settings import Settings, load_settings

__all__ = ["Gate", "Pipeline", "StageSpec", "find_serve_url", "list_pipelines", "load_pipeline", "parse_pipeline"]

LAST_PORT = 65535


class Pipeline(Strict):
    """One model and all that releases it.

    Attributes
    ----------
    name : str
        Folder under ``notebooks/``, and the model's name in the registry.
    title, question : str
        For people: what it is, and what the model answers.
    entity : str
        Column that says what a prediction is about; labels are joined on it.
    event_time : str
        Column with the time of the event.
    label : LabelSpec
        What is predicted, and when it is known.
    segments : tuple of SegmentSpec
        Columns, and combinations of columns, whose values are watched one by one.
    approvers : tuple of str
        Who may approve; empty lets anybody who can open the form.
    self_approval : bool
        Whether who started an experiment may approve the candidate that it became; the page then says so.
    serve_port_offset : int
        Its model server listens on ``SUNDIAL_SERVE_PORT`` plus this, so that pipelines can live side by side.
    stages : dict of str to StageSpec
        In order of execution; the lifecycle's five are added.
    gates : Gates
        Declared checks.
    hooks : Hooks
        Functions of the user's package.
    schedule : Schedule
        The week.
    serving : Serving
        What a candidate must do before it may be served.
    watch_bounds : WatchBounds, optional
        What production is held to in the first hours after a promotion; without it nobody watches.
    calendar : Calendar, optional
        For data that ends.
    """

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    title: str
    question: str = ""
    entity: str
    event_time: str
    label: LabelSpec
    segments: Segments = ()
    approvers: tuple[str, ...] = ()
    self_approval: bool = False
    serve_port_offset: Annotated[int, Field(ge=0, le=1000)] = 0
    stages: dict[str, StageSpec]
    gates: Gates = Gates()
    hooks: Hooks
    schedule: Schedule
    serving: Serving = Serving()
    watch_bounds: WatchBounds | None = None
    calendar: Calendar | None = None
    folder: Path = Path()

    def stage(self, name: str) -> StageSpec:
        """Find a stage.

        Parameters
        ----------
        name : str
            Such as ``06_train_model``.

        Returns
        -------
        StageSpec

        Raises
        ------
        PipelineError
            When there is none of that name; gives the nearest.
        """
        if name not in self.stages:
            raise PipelineError(f"{self.name} has no stage {name!r}", hint=nearest(name, self.stages))
        return self.stages[name]

    def serve_port(self, settings: Settings) -> int:
        """Give the port of this pipeline's model server.

        Raises
        ------
        PipelineError
            When there is no such port.
        """
        port = settings.serve_port + self.serve_port_offset
        if port > LAST_PORT:
            raise PipelineError(
                f"{self.folder / 'pipeline.yaml'}: serve_port_offset {self.serve_port_offset} on top of port "
                f"{settings.serve_port} is no port",
                hint=f"choose a smaller one, or a SUNDIAL_SERVE_PORT well below {LAST_PORT}",
            )
        return port

    def serve_url(self, settings: Settings) -> str:
        """Give the address of this pipeline's model server, which shows its reports too."""
        return f"http://{settings.host}:{self.serve_port(settings)}"

    @property
    def release_stages(self) -> tuple[str, ...]:
        """Names of the stages that make a candidate, in order."""
        return tuple(name for name in self.stages if name not in LIFECYCLE)

    def notebook(self, stage: str) -> Path:
        """Give the path of a stage's notebook.

        Raises
        ------
        PipelineError
            When the stage is unknown.
        """
        spec = self.stage(stage)
        if spec.notebook:
            return self.folder.parent / spec.notebook
        return (self.folder.parent / "lifecycle" if stage in LIFECYCLE else self.folder) / f"{stage}.ipynb"

    def hook(self, name: Literal["labels", "requests", "value"]) -> Callable[..., Any]:
        """Import one of the pipeline's own functions.

        Raises
        ------
        PipelineError
            When the module or the function is not there.
        """
        target: str = getattr(self.hooks, name)
        module, _, function = target.partition(":")
        try:
            found = getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError) as error:
            raise PipelineError(
                f"{self.folder / 'pipeline.yaml'}: hooks.{name} is {target!r}, which cannot be imported: {error}",
                hint="write it as package.module:function; the package belongs in lib/",
            ) from error
        return found  # type: ignore[no-any-return]

    def as_of(self, scheduled: datetime) -> date:
        """Give the release date that a scheduled start stands for.

        Parameters
        ----------
        scheduled : datetime
            When the schedule started the release.

        Returns
        -------
        date
            The Monday of that week; with a calendar, the week of the data that stands in for it.
        """
        local = scheduled.astimezone(ZoneInfo(self.schedule.timezone))  # in Auckland Monday begins on UTC's Sunday
        monday = local.date() - timedelta(days=local.weekday())
        if self.calendar is None:
            return monday
        weeks = (monday - self.calendar.first).days // 7
        return self.calendar.first + timedelta(weeks=weeks % self.calendar.weeks)


def _line_of(text: str, path: tuple[Any, ...]) -> int:
    """Find the line of a key in YAML text, so that the error can be clicked; 1 when it cannot be found."""
    node = yaml.compose(text, Loader=_SafeLoader)
    line = 1
    for key in path:
        if isinstance(node, yaml.MappingNode):
            for name, value in node.value:
                if name.value == str(key):
                    line, node = name.start_mark.line + 1, value
                    break
            else:
                break
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
            line = node.start_mark.line + 1
        else:
            break
    return line


def _known_keys(path: tuple[Any, ...]) -> list[str]:
    """List the keys that were allowed where an unknown one stood."""
    model: type[BaseModel] = Pipeline
    for key in path[:-1]:
        if key in model.model_fields and key != "stages":
            inner = re.findall(r"\b([A-Z]\w+)\b", str(model.model_fields[key].annotation))
            model = next((getattr(declarations, name) for name in inner if hasattr(declarations, name)), model)
        elif path[0] == "stages":
            model = StageSpec
    return [name for name in model.model_fields if name != "folder"]


class _StrictLoader(_SafeLoader):
    """YAML without repeated keys, of which a plain loader silently keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse a key that stands twice."""
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # the loader itself refuses lists and mappings as keys
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


@functools.lru_cache(maxsize=64)  # every stage of a release asks
def parse_pipeline(text: str, path: Path) -> Pipeline:
    """Read the text of a pipeline.yaml.

    Parameters
    ----------
    text : str
        YAML.
    path : Path
        Where it stands, for errors and for finding its notebooks.

    Returns
    -------
    Pipeline

    Raises
    ------
    PipelineError
        Naming file, line, key and reason.
    """
    try:
        data = yaml.load(text, Loader=_StrictLoader)  # noqa: S506  a SafeLoader underneath
    except yaml.YAMLError as error:
        raise PipelineError(f"{path} is not YAML: {error}") from error
    if not isinstance(data, Mapping):
        raise PipelineError(f"{path} holds no keys", hint=f"it needs {', '.join(_known_keys(('',)))}")
    if "folder" in data:
        raise PipelineError(f"{path}, line {_line_of(text, ('folder',))}: unknown key 'folder'")
    data = {**data, "folder": path.parent}
    if isinstance(data.get("stages"), Mapping):
        data["stages"] = _add_lifecycle(data["stages"])
    try:
        pipeline = Pipeline.model_validate(data)
    except ValidationError as error:
        # a misspelt key is also a missing one: the first says more
        first = min(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
        where = tuple(first["loc"])
        key = ".".join(str(part) for part in where)
        line = _line_of(text, where)
        if first["type"] == "extra_forbidden":
            raise PipelineError(
                f"{path}, line {line}: unknown key {key!r}", hint=nearest(str(where[-1]), _known_keys(where))
            ) from error
        reason = first["msg"].removeprefix("Value error, ")
        raise PipelineError(f"{path}, line {line}: {key or 'the file'}: {reason}") from error
    _check_inputs(pipeline, text, path)
    return pipeline


def _add_lifecycle(declared: Mapping[Any, Any]) -> dict[str, Any]:
    """Put the lifecycle's stages after the declared ones; what is declared of one of them changes only that."""
    stages = {str(name): {} if spec is None else spec for name, spec in declared.items()}
    own = {name: spec for name, spec in stages.items() if name not in LIFECYCLE}
    return own | {
        name: {**spec.model_dump(), **stages[name]} if isinstance(stages.get(name), Mapping) else stages.get(name, spec)
        for name, spec in LIFECYCLE.items()
    }


def _check_inputs(pipeline: Pipeline, text: str, path: Path) -> None:
    """Refuse an input that no earlier stage makes, and a gate on a stage that is none."""
    made: list[str] = []
    for name, spec in pipeline.stages.items():
        for wanted in spec.inputs:
            if wanted not in made:
                line = _line_of(text, ("stages", name, "inputs"))
                raise PipelineError(
                    f"{path}, line {line}: stage {name} reads {wanted!r}, which no earlier stage makes",
                    hint=nearest(wanted, made),
                )
        made += [f"{name}/{output}" for output in spec.outputs]
    for step in Gates.model_fields:
        for index, gate in enumerate(getattr(pipeline.gates, step)):
            stage = gate.scrap.partition(".")[0]
            if stage not in pipeline.stages:
                line = _line_of(text, ("gates", step, index, "scrap"))
                raise PipelineError(
                    f"{path}, line {line}: a gate reads {gate.scrap!r}, and there is no stage {stage!r}",
                    hint=nearest(stage, pipeline.stages),
                )


def load_pipeline(name: str, settings: Settings | None = None) -> Pipeline:
    """Read a pipeline by its name.

    Parameters
    ----------
    name : str
        Folder under ``notebooks/``.
    settings : Settings, optional
        Where the notebooks are; read from the environment by default.

    Returns
    -------
    Pipeline

    Raises
    ------
    PipelineError
        When there is none of that name, or its file is wrong.
    """
    settings = settings or load_settings()
    path = settings.notebooks / name / "pipeline.yaml"
    if not path.is_file():
        raise PipelineError(f"no pipeline {name!r}: {path} is not there", hint=nearest(name, list_pipelines(settings)))
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise PipelineError(f"{path} is not UTF-8 text: {error}") from error
    pipeline = parse_pipeline(text, path)
    if pipeline.name != name:
        raise PipelineError(f"{path}, line 1: name is {pipeline.name!r}, and the folder is {name!r}")
    return pipeline


def list_pipelines(settings: Settings | None = None) -> list[str]:
    """List the pipelines under ``notebooks/``, by name."""
    settings = settings or load_settings()
    return sorted(path.parent.name for path in settings.notebooks.glob("*/pipeline.yaml"))


def find_serve_url(name: str, settings: Settings) -> str:
    """Give the address of a pipeline's model server, also when its file cannot be read: failures are shown there."""
    try:
        return load_pipeline(name, settings).serve_url(settings)
    except PipelineError:
        return settings.serve_url
