"""Tables of leaves: the scores of scikit-learn's boosted trees to the last bit, or an error that says why not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)

from sundial.serving.masks import LARGEST_BYTES, NoMasksError, make_masks
from sundial.serving.trees import read_trees

ROWS = 3000


def make_rows(seed: int = 0) -> tuple[Any, Any]:
    """Make rows with a category, a count, two numbers with gaps, and a label that needs all of them."""
    random = np.random.default_rng(seed)
    category = random.integers(0, 40, ROWS).astype(float)
    count = random.poisson(3, ROWS).astype(float)
    numbers = random.normal(size=(ROWS, 2))
    numbers[random.random((ROWS, 2)) < 0.1] = np.nan
    chance = np.sin(category) + 0.3 * count + np.nan_to_num(numbers[:, 0]) * np.nan_to_num(numbers[:, 1], nan=1.0)
    return np.column_stack([category, count, numbers]), (chance + random.normal(size=ROWS) > 1).astype(int)


@pytest.mark.parametrize("leaves", [2, 15, 16, 17, 31, 32])
@pytest.mark.parametrize("categories", [None, [0]])
def test_scores_are_those_of_scikit_learn(leaves: int, categories: list[int] | None) -> None:
    """In batches of any size each score is the same bits: for missing and extreme values, and on split edges, too."""
    values, label = make_rows()
    model = HistGradientBoostingClassifier(
        max_iter=30, max_leaf_nodes=leaves, categorical_features=categories, random_state=0, min_samples_leaf=5
    ).fit(values, label)
    trees = read_trees(model)
    masks = make_masks(trees.model)
    asked = np.concatenate([values[:500], make_rows(seed=1)[0][:500]])
    odd = np.repeat(values[:1], 400, axis=0)
    edges = [(column, value) for column, value in trees.thresholds if column][:100]
    for row, (column, value) in zip(odd, edges, strict=False):
        row[column] = value
    for row, (column, value) in zip(odd[100:], edges, strict=False):
        row[column] = np.nextafter(value, np.inf)
    odd[300:310, 1:] = np.nan
    odd[310:320, 1:] = 1e300
    odd[320:330, 1:] = -1e300
    odd[330:340, 0] = np.nan
    asked = np.concatenate([asked, odd])
    expected = model.predict_proba(asked)[:, 1]

    assert np.array_equal(masks.score(asked), expected)
    for start, size in ((0, 1), (7, 2), (1000, 33)):
        assert np.array_equal(masks.score(asked[start : start + size]), expected[start : start + size])


def test_a_category_of_no_training_set_is_as_a_missing_one_or_another() -> None:
    """A code beyond all that any tree names goes where treelite's walker sends it."""
    values, label = make_rows()
    model = HistGradientBoostingClassifier(max_iter=20, categorical_features=[0], random_state=0).fit(values, label)
    trees = read_trees(model)
    asked = values[:50].copy()
    asked[:, 0] = np.resize([41, 63, 200, 254], 50)

    np.testing.assert_allclose(make_masks(trees.model).score(asked), trees.score(asked), rtol=0, atol=1e-15)


def test_nothing_depends_on_the_rows_beside() -> None:
    """A row's score is the same alone, in a batch, and in another order."""
    values, label = make_rows()
    model = HistGradientBoostingClassifier(max_iter=40, random_state=0).fit(values, label)
    masks = make_masks(read_trees(model).model)
    together = masks.score(values[:300])

    assert np.array_equal(masks.score(values[:300][::-1])[::-1], together)
    assert np.array_equal([masks.score(values[row : row + 1])[0] for row in range(300)], together)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (HistGradientBoostingClassifier(max_iter=3, max_leaf_nodes=33, min_samples_leaf=1), "33 leaves"),
        (RandomForestClassifier(3, max_depth=3, random_state=0), "no sum under a logistic function"),
        (ExtraTreesClassifier(3, max_depth=3, random_state=0), "no sum under a logistic function"),
    ],
)
def test_what_has_no_tables_says_why(model: Any, reason: str) -> None:
    """Trees of too many leaves, and forests, are left to treelite."""
    values, label = make_rows()
    fitted = model.fit(np.nan_to_num(values), label)

    with pytest.raises(NoMasksError, match=reason):
        make_masks(read_trees(fitted).model)


def test_tables_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables that would leave the processor's cache are not made."""
    values, label = make_rows()
    model = HistGradientBoostingClassifier(max_iter=30, random_state=0).fit(values, label)
    trees = read_trees(model)
    assert sum(table.words.nbytes for table in make_masks(trees.model).tables) < LARGEST_BYTES

    monkeypatch.setattr("sundial.serving.masks.LARGEST_BYTES", 1000)
    with pytest.raises(NoMasksError, match="larger than"):
        make_masks(trees.model)


def test_gradient_boosting_has_tables_too() -> None:
    """The older boosted trees sum under a logistic function as well, of inputs that they round first."""
    values, label = make_rows()
    model = GradientBoostingClassifier(n_estimators=10, random_state=0).fit(np.nan_to_num(values), label)
    trees = read_trees(model)

    assert trees.single
    asked = np.nan_to_num(values[:100]).astype(np.float32).astype(np.float64)
    np.testing.assert_allclose(make_masks(trees.model).score(asked), model.predict_proba(asked)[:, 1], atol=1e-12)
