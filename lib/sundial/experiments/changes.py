"""What an experiment changes: parameters and notebooks, read from the command line and checked before anything runs."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from sundial.errors import ParameterError, PipelineError, SettingsError, nearest
from sundial.execution.parameters import check_parameters
from sundial.pipeline import Pipeline
from sundial.settings import Settings


@dataclass(frozen=True)
class Arm:
    """One experiment of possibly several that are started together.

    Attributes
    ----------
    name : str
        For people.
    as_of : str
        Release date; empty for that of the release it stands beside.
    parameters : dict
        Stage to parameters to values.
    notebooks : dict of str to str
        Stage to the notebook that takes its place, from the project's folder.
    """

    name: str
    as_of: str = ""
    parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notebooks: Mapping[str, str] = field(default_factory=dict)


def read_value(text: str) -> Any:
    """Read a value from the command line: JSON where it is JSON, else the text itself.

    Examples
    --------
    >>> read_value("400"), read_value("0.5"), read_value("[1, 2]"), read_value("deep")
    (400, 0.5, [1, 2], 'deep')
    """
    try:
        return json.loads(text)
    except ValueError:
        return text


def plan_arms(
    pipeline: Pipeline,
    settings: Settings,
    *,
    name: str = "",
    sets: Iterable[str] = (),
    grids: Iterable[str] = (),
    notebooks: Iterable[str] = (),
    dates: Iterable[str] = (),
) -> list[Arm]:
    """Plan the experiments that a command asks for: each combination of the grids' values, at each date.

    Parameters
    ----------
    pipeline : Pipeline
        What is experimented with.
    settings : Settings
        Where the notebooks are.
    name : str
        For people; of the changes themselves by default.
    sets : iterable of str
        Each ``stage.parameter=value``.
    grids : iterable of str
        Each ``stage.parameter=value,value``.
    notebooks : iterable of str
        Each ``stage=path``.
    dates : iterable of str
        Release dates; empty for that of production's release.

    Returns
    -------
    list of Arm

    Raises
    ------
    SettingsError
        When a change or a date cannot be read.
    PipelineError
        When there is no such stage, or the experiment would end before it.
    ParameterError
        When a notebook has no such parameter, or it takes no such value.
    """
    fixed = [_split(item, "--set") for item in sets]
    axes = [
        [(stage, key, read_value(value)) for value in _split_values(text)]
        for stage, key, text in (_split(item, "--grid") for item in grids)
    ]
    own = dict(_split_notebook(item, settings) for item in notebooks)
    stamps = [_date(date) for date in dates] or [""]
    arms = []
    for chosen in itertools.product(*axes):
        parameters: dict[str, dict[str, Any]] = {}
        for stage, key, value in [*((stage, key, read_value(text)) for stage, key, text in fixed), *chosen]:
            parameters.setdefault(stage, {})[key] = value
        _check(pipeline, settings, parameters, own)
        said = ", ".join(f"{key}={value}" for _, key, value in chosen)
        words = [name or ("" if said else _describe(parameters, own)), said]
        arms += [Arm(" ".join(filter(None, words)), date, parameters, own) for date in stamps]
    return arms


def _split(item: str, option: str) -> tuple[str, str, str]:
    target, equals, text = item.partition("=")
    stage, dot, key = target.partition(".")
    if not (equals and dot and stage and key):
        raise SettingsError(
            f"{option} {item!r} is not stage.parameter=value", hint="such as 06_train_model.max_iter=400"
        )
    return stage, key, text


def _split_values(text: str) -> list[str]:
    """Split at commas; a JSON list keeps the commas inside its items."""
    if text.startswith("["):
        value = read_value(text)
        if isinstance(value, list):
            return [json.dumps(item) for item in value]
    return [item.strip() for item in text.split(",") if item.strip()]


def _split_notebook(item: str, settings: Settings) -> tuple[str, str]:
    stage, equals, text = item.partition("=")
    if not equals:
        raise SettingsError(f"--notebook {item!r} is not stage=path", hint="such as 06_train_model=mine.ipynb")
    path = Path(text).expanduser().resolve()
    if not path.is_file():
        raise SettingsError(f"--notebook {item!r}: {path} is not there")
    return stage, str(path.relative_to(settings.root) if path.is_relative_to(settings.root) else path)


def _date(text: str) -> str:
    try:
        return pd.Timestamp(text).isoformat()
    except ValueError as error:
        raise SettingsError(f"--as-of {text!r} is not a date", hint="write it as 2013-09-30") from error


def _check(
    pipeline: Pipeline, settings: Settings, parameters: Mapping[str, Mapping[str, Any]], notebooks: Mapping[str, str]
) -> None:
    """Refuse what would fail later: an unknown stage, a wrong parameter."""
    for stage in {**parameters, **notebooks}:
        pipeline.stage(stage)
        if stage not in pipeline.release_stages:
            last = pipeline.release_stages[-1]
            raise PipelineError(
                f"an experiment ends with {last}, and {stage} comes after it",
                hint=nearest(stage, pipeline.release_stages),
            )
    for stage, given in parameters.items():
        notebook = settings.root / notebooks[stage] if stage in notebooks else pipeline.notebook(stage)
        reserved = {"as_of", "run", "pipeline"} & set(given)
        if reserved:
            raise ParameterError(f"{stage}.{reserved.pop()} is set by Sundial", hint="dates are given by --as-of")
        # what the notebook requires, the runner and pipeline.yaml give
        check_parameters(notebook, {"as_of": "", "run": "", **pipeline.stage(stage).parameters, **given})


def _describe(parameters: Mapping[str, Mapping[str, Any]], notebooks: Mapping[str, str]) -> str:
    said = [f"{key}={value}" for given in parameters.values() for key, value in given.items()]
    said += [f"{stage} from {path}" for stage, path in notebooks.items()]
    return ", ".join(said) or "as it is now"
