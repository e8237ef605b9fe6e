"""Following the real registry: what an alias points to answers, soon after it was moved."""

from __future__ import annotations

from pathlib import Path

import pytest
from folder_source import FEATURES, sample_rows

from sundial.release.registry import Registry
from sundial.serving.following import AliasFollower
from sundial.serving.sources import RegistrySource
from sundial.settings import Settings


@pytest.mark.slow
def test_the_registry_is_followed(built_models: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promotion, rollback and a shadow with one feature more are seen at the next look; models are loaded once."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    registry = Registry(settings)
    follower = AliasFollower(RegistrySource("demo", settings))

    follower.look()
    assert (None, None, "") == (follower.state.model, follower.state.wanted, follower.state.error)

    for version in (1, 2, 4):
        assert registry.register("demo", built_models / f"v{version}") in (1, 2, 3)
    registry.set_alias("demo", "production", 1)
    follower.look()
    first = follower.state.model
    assert first is not None
    assert (1, FEATURES) == (first.version, dict(first.model.features))
    assert ("flight", "departs") == (first.schema.entity, first.schema.event_time)
    assert len(first.model.score(sample_rows(3))) == 3

    registry.set_alias("demo", "production", 2)
    follower.look()
    assert follower.state.model is not None
    assert 2 == follower.state.model.version

    registry.set_alias("demo", "production", 1)
    registry.set_alias("demo", "shadow", 3)
    follower.look()
    assert follower.state.model is not None
    assert first.model is follower.state.model.model
    assert {"wind": "number"} == follower.state.model.schema.extras
    assert (1, 3, 2, "") == (
        follower.state.wanted,
        follower.state.shadow,
        follower.state.switches,
        follower.state.error,
    )

    registry.delete_alias("demo", "shadow")
    follower.look()
    assert follower.state.model is not None
    assert {} == follower.state.model.schema.extras
