"""The page that shows who is asked about: shares of segments over the weeks, and what appeared when."""

from __future__ import annotations

from typing import Any

import pandas as pd

from sundial.evaluation.segments import add_segments
from sundial.formats import write_value
from sundial.monitoring.shift import count_segments, measure_shift, share_by_week
from sundial.replay.charts import draw_lines, draw_shares
from sundial.replay.replays import WEEK, Replay
from sundial.replay.scoring import read_answers

MOST_VALUES = 200  # a text with more values than this is a name, and no segment


def describe_shift(replay: Replay) -> dict[str, Any]:
    """Describe the shares of the pipeline's segments, and of the other categories that the models take."""
    answers = read_answers(replay, replay.weeks[0], replay.end)
    week = replay.weeks[0] + (answers[replay.pipeline.event_time] - replay.weeks[0]) // WEEK * WEEK
    answers = add_segments(answers, replay.pipeline.segments)
    columns = find_columns(replay, answers)
    counted = count_segments(answers, week, columns)
    write_value(replay.tables, "shift", counted)
    new = counted[counted["new"]]
    sections = [_describe_new(new)]
    psi = {}
    for column in columns:
        shares = share_by_week(counted, column)
        psi[column] = measure_shift(counted, column)
        appeared = new[new["segment"] == column].groupby("week")["value"].agg(", ".join)
        marks = {} if len(appeared) > 12 else dict(appeared)
        figure = {
            "src": draw_shares(100 * shares / 100, title=f"Share of requests by {column}", marks=marks),
            "alt": f"Share of requests by {column}, week by week",
        }
        ends = pd.DataFrame({"first week": shares.iloc[0], "last week": shares.iloc[-1]})
        rows = [
            [name, *(round(100 * share, 2) for share in line)]
            for name, line in zip(ends.index, ends.to_numpy(), strict=True)
        ]
        sections.append(
            {
                "id": f"segment-{column}",
                "title": column,
                "figures": [figure],
                "table": {"head": [column, "first week, %", "last week, %"], "rows": rows},
            }
        )
    sections.append(
        {
            "id": "distance",
            "title": "How far from the first week",
            "prose": ["Population stability index of each week's shares: 0.1 is worth a look, 0.25 is a shift."],
            "figures": [
                {
                    "src": draw_lines(pd.DataFrame(psi), title="Distance from the first week", ylabel="PSI"),
                    "alt": "Population stability index of each segment column, week by week",
                }
            ],
        }
    )
    return {
        "lead": f"{len(answers):,} requests; {len(new)} values of {len(columns)} columns appeared later.",
        "facts": {"Columns": ", ".join(columns)},
        "sections": sections,
    }


def find_columns(replay: Replay, answers: pd.DataFrame) -> list[str]:
    """List the segment columns, and after them the other texts with few enough values to be segments."""
    known = {"request_id", replay.pipeline.entity}
    texts = [
        str(name)
        for name in answers
        if name not in known and not pd.api.types.is_numeric_dtype(answers[name]) and not _is_time(answers[name])
    ]
    few = [name for name in texts if answers[name].nunique() <= MOST_VALUES]
    return list(dict.fromkeys([*(segment.name for segment in replay.pipeline.segments), *few]))


def _is_time(column: pd.Series) -> bool:
    return bool(pd.api.types.is_datetime64_any_dtype(column))


def _describe_new(new: pd.DataFrame) -> dict[str, Any]:
    lines = new.sort_values(["week", "segment", "rows"], ascending=[True, True, False])
    rows = [
        [f"{line['week']:%Y-%m-%d}", line["segment"], line["value"], line["rows"], round(100 * line["share"], 3)]
        for line in lines.to_dict("records")
    ]
    return {
        "id": "new",
        "title": "New in the week it appeared",
        "prose": ["A value is new in the first week whose requests have it. In the replay's first week nothing is."],
        "table": {"head": ["week", "column", "value", "requests", "% of the week"], "rows": rows},
        "notes": [] if rows else ["None appeared."],
    }
