"""A warehouse built once a session, and ways to change its future."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flights.source import label_delay
from flights.warehouse import NAME, find_warehouse


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Path:
    """Artifacts folder with the real warehouse."""
    artifacts = tmp_path_factory.mktemp("flights") / "artifacts"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SUNDIAL_ARTIFACTS", str(artifacts))
        find_warehouse()
    return artifacts


@pytest.fixture(autouse=True)
def artifacts(built, monkeypatch) -> Path:
    """Use the real warehouse unless a test asks for another."""
    monkeypatch.setenv("SUNDIAL_ARTIFACTS", str(built))
    return built


@pytest.fixture
def change_future(built, tmp_path, monkeypatch) -> Callable[[str], None]:
    """Switch to a copy of the warehouse in which all that was learnt after a moment is different."""

    def change(moment: str) -> None:
        now = pd.Timestamp(moment)
        folder = tmp_path / "artifacts" / "warehouse" / NAME
        shutil.copytree(built / "warehouse" / NAME, folder)
        change_flights(folder / "flights.parquet", now)
        change_weather(folder / "weather.parquet", now)
        monkeypatch.setenv("SUNDIAL_ARTIFACTS", str(tmp_path / "artifacts"))

    return change


def change_flights(path: Path, now: pd.Timestamp) -> None:
    """Give other outcomes to all flights whose outcome was not known; the schedule stays."""
    table = pd.read_parquet(path)
    rng = np.random.default_rng(0)
    known_at = (table["outcome_at"] + label_delay()).mask(table["outcome"] == "cancelled", table["outcome_at"])
    departed = table["visible_from"] < now
    unknown = np.flatnonzero(~(departed & (known_at <= now)))
    table.loc[unknown, "arr_delay"] = rng.integers(-60, 600, len(unknown)).astype(float)
    table.loc[unknown, "air_time"] = rng.integers(20, 600, len(unknown)).astype(float)
    table.loc[unknown, "outcome"] = rng.choice(["arrived", "diverted"], len(unknown))
    table.loc[unknown, "outcome_at"] = now + pd.to_timedelta(rng.integers(1, 9999, len(unknown)), unit="min")
    later = np.flatnonzero(~departed)
    table.loc[later, ["dep_delay", "tailnum"]] = [999.0, "N00000"]
    table.loc[later, "departure"] = now + pd.to_timedelta(rng.integers(0, 999, len(later)), unit="min")
    table.loc[later, "visible_from"] = table.loc[later, "departure"]
    table.to_parquet(path, index=False)


def change_weather(path: Path, now: pd.Timestamp) -> None:
    """Shuffle the reports of all hours that were not over."""
    table = pd.read_parquet(path)
    later = np.flatnonzero(table["known_at"] > now)
    shuffled = np.random.default_rng(1).permutation(later)
    columns = [name for name in table if name not in ("origin", "time_hour", "known_at")]
    table.loc[later, columns] = table.loc[shuffled, columns].to_numpy()
    table.to_parquet(path, index=False)
