"""Models from a folder, as the server sees the registry, so that tests of serving need no MLflow.

``aliases.json`` holds what each alias points to; the models are real servable folders, loaded as the registry loads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from threadpoolctl import threadpool_limits

from sundial.formats import hash_file, write_json_atomically, write_value
from sundial.release.models import ServableModel, load_servable
from sundial.release.pointer import Pointer, RollbackOrder
from sundial.settings import Settings

FEATURES = {"distance": "float64", "minute": "int64", "weekend": "bool", "carrier": "str"}
CARRIERS = ("AA", "B6", "DL", "UA")


@dataclass(frozen=True)
class FolderVersion:
    """What an alias points to."""

    version: int
    folder: str
    sha256: str
    tags: Mapping[str, str] = field(default_factory=dict)


class FolderSource:
    """Aliases and models of a folder."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def alias(self, name: str) -> FolderVersion | None:
        """Say what an alias points to now."""
        path = self.root / "aliases.json"
        found = json.loads(path.read_text()).get(name) if path.exists() else None
        return FolderVersion(**found) if found else None

    def shadows(self) -> Mapping[str, FolderVersion]:
        """Say which versions are in shadow, by alias."""
        path = self.root / "aliases.json"
        aliases = json.loads(path.read_text()) if path.exists() else {}
        return {name: FolderVersion(**found) for name, found in sorted(aliases.items()) if "shadow" in name and found}

    def version(self, number: int) -> FolderVersion:
        """Find a version by its number."""
        folder = f"v{number}"
        return FolderVersion(number, folder, hash_file(self.root / folder / "model.skops"))

    def load(self, version: FolderVersion) -> ServableModel:
        """Load a version."""
        return load_servable(self.root / version.folder, expected_sha256=version.sha256, version=version.version)

    def previous(self) -> FolderVersion | None:
        """Say which version a rollback goes back to: the one that production pointed to before."""
        path = self.root / "aliases.json"
        found = json.loads(path.read_text()).get("before production") if path.exists() else None
        return FolderVersion(**found) if found else None

    def record(self, order: RollbackOrder) -> None:
        """Record a rollback that was carried out already."""
        present = self.alias("production")
        if present is not None and present.version == order.away_from:
            self.point("production", order.to["version"])
        Pointer("demo", Settings()).withdraw(order)

    def remember(self, fields: Mapping[str, Any]) -> FolderVersion:
        """Make a version of what was written down of it."""
        return FolderVersion(**fields)

    def features(self, version: FolderVersion) -> Mapping[str, str]:
        """Read the dtypes of a version's features."""
        card = json.loads((self.root / version.folder / "model.json").read_text())
        return {name: feature["dtype"] for name, feature in card["features"].items()}

    def point(self, alias: str, version: int | None, **tags: str) -> None:
        """Point an alias to a version, or nowhere."""
        path = self.root / "aliases.json"
        aliases = json.loads(path.read_text()) if path.exists() else {}
        folder = f"v{version}"
        if alias == "production" and aliases.get(alias):
            aliases["before production"] = aliases[alias]
        aliases[alias] = version and {
            "version": version,
            "folder": folder,
            "sha256": hash_file(self.root / folder / "model.skops"),
            "tags": tags,
        }
        write_json_atomically(path, aliases)


def sample_rows(rows: int, seed: int = 0) -> pd.DataFrame:
    """Draw rows that the models of these tests take."""
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "distance": np.where(random.random(rows) < 0.1, np.nan, random.normal(1000, 400, rows)),
            "minute": random.integers(0, 1440, rows),
            "weekend": random.random(rows) < 0.3,
            "carrier": pd.array(random.choice(CARRIERS, rows), dtype="str"),
        }
    )


def build_version(
    root: Path, version: int, *, strict: bool = False, extra: Mapping[str, Any] | None = None, trees: int = 5
) -> None:
    """Fit and save a small model; a strict one raises for a carrier that it does not know."""
    frame = sample_rows(600, seed=version)
    for name, value in (extra or {}).items():
        frame[name] = value
    label = (frame["minute"] / 1440 + frame["weekend"] + frame["distance"].fillna(0) / 4000 > 0.9).astype(int)
    encoder = OneHotEncoder(handle_unknown="error" if strict else "ignore", sparse_output=False)
    model = make_pipeline(
        make_column_transformer((encoder, ["carrier"]), remainder="passthrough"),
        HistGradientBoostingClassifier(max_iter=trees, max_leaf_nodes=8 if trees < 50 else 31, random_state=version),
    )
    with threadpool_limits(1):  # threads that wait for each other on busy cores would take seconds
        model.fit(frame, label)
    save_version(root, version, model, frame.dropna().head(4), threshold=0.4)


def save_version(root: Path, version: int, model: Any, check: pd.DataFrame, *, threshold: float) -> None:
    """Save a fitted model with its card, as a release would; all rows of ``check`` are its check rows."""
    features = {name: str(dtype) for name, dtype in check.dtypes.items()}
    folder = root / f"v{version}"
    path = write_value(folder, "model", model)
    write_json_atomically(
        folder / "model.json",
        {
            "schema": 1,
            "pipeline": "demo",
            "run": f"demo-{version}",
            "as_of": "2013-10-07T00:00:00",
            "entity": "flight",
            "event_time": "departs",
            "threshold": threshold,
            "features": {name: {"dtype": dtype, "kind": ""} for name, dtype in features.items()},
            "sha256": hash_file(path),
            "check": {
                "columns": list(features),
                "rows": [list(map(_plain, row)) for row in check.itertuples(index=False)],
                "scores": model.predict_proba(check)[:, 1].tolist(),
            },
        },
    )


def _plain(value: Any) -> Any:
    if isinstance(value, float) and np.isnan(value):
        return None
    return value.item() if hasattr(value, "item") else value
