"""Several pipelines live side by side: each has a port, an address of its own, and is named where it matters."""

from __future__ import annotations

from datetime import date

import pytest

from sundial.cli import main
from sundial.cli.application import open_pipeline, open_pipelines
from sundial.errors import PipelineError, SettingsError
from sundial.operations.scaffold import make_pipeline
from sundial.operations.system import check_ports
from sundial.pipeline import find_serve_url, load_pipeline
from sundial.settings import load_settings


@pytest.fixture
def two(project, monkeypatch):
    """Make a second pipeline beside the tiny one."""
    monkeypatch.setenv("SUNDIAL_SERVE_PORT", "9100")
    make_pipeline("fraud", as_of=date(2026, 1, 5))
    return project


def test_each_is_served_on_a_port_of_its_own(two):
    """Addresses follow from SUNDIAL_SERVE_PORT and the pipeline's offset; a report is where its model is served."""
    settings = load_settings()

    assert "http://127.0.0.1:9100" == find_serve_url("tiny", settings)
    assert "http://127.0.0.1:9101" == find_serve_url("fraud", settings)
    assert settings.serve_url == find_serve_url("unknown", settings)


def test_two_on_one_port_are_refused_before_anything_starts(two):
    """The error names both pipelines, the port, and what to change."""
    path = two / "notebooks" / "fraud" / "pipeline.yaml"
    path.write_text(path.read_text().replace("serve_port_offset: 1", "serve_port_offset: 0"))

    with pytest.raises(PipelineError, match=r"fraud and tiny .* port 9100"):
        check_ports(load_settings(), load_pipeline("fraud"), load_pipeline("tiny"))


def test_an_offset_that_leads_beyond_the_last_port_is_refused(two, monkeypatch):
    """A port that is none is said before it is bound."""
    monkeypatch.setenv("SUNDIAL_SERVE_PORT", "65535")

    with pytest.raises(PipelineError, match="no port"):
        load_pipeline("fraud").serve_url(load_settings())


def test_commands_ask_which_one_is_meant(two):
    """What is about one pipeline asks for its name; the system takes all; the demo the one with a calendar."""
    with pytest.raises(SettingsError, match="2 pipelines"):
        open_pipeline("")

    assert "fraud" == open_pipeline("fraud")[1].name
    assert "tiny" == open_pipeline("", with_calendar=True)[1].name
    assert ["fraud", "tiny"] == [item.name for item in open_pipelines(None)[1]]
    assert ["tiny"] == [item.name for item in open_pipelines(["tiny", "tiny"])[1]]


def test_status_tells_of_all(two, capsys, monkeypatch):
    """Without a name, status tells of each pipeline under its name; nothing has to be up for that."""
    monkeypatch.setenv("SUNDIAL_PREFECT_PORT", "9199")

    assert 0 == main(["status"])
    told = capsys.readouterr().out
    assert "fraud\n" in told
    assert "tiny\n" in told
