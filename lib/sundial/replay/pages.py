"""The four pages of a replay, and the Parquet behind them: week board, staleness, gates, shift."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from sundial.execution.board import read_board, show_board
from sundial.execution.delivery import measure_delivery
from sundial.execution.pages import write_page
from sundial.execution.runner import finish_pages
from sundial.formats import read_json, write_value
from sundial.replay.gates_page import describe_gates
from sundial.replay.replays import Replay, isolate, read_records
from sundial.replay.scoring import read_scores
from sundial.replay.shift_page import describe_shift
from sundial.replay.staleness_page import describe_staleness
from sundial.runs import list_runs

PAGES = {"board": "Week board", "staleness": "Staleness", "gates": "Gate back-test", "shift": "Shift"}


def render_replay(replay: Replay) -> Path:
    """Make the pages of a replay, of as much as is done.

    Parameters
    ----------
    replay : Replay
        Which.

    Returns
    -------
    Path
        The week board; the other pages are linked from it.
    """
    with isolate(replay.settings):
        for run in list_runs(replay.pipeline.name, settings=replay.settings):
            finish_pages(run, replay.settings)  # a killed process leaves some out
        scores = read_scores(replay)
        described: dict[str, dict[str, Any]] = {"board": describe_board(replay)}
        if scores:
            described["staleness"] = describe_staleness(replay, scores)
            described["gates"] = describe_gates(replay, scores)
            described["shift"] = describe_shift(replay)
    for name, page in described.items():
        _write(replay, name, page, list(described))
    return replay.settings.reports / "board.html"


def describe_board(replay: Replay) -> dict[str, Any]:
    """Describe the week board of a replay, and how long it took."""
    board = read_board(replay.pipeline, replay.settings, start=replay.settings.reports)
    delivery = measure_delivery(replay.pipeline.name, replay.settings)
    lines = [
        {"week": week.as_of, "run": week.run, "row": row, "status": cell.status, "seconds": cell.seconds}
        for week in board.weeks
        for row, cell in week.cells.items()
    ]
    write_value(replay.tables, "board", pd.DataFrame(lines))
    failures = [week for week in board.weeks if week.first_failure]
    error = None
    if failures:
        first = failures[-1].cells[failures[-1].first_failure]
        error = {
            "headline": f"{failures[-1].as_of:%Y-%m-%d} stopped at {failures[-1].first_failure}",
            "cause": first.title,
            "href": first.href,
            "link": "Open it",
        }
    records = read_records(replay).values()
    seconds = sum(float(record["seconds"]) for record in records)
    spent = {"Steps": f"{len(records):,}", "Steps took": f"{seconds / 60:,.0f} minutes in all"}
    sections = [
        {
            "id": "board",
            "title": "Weeks across, stages down",
            "prose": ["Each cell is a stage of a week and leads to its executed notebook; the number is its seconds."],
            "board": show_board(board),
        }
    ]
    if delivery is not None:
        sections.append(
            {
                "id": "delivery",
                "title": "Delivery, as DORA counts it",
                "prose": [
                    "Lead time is from the release date, up to which a candidate has seen the world, to its promotion. "
                    "A release has failed when the monitoring's gates failed or the review did not keep it; time to "
                    "restore is from its promotion to the next one. What was stopped before production has not failed: "
                    "it is counted beside it. (Forsgren, Humble and Kim 2018, Accelerate, ch. 2.)"
                ],
                "table": {"head": ["figure", "value"], "rows": list(delivery.as_facts().items())},
            }
        )
    return {
        "lead": f"{len(replay.weeks)} weeks, decided by {replay.approve!r}: a policy in the place of a person.",
        "facts": spent,
        "error": error,
        "sections": sections,
    }


def _write(replay: Replay, name: str, page: Mapping[str, Any], names: list[str]) -> Path:
    asked = read_json(replay.folder / "replay.json")
    facts = {
        "Replay": replay.name,
        "Weeks": f"{replay.weeks[0]:%Y-%m-%d} to {replay.weeks[-1]:%Y-%m-%d}",
        "Commit": str(asked.get("commit", ""))[:10] + (", with changes" if asked.get("dirty") else ""),
    }
    sections = [{"prose": [], "notes": [], "figures": [], **section} for section in page["sections"]]
    trail = [{"text": PAGES[other], "href": "" if other == name else f"{other}.html"} for other in names]
    return write_page(
        "article",
        replay.settings.reports / f"{name}.html",
        {
            "kicker": f"{replay.pipeline.name} · replay",
            "title": PAGES[name],
            "lead": page["lead"],
            "facts": {**facts, **page.get("facts", {})},
            "error": page.get("error"),
            "trail": [*trail, {"text": "Runs", "href": "index.html"}],
            "sections": sections,
            "contents": [{"id": section["id"], "text": section["title"]} for section in sections],
            "footer": f"The tables behind these pages are Parquet, in {replay.tables}.",
        },
    )
