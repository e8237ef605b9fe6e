"""What a command asks for is read, and refused before anything runs where it cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from sundial.errors import ParameterError, PipelineError, SettingsError
from sundial.experiments.changes import plan_arms
from sundial.pipeline import load_pipeline
from sundial.settings import load_settings

pytestmark = pytest.mark.usefixtures("project")


def plan(**given):
    """Plan experiments with the tiny pipeline."""
    settings = load_settings()
    return plan_arms(load_pipeline("tiny", settings), settings, **given)


def test_a_value_is_what_the_notebook_takes():
    """Numbers are numbers; the name says what was changed."""
    (arm,) = plan(sets=["06_train_model.regularization=0.5"])

    assert {"06_train_model": {"regularization": 0.5}} == arm.parameters
    assert "regularization=0.5" == arm.name


def test_a_grid_is_every_combination_at_every_date():
    """Two values at two dates are four experiments, each with its own name and the value that is fixed."""
    arms = plan(name="c", grids=["06_train_model.regularization=0.1,10"], dates=["2013-10-07", "2013-10-14"])

    assert ["c regularization=0.1", "c regularization=0.1", "c regularization=10", "c regularization=10"] == [
        arm.name for arm in arms
    ]
    assert ["2013-10-07T00:00:00", "2013-10-14T00:00:00"] * 2 == [arm.as_of for arm in arms]
    assert [0.1, 0.1, 10, 10] == [arm.parameters["06_train_model"]["regularization"] for arm in arms]


def test_a_notebook_in_the_place_of_another(project: Path):
    """It is named from the project's folder, so that the record means the same on another machine."""
    mine = project / "mine.ipynb"
    mine.write_bytes((project / "notebooks" / "tiny" / "06_train_model.ipynb").read_bytes())

    (arm,) = plan(notebooks=[f"06_train_model={mine}"], name="mine")

    assert {"06_train_model": "mine.ipynb"} == arm.notebooks


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"sets": ["06_train_model.regularisation=1"]}, ParameterError, "Did you mean 'regularization'"),
        ({"sets": ["06_train_model.regularization=deep"]}, ParameterError, "regularization"),
        ({"sets": ["06_train_mode.regularization=1"]}, PipelineError, "Did you mean '06_train_model'"),
        ({"sets": ["09_deploy_shadow.sample=1"]}, PipelineError, "comes after it"),
        ({"sets": ["06_train_model.as_of=2013-10-07"]}, ParameterError, "--as-of"),
        ({"sets": ["regularization=1"]}, SettingsError, "stage.parameter=value"),
        ({"grids": ["06_train_model.regularization"]}, SettingsError, "stage.parameter=value"),
        ({"notebooks": ["06_train_model"]}, SettingsError, "stage=path"),
        ({"notebooks": ["06_train_model=nowhere.ipynb"]}, SettingsError, "is not there"),
        ({"dates": ["yesterweek"]}, SettingsError, "not a date"),
    ],
)
def test_what_cannot_be_is_refused(given, error, words):
    """A misspelt stage or parameter, a value of another type, a stage after the gates: each by its own sentence."""
    with pytest.raises(error, match=words):
        plan(**given)
