"""What went wrong is kept where the next person looks."""

from __future__ import annotations

from pathlib import Path

import pytest

from sundial.operations.notices import find_report, read_notices, send_message, write_notice
from sundial.settings import load_settings


def test_a_notice_is_kept_and_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What was written comes back with its time; the newest are asked for."""
    monkeypatch.setenv("SUNDIAL_ARTIFACTS", str(tmp_path))
    settings = load_settings()
    for reason in ("gate x fails", "gate y fails"):
        write_notice({"flow": "comparison r1", "reason": reason}, settings)

    assert ["gate y fails"] == [item["reason"] for item in read_notices(settings, last=1)]
    assert all(item["at"] for item in read_notices(settings))


def test_no_failure_no_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Nothing kept is an empty list."""
    monkeypatch.setenv("SUNDIAL_ARTIFACTS", str(tmp_path))

    assert [] == read_notices(load_settings())


def test_reports_are_found_by_stage_run_or_neither(project: Path):
    """The page of a stage, of a run, or the index of all runs, on the pipeline's own server."""
    settings = load_settings()
    address = f"{settings.serve_url}/reports/"

    assert f"{address}r1/06_train_model/report.html" == find_report("tiny", "r1", settings, "06_train_model")
    assert f"{address}r1/index.html" == find_report("tiny", "r1", settings)
    assert address == find_report("tiny", "", settings)


def test_a_way_of_telling_that_is_none_is_said(project: Path, monkeypatch: pytest.MonkeyPatch):
    """An address that Apprise does not know is named by its variable, and not shown."""
    monkeypatch.setenv("SUNDIAL_NOTIFICATION_URL", "pigeon-hunter2")

    assert ["SUNDIAL_NOTIFICATION_URL is no address that Apprise knows"] == send_message("a", "b", load_settings())
