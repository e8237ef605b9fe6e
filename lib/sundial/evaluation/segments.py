"""Requests cut into segments and counted: all that a comparison segment by segment needs, in one pass.

Every figure about decisions follows from how many requests there were of each kind: which segment, which day, what
happened, what production decided, what the shadow decided. Counting is done by DuckDB, on tables that need not fit
into memory; what comes back is small, whatever the number of requests.
"""

from __future__ import annotations

from collections.abc import Sequence

import duckdb
import pandas as pd

from sundial.declarations import SegmentSpec
from sundial.errors import DataError, nearest

MISSING = "(missing)"
#: Between the values of a segment that is made of several columns.
JOINT = "-"
WHO = ("production", "shadow")
CELLS = ("segment", "of", "day", "label", "production", "shadow", "rows")


def add_segments(frame: pd.DataFrame, segments: Sequence[SegmentSpec]) -> pd.DataFrame:
    """Add a column for each segment, with the name of the group that a row belongs to.

    Parameters
    ----------
    frame : DataFrame
        With the columns that the segments are made of.
    segments : sequence of SegmentSpec
        Of the pipeline.

    Returns
    -------
    DataFrame
        A copy. A segment of one column that bears its name is left as it is; the values of others are text, joined
        by a dash where there are several.

    Raises
    ------
    DataError
        When a column is not there, or a segment would overwrite one.
    """
    _check_columns(list(frame.columns), segments)
    added: dict[str, pd.Series] = {}
    for segment in segments:
        if segment.columns == (segment.name,):
            continue
        if segment.name in frame.columns:
            raise DataError(
                f"segment {segment.name!r} has the name of a column of the rows, and is made of others",
                hint="give it another name in pipeline.yaml",
            )
        parts = [frame[column].astype("str").where(frame[column].notna(), MISSING) for column in segment.columns]
        added[segment.name] = _join_names(parts)
    return frame.assign(**added)


def join_relations(
    log: duckdb.DuckDBPyRelation,
    scores: duckdb.DuckDBPyRelation,
    labels: duckdb.DuckDBPyRelation,
    *,
    entity: str,
    label: str,
) -> duckdb.DuckDBPyRelation:
    """Put log, shadow scores and labels into one row a request, as `join_answers` does, without holding them.

    Parameters
    ----------
    log : relation
        Prediction log, each request once: ``key``, `entity`, ``score``, ``decision`` and whatever else was kept.
    scores : relation
        Of the shadow: ``key`` of the row in the log, ``score``, ``decision``.
    labels : relation
        `entity` and `label`, one row an entity, only the mature ones.
    entity, label : str
        Names of the columns.

    Returns
    -------
    relation
        Lazy: nothing is read before something is asked of it.
    """
    ours = log.select(
        duckdb.StarExpression(exclude=["score", "decision"]),
        duckdb.ColumnExpression("score").alias("production_score"),
        duckdb.ColumnExpression("decision").alias("production_decision"),
    ).set_alias("ours")
    theirs = scores.select(
        duckdb.ColumnExpression("key").alias("shadow_key"),
        duckdb.ColumnExpression("score").alias("shadow_score"),
        duckdb.ColumnExpression("decision").alias("shadow_decision"),
    ).set_alias("theirs")
    known = labels.select(
        duckdb.ColumnExpression(entity).alias("label_entity"), duckdb.ColumnExpression(label)
    ).set_alias("known")
    both = ours.join(theirs, "key = shadow_key", how="left")
    return both.join(known, f"{_quote(entity)} = label_entity", how="left")


def count_cells(
    joined: pd.DataFrame | duckdb.DuckDBPyRelation,
    segments: Sequence[SegmentSpec],
    *,
    label: str,
    event_time: str = "event_time",
    shadow_threshold: float | None = None,
) -> pd.DataFrame:
    """Count the requests that both models scored, by segment, day, outcome and both decisions.

    Parameters
    ----------
    joined : DataFrame or relation
        A row a request, as `sundial.evaluation.comparison.join_answers` and `join_relations` make it.
    segments : sequence of SegmentSpec
        Of the pipeline.
    label, event_time : str
        Names of the columns.
    shadow_threshold : float, optional
        Decide anew: the shadow alerts where its score reaches this.

    Returns
    -------
    DataFrame
        ``segment``, ``of`` (its value), ``day``, ``label`` (0, 1, or NaN while it is not mature), ``production`` and
        ``shadow`` (decisions), ``rows``; only what occurs. Rows of a day share what made them hard: days are kept
        apart so that they can be the unit of a test.

    Raises
    ------
    DataError
        When a column is not there.
    """
    needed = dict.fromkeys(column for segment in segments for column in segment.columns)
    _check_columns(list(joined.columns), segments)
    if not segments:
        return pd.DataFrame(columns=list(CELLS))
    names = {column: f"c{number}" for number, column in enumerate(needed)}
    columns = ", ".join(f"{_quote(column)} AS {name}" for column, name in names.items())
    sets = ", ".join(
        "(" + ", ".join([*(names[column] for column in segment.columns), "day", "label", "production", "shadow"]) + ")"
        for segment in segments
    )
    decided = "shadow_decision" if shadow_threshold is None else f"shadow_score >= {float(shadow_threshold)!r}"
    # counted twice: first all combinations that occur, then those are few enough to be added up for each segment
    query = f"""
        WITH answers AS (
            SELECT {columns}, CAST({_quote(event_time)} AS DATE) AS day,
                CASE WHEN isnan(CAST({_quote(label)} AS DOUBLE)) THEN NULL
                    ELSE CAST({_quote(label)} AS TINYINT) END AS label,
                CAST(production_decision AS BOOLEAN) AS production, CAST({decided} AS BOOLEAN) AS shadow
            FROM joined
            WHERE production_score IS NOT NULL AND NOT isnan(CAST(production_score AS DOUBLE))
                AND shadow_score IS NOT NULL AND NOT isnan(CAST(shadow_score AS DOUBLE))
        ), combinations AS (SELECT *, count(*) AS rows FROM answers GROUP BY ALL)
        SELECT GROUPING({", ".join(names.values())}) AS grouped, {", ".join(names.values())},
            day, label, production, shadow, CAST(sum(rows) AS BIGINT) AS rows
        FROM combinations GROUP BY GROUPING SETS ({sets})
    """  # noqa: S608  the names are quoted
    if isinstance(joined, pd.DataFrame):
        wanted = [*needed, event_time, label, *(f"{who}_{what}" for who in WHO for what in ("score", "decision"))]
        with duckdb.connect() as connection:
            found = _ask(connection.from_df(joined[list(dict.fromkeys(wanted))]), query)
    else:
        found = _ask(joined, query)
    return _name_cells(found, segments, names)


def _ask(joined: duckdb.DuckDBPyRelation, query: str) -> pd.DataFrame:
    answer = joined.query("joined", query)
    assert answer is not None  # noqa: S101  only statements that are no SELECT have no answer
    found: pd.DataFrame = answer.df()
    return found


def _name_cells(found: pd.DataFrame, segments: Sequence[SegmentSpec], names: dict[str, str]) -> pd.DataFrame:
    """Split what came back by segment, and write each group as people call it."""
    positions = list(names)
    parts = []
    for segment in segments:
        # a column that is not grouped by has its bit set, the first column the highest
        grouped = sum(
            1 << (len(positions) - 1 - place) for place, column in enumerate(positions) if column not in segment.columns
        )
        rows = found[found["grouped"] == grouped]
        values = [rows[names[column]].astype("object") for column in segment.columns]
        of = _join_names([value.where(value.notna(), MISSING).astype("str") for value in values])
        parts.append(rows.assign(segment=segment.name, of=of)[list(CELLS)])
    cells = pd.concat(parts, ignore_index=True)
    cells["day"] = pd.to_datetime(cells["day"])
    cells["label"] = cells["label"].astype("float64")
    order = ["segment", "of", "day", "label", "production", "shadow"]
    return cells.sort_values(order, ignore_index=True)


def _join_names(parts: list[pd.Series]) -> pd.Series:
    name = parts[0]
    for part in parts[1:]:
        name = name + JOINT + part
    return name


def _check_columns(there: Sequence[str], segments: Sequence[SegmentSpec]) -> None:
    for segment in segments:
        for column in segment.columns:
            if column not in there:
                raise DataError(
                    f"segment {segment.name!r} needs a column {column!r}, which the rows do not have",
                    hint=nearest(column, there),
                )


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
