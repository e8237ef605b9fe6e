"""Which of production's answers the next model should look at twice.

Hard ones taught something: the outcome contradicted a confident score, or nothing like them was in the training set, or
the score was a toss-up. They are few and lightly weighted on purpose. Rows picked because a model was wrong about them
are not a fair sample: with many of them, or heavy ones, the next model would learn their outcome as the usual one, and
its probabilities would no longer mean what they say. Easy ones, of which it was sure and right, count for less instead.
Whether either helped is measured on rows that neither model has learned from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy.typing as npt
import pandas as pd

from sundial.evaluation.intervals import Estimate, paired_bootstrap

UNFORESEEN = "happened, and was scored among the least likely"
FALSE_ALARM = "did not happen, and was scored among the most likely"
NEW = "has a value that the training set did not have"
TOSS_UP = "was scored next to the threshold"
EASY = "came out as it was surely scored"
KINDS = (UNFORESEEN, FALSE_ALARM, NEW, TOSS_UP, EASY)
LARGEST_SHARE = 0.05
WEIGHT = 2.0
EASY_WEIGHT = 0.5
HELP_METRICS = ("roc_auc", "log_loss")


def choose_examples(
    observed: pd.DataFrame,
    *,
    entity: str,
    label: str,
    score: str,
    threshold: float,
    new_values: Mapping[str, Sequence[str]] | None = None,
    largest_share: float = LARGEST_SHARE,
    weight: float = WEIGHT,
    easy_weight: float = EASY_WEIGHT,
) -> pd.DataFrame:
    """Choose hard and easy examples from what production answered.

    Parameters
    ----------
    observed : DataFrame
        A row an answer, with features, score and label; rows without a label are left out.
    entity, label, score : str
        Names of the columns.
    threshold : float
        Scores that reach it were alerts.
    new_values : mapping of str to sequence of str, optional
        Values that the training set did not have, by feature.
    largest_share : float
        Most examples, as a share of the labelled rows; each of the five kinds gets at most a fifth of them.
    weight, easy_weight : float
        What a hard and an easy example count for in training, where an ordinary row counts 1.

    Returns
    -------
    DataFrame
        The chosen rows of `observed`, hardest first in each kind, with ``reason`` and ``weight`` (under the name that
        :func:`weight_column` gives); each entity once.
    """
    rows = observed[observed[label].notna()].drop_duplicates(entity)
    each = int(largest_share * len(rows)) // len(KINDS)
    happened, scores = rows[label].astype(bool), rows[score]
    new = pd.Series(False, index=rows.index)
    for feature, values in (new_values or {}).items():
        new |= rows[feature].astype(str).isin(list(values))
    order: dict[str, Iterable[object]] = {
        UNFORESEEN: scores[happened].sort_values(kind="stable").index,
        FALSE_ALARM: scores[~happened].sort_values(ascending=False, kind="stable").index,
        # the ones that the model was furthest from, first
        NEW: (rows[label].astype("float64") - scores).abs()[new].sort_values(ascending=False, kind="stable").index,
        TOSS_UP: (scores - threshold).abs().sort_values(kind="stable").index,
        # from both ends alike, so that the share of each outcome among them says nothing
        EASY: _alternate(
            scores[happened].sort_values(ascending=False, kind="stable").index,
            scores[~happened].sort_values(kind="stable").index,
        ),
    }
    chosen: dict[object, str] = {}
    for reason, candidates in order.items():
        fresh = [index for index in candidates if index not in chosen]
        chosen |= dict.fromkeys(fresh[:each], reason)
    examples = rows.loc[list(chosen)]
    reasons = list(chosen.values())
    weights = [float(easy_weight if reason == EASY else weight) for reason in reasons]
    return examples.assign(**{weight_column(observed): weights}, reason=reasons).reset_index(drop=True)


def weight_column(names: Iterable[object]) -> str:
    """Give the column that holds what an example counts for: ``weight``, unless that is a feature of the model."""
    return "example_weight" if "weight" in set(names) else "weight"


def _alternate(*orders: Iterable[object]) -> list[object]:
    """Take from several orders in turn, until the shortest ends."""
    return [item for together in zip(*orders, strict=False) for item in together]


def measure_help(
    label: npt.ArrayLike,
    with_examples: npt.ArrayLike,
    without: npt.ArrayLike,
    *,
    clusters: npt.ArrayLike,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Estimate whether examples helped: two models that differ in nothing else, on rows that neither learned from.

    Parameters
    ----------
    label : array of n
        0 or 1.
    with_examples, without : array of n
        Scores of the model that learned with the examples, and of the one that did not.
    clusters : array of n
        Rows of one cluster, such as a day, are drawn together.
    seed : int
        Of the bootstrap.

    Returns
    -------
    dict of str to Estimate
        Paired differences with their 95 % intervals, positive where the examples helped, whatever the metric.
    """
    pair = (label, with_examples, without)
    return {name: paired_bootstrap(*pair, name, clusters=clusters, seed=seed) for name in HELP_METRICS}
