"""The faster way to a model's scores: armed only where it is seen to give the same, and never deciding a close call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from folder_source import FolderSource, sample_rows, save_version
from sklearn.compose import ColumnTransformer, make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler
from threadpoolctl import threadpool_limits

from sundial.serving import fastpath
from sundial.serving.encoding import make_encoding
from sundial.serving.fastpath import FastPath, arm
from sundial.serving.following import load
from sundial.serving.sources import Loaded
from sundial.serving.trees import Trees, read_trees

ROWS = sample_rows(500, seed=3)
LABEL = (ROWS["minute"] / 1440 + ROWS["weekend"] + ROWS["distance"].fillna(0) / 4000 > 0.9).astype(int)
BOOSTING: dict[str, Any] = {"max_iter": 12, "max_leaf_nodes": 8, "random_state": 0}


def ordinal(**options: Any) -> OrdinalEncoder:
    """Make an encoder that turns what it does not know into missing."""
    return OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan, **options)


def make(root: Path, model: Any, rows: pd.DataFrame = ROWS, *, threshold: float = 0.4) -> Loaded:
    """Fit a model, save it, and load it as the server does."""
    with threadpool_limits(1):
        save_version(root, 1, model.fit(rows, LABEL), rows.head(16), threshold=threshold)
    source = FolderSource(root)
    source.point("production", 1)
    version = source.alias("production")
    assert version is not None
    return load(source, version)


def to_columns(rows: pd.DataFrame) -> list[list[Any]]:
    """Give a table as checked requests do."""
    return [[None if pd.isna(value) else value for value in rows[name].tolist()] for name in rows.columns]


MODELS = {
    "categories of boosted trees": lambda: make_pipeline(
        ColumnTransformer([("categories", ordinal(), ["carrier"])], remainder="passthrough"),
        HistGradientBoostingClassifier(categorical_features=[0], **BOOSTING),
    ),
    "one column a category": lambda: make_pipeline(
        make_column_transformer(
            (OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["carrier", "weekend"]),
            remainder="passthrough",
        ),
        HistGradientBoostingClassifier(**BOOSTING),
    ),
    "columns left out": lambda: make_pipeline(
        make_column_transformer((ordinal(), ["carrier"]), ("passthrough", ["minute", "distance"]), remainder="drop"),
        HistGradientBoostingClassifier(**BOOSTING),
    ),
    "a forest": lambda: make_pipeline(
        make_column_transformer((ordinal(), ["carrier"]), remainder="passthrough"),
        RandomForestClassifier(12, max_depth=6, random_state=0),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_trees_give_the_scores_of_the_pipeline(tmp_path: Path, name: str) -> None:
    """On rows that arming never saw, with missing and unknown values, scores are the pipeline's to 1e-12."""
    loaded = make(tmp_path, MODELS[name]())
    path = arm(loaded)
    rows = sample_rows(300, seed=9)
    rows.loc[:20, "carrier"] = "??"
    rows.loc[15:40, "carrier"] = None

    assert path.trees is not None, path.reason
    found = path.trees.score(path.encoding.encode(to_columns(rows)))  # type: ignore[union-attr]
    expected = loaded.model.score(rows)

    assert np.abs(found - expected).max() <= 1e-12
    assert ((found >= 0.4) == (expected >= 0.4)).all()
    assert path.describe()["reason"] == "" or path.crossover == 0


@pytest.mark.parametrize("name", ["categories of boosted trees", "one column a category"])
def test_arrays_are_what_the_steps_give(tmp_path: Path, name: str) -> None:
    """The matrix is, bit by bit, what the fitted steps before the estimator make of the same rows."""
    loaded = make(tmp_path, MODELS[name]())
    rows = sample_rows(200, seed=5)

    encoding = make_encoding(loaded.model, loaded.schema.frame, tuple(column[0] for column in to_columns(rows)))

    steps = loaded.model.model[0]  # type: ignore[attr-defined]
    expected = np.asarray(steps.transform(rows), np.float64)
    assert np.array_equal(encoding.encode(to_columns(rows)), expected, equal_nan=True)


def test_trees_of_numbers_alone_need_no_steps(tmp_path: Path) -> None:
    """An estimator that was fitted on a table of numbers answers from arrays, without a warning about names."""
    rows = ROWS[["distance", "minute", "weekend"]]
    loaded = make(tmp_path, HistGradientBoostingClassifier(**BOOSTING), rows)
    path = arm(loaded)

    small, large = to_columns(rows.head(4)), to_columns(pd.concat([rows] * 3))

    assert path.trees is not None
    assert np.abs(path.score(small) - loaded.model.score(rows.head(4))).max() <= 1e-12
    assert np.array_equal(path.score(large)[: len(rows)], loaded.model.score(rows))


@pytest.mark.parametrize(
    ("model", "path", "reason"),
    [
        (
            lambda: make_pipeline(
                make_column_transformer((OneHotEncoder(), ["carrier"]), (StandardScaler(), ["minute"])),
                LogisticRegression(),
            ),
            "data frames",
            "StandardScaler",
        ),
        (
            lambda: make_pipeline(
                make_column_transformer((ordinal(), ["carrier"]), ("passthrough", ["minute"])),
                LogisticRegression(max_iter=2000),
            ),
            "arrays",
            "LogisticRegression is not one of",
        ),
        (
            lambda: make_pipeline(
                make_column_transformer((ordinal(min_frequency=0.4), ["carrier"]), ("passthrough", ["minute"])),
                HistGradientBoostingClassifier(**BOOSTING),
            ),
            "arrays and tables of leaves",
            "",
        ),
        (
            lambda: make_pipeline(
                make_column_transformer((ordinal(), ["minute"]), ("passthrough", ["distance"])),
                HistGradientBoostingClassifier(**BOOSTING),
            ),
            "data frames",
            "a column of integers, is encoded",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:.*encountered in matmul:RuntimeWarning")
def test_what_is_not_faster_says_why(tmp_path: Path, model: Any, path: str, reason: str) -> None:
    """A model whose steps or trees cannot be taken over still answers, and says which way and why."""
    loaded = make(tmp_path, model())

    about = arm(loaded).describe()

    assert path == about["path"]
    assert reason in about["reason"]
    rows = ROWS.head(7)
    assert np.abs(arm(loaded).score(to_columns(rows)) - loaded.model.score(rows)).max() <= 1e-12


def test_trees_that_answer_differently_are_not_armed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trees whose scores are a hair off, or whose rounding differs, answer nobody."""
    loaded = make(tmp_path, MODELS["a forest"]())

    def read_wrong(estimator: Any) -> Trees:
        right = read_trees(estimator)
        return Trees(right.model, not right.single, right.thresholds)  # without rounding to float32

    monkeypatch.setattr(fastpath, "read_trees", read_wrong)
    path = arm(loaded)

    assert path.trees is None
    assert path.encoding is not None
    assert "treelite does not give what scikit-learn does" in path.reason


def test_the_model_itself_decides_a_close_call(tmp_path: Path) -> None:
    """A score on the very threshold is computed by scikit-learn, so that its decision is never another."""
    loaded = make(tmp_path, MODELS["categories of boosted trees"]())
    path = arm(loaded)
    assert path.trees is not None
    row = to_columns(ROWS.head(1))
    exact = float(loaded.model.score(ROWS.head(1))[0])

    class Off:
        """Trees that are always off by a last bit."""

        def score(self, matrix: Any) -> Any:
            return np.nextafter(path.trees.score(matrix), 0)  # type: ignore[union-attr]

    class Close:
        """The model, with a threshold at this very score."""

        threshold = exact

    close = FastPath(Close(), loaded.schema, path.encoding, Off(), 100)  # type: ignore[arg-type]
    assert [exact] == close.score(row).tolist()


def test_what_the_steps_refuse_they_say_themselves(models: FolderSource) -> None:
    """A category that the pipeline raises for is asked of the pipeline, which has the words for it."""
    models.point("production", 3)
    version = models.alias("production")
    assert version is not None
    loaded = load(models, version)
    path = arm(loaded)

    assert path.encoding is not None, path.reason
    with pytest.raises(ValueError, match="Found unknown categories"):
        path.score([[900.0], [600], [False], ["??"]])
