"""What went wrong is kept where the next person looks."""

from __future__ import annotations

from pathlib import Path

import pytest

from sundial.operations.notices import read_notices, report_failure
from sundial.settings import load_settings


def test_a_failure_is_said_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The notice names pipeline, run, cause and report, and can be read back."""
    monkeypatch.setenv("SUNDIAL_ARTIFACTS", str(tmp_path))
    settings = load_settings()

    text = report_failure(
        flow="comparison r1", parameters={"pipeline": "p", "run": "r1"}, reason="gate x fails", settings=settings
    )

    assert "comparison r1 failed (pipeline p, run r1). gate x fails" in text
    assert f"{settings.serve_url}/reports/r1/index.html" in text
    assert [("comparison r1", "gate x fails")] == [(n["flow"], n["reason"]) for n in read_notices(settings)]


def test_no_failure_no_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Nothing kept is an empty list."""
    monkeypatch.setenv("SUNDIAL_ARTIFACTS", str(tmp_path))

    assert [] == read_notices(load_settings())
