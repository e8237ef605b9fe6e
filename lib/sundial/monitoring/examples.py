"""Which of production's answers the next model should look at twice.

Chosen are rows that taught something: the outcome contradicted a confident score, or nothing like them was in the
training set, or the score was a toss-up. They are few and lightly weighted on purpose. Rows picked because a model was
wrong about them are not a fair sample: with many of them, or heavy ones, the next model would learn their outcome as
the usual one, and its probabilities would no longer mean what they say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

UNFORESEEN = "happened, and was scored among the least likely"
FALSE_ALARM = "did not happen, and was scored among the most likely"
NEW = "has a value that the training set did not have"
TOSS_UP = "was scored next to the threshold"
LARGEST_SHARE = 0.05
WEIGHT = 2.0


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
) -> pd.DataFrame:
    """Choose hard examples from what production answered.

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
        Most examples, as a share of the labelled rows; each of the four kinds gets at most a quarter of them.
    weight : float
        What an example counts for in training, where an ordinary row counts 1.

    Returns
    -------
    DataFrame
        The chosen rows of `observed`, hardest first in each kind, with ``weight`` and ``reason``; each entity once.
    """
    rows = observed[observed[label].notna()].drop_duplicates(entity)
    each = int(largest_share * len(rows)) // 4
    happened, scores = rows[label].astype(bool), rows[score]
    new = pd.Series(False, index=rows.index)
    for feature, values in (new_values or {}).items():
        new |= rows[feature].astype(str).isin(list(values))
    order = {
        UNFORESEEN: scores[happened].sort_values(kind="stable").index,
        FALSE_ALARM: scores[~happened].sort_values(ascending=False, kind="stable").index,
        # the ones that the model was furthest from, first
        NEW: (rows[label].astype("float64") - scores).abs()[new].sort_values(ascending=False, kind="stable").index,
        TOSS_UP: (scores - threshold).abs().sort_values(kind="stable").index,
    }
    chosen: dict[object, str] = {}
    for reason, candidates in order.items():
        fresh = [index for index in candidates if index not in chosen]
        chosen |= dict.fromkeys(fresh[:each], reason)
    examples = rows.loc[list(chosen)]
    return examples.assign(weight=float(weight), reason=list(chosen.values())).reset_index(drop=True)
