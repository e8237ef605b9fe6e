"""Servability: a fresh server answers real requests with the candidate before any alias points to it."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from folder_source import FolderSource
from logwriter import Writer

from sundial.errors import ServabilityError
from sundial.formats import hash_file
from sundial.serving import trials
from sundial.serving.trials import CHECKED, LOGGED, Trial
from sundial.settings import Settings

GENEROUS = timedelta(seconds=20)


def trial_of(models: FolderSource, settings: Settings, version: int) -> Trial:
    """Make a trial of a version."""
    folder = models.root / f"v{version}"
    return Trial("demo", folder, hash_file(folder / "model.skops"), settings)


@pytest.mark.slow
def test_a_good_candidate_answers_as_it_scores(
    models: FolderSource,
    settings: Settings,
    writer: Writer,
) -> None:
    """Its answers to the newest logged requests are its own scores, and how fast it was is told."""
    writer.write(60, a_batch=7)

    with trial_of(models, settings, 2) as trial:
        result = trial.run(GENEROUS, rows=25)
        with pytest.raises(ServabilityError, match="takes .* ms for 95 %.*0 ms is the budget"):
            trial.run(timedelta(0), rows=5)

    assert (25, LOGGED) == (result.rows, result.source)
    assert result.largest_difference <= 1e-12
    assert 0 < result.median_ms <= result.p95_ms <= result.budget_ms


@pytest.mark.slow
def test_without_requests_its_check_rows_are_asked(
    models: FolderSource,
    settings: Settings,
    writer: Writer,
) -> None:
    """A candidate with a feature that no logged request has is tried on the rows of its card."""
    writer.write(5)

    with trial_of(models, settings, 4) as trial:
        result = trial.run(GENEROUS)

    assert (4, CHECKED) == (result.rows, result.source)


@pytest.mark.slow
def test_skew_is_named_by_column(
    models: FolderSource,
    settings: Settings,
    writer: Writer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where values arrive otherwise than the model saw them here, the columns are named."""
    writer.write(12)
    real = trials.Trial._ask
    monkeypatch.setattr(
        trials.Trial, "_ask", lambda self, address, frame: real(self, address, frame.assign(minute=0, carrier="DL"))
    )

    with trial_of(models, settings, 2) as trial, pytest.raises(ServabilityError) as refused:
        trial.run(GENEROUS)

    assert "logged requests are scored differently when served" in refused.value.message
    assert "minute (12 rows), carrier (" in refused.value.message


@pytest.mark.slow
def test_a_candidate_that_does_not_load_is_told(models: FolderSource, settings: Settings) -> None:
    """The server's own last words say why."""
    folder = Path(models.root / "v2")
    card = json.loads((folder / "model.json").read_text())
    card["check"]["scores"][0] += 0.1
    (folder / "model.json").write_text(json.dumps(card))

    with trial_of(models, settings, 2) as trial, pytest.raises(ServabilityError) as refused:
        trial._wait_ready()

    assert "cannot load the candidate" in refused.value.message
    assert "gives other scores" in refused.value.message
