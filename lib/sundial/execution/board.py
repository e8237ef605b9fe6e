"""The week board: weeks across, stages down, and at a glance which week is broken, where, and who has to do something.

It is read from the records of the runs, so that it says the same of the real schedule and of a replay. A week without a
release is a column of its own: what did not start is otherwise seen by nobody.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from sundial.formats import read_json
from sundial.pipeline import Pipeline
from sundial.runs import Run, list_runs
from sundial.settings import Settings

WEEK = pd.Timedelta(days=7)
REPORT = "report.html"
GATES = {
    "release": ("release gates", "08_evaluate_business"),
    "comparison": ("comparison gates", "10_compare_shadow"),
    "monitoring": ("monitoring gates", "12_monitor_production"),
}
QUESTIONS = {"approval": "APPROVE", "review": "REVIEW"}


@dataclass(frozen=True)
class Cell:
    """One stage, group of gates or decision of one week.

    Attributes
    ----------
    status : str
        ``succeeded``, ``reused``, ``failed``, ``running``, ``waiting`` (for a person), ``missing`` (a week without a
        release), or empty: not reached, or not due.
    text : str
        What stands in the cell: seconds, gates passed, or a decision.
    seconds : float
        Of a stage.
    title : str
        What a person reads when they point at it.
    href : str
        Page of the executed notebook, from the folder the board was asked for; at the failing cell where one failed.
    """

    status: str = ""
    text: str = ""
    seconds: float = 0.0
    title: str = ""
    href: str = ""


@dataclass(frozen=True)
class Week:
    """One column.

    Attributes
    ----------
    as_of : Timestamp
        Release date.
    run : str
        Name of the run, the last one made for this date; empty when there is none.
    href : str
        Its page.
    attempts : int
        Runs made for this date.
    cells : dict of str to Cell
        By row.
    first_failure : str
        Row of the first failed cell; empty when none failed.
    """

    as_of: pd.Timestamp
    run: str
    href: str
    attempts: int
    cells: Mapping[str, Cell]
    first_failure: str


@dataclass(frozen=True)
class Board:
    """All columns, oldest first.

    Attributes
    ----------
    pipeline : str
        Name.
    rows : tuple of str
        Names of the rows, in the order in which a release passes them.
    weeks : tuple of Week
        Columns.
    """

    pipeline: str
    rows: tuple[str, ...]
    weeks: tuple[Week, ...]


def read_board(
    pipeline: Pipeline, settings: Settings, *, start: Path, weeks: int = 0, until: pd.Timestamp | None = None
) -> Board:
    """Read how the releases of a pipeline stand, week by week.

    Parameters
    ----------
    pipeline : Pipeline
        Which.
    settings : Settings
        Where the runs are.
    start : Path
        Folder of the page that will show it: links lead from there.
    weeks : int
        Only this many of the last ones; all by default.
    until : Timestamp, optional
        Go on to this release date, so that weeks that never started are seen; by default to the last one made.

    Returns
    -------
    Board
    """
    rows = list_rows(pipeline)
    by_date: dict[pd.Timestamp, list[Run]] = {}
    for run in list_runs(pipeline.name, kind="release", settings=settings):
        by_date.setdefault(run.as_of, []).append(run)
    if not by_date:
        return Board(pipeline.name, rows, ())
    last = max([*by_date, until or pd.Timestamp.min])
    grid = pd.date_range(min(by_date), last, freq=WEEK)
    dates = sorted({*by_date, *(date for date in grid if not _is_covered(date, by_date))})[-weeks:]
    newest = max(by_date)
    promoted = [date for date, runs in by_date.items() if any(run.succeeded("11_promote_model") for run in runs)]
    first = min(promoted, default=None)
    columns = [
        _read_week(pipeline, by_date[date], start, is_newest=date == newest, is_first=first is None or date <= first)
        if date in by_date
        else _missing(rows, date)
        for date in dates
    ]
    return Board(pipeline.name, rows, tuple(columns))


def list_rows(pipeline: Pipeline) -> tuple[str, ...]:
    """List the rows of a board: the stages, the gates behind them, and the two decisions before 11 and 13."""
    rows: list[str] = []
    last = pipeline.release_stages[-1] if pipeline.release_stages else ""
    for stage in pipeline.stages:
        question = {"11_promote_model": "approval", "13_review_production": "review"}.get(stage)
        rows += [QUESTIONS[question], stage] if question else [stage]
        step = {last: "release", "10_compare_shadow": "comparison", "12_monitor_production": "monitoring"}.get(stage)
        rows += [GATES[step][0]] if step and getattr(pipeline.gates, step) else []
    return tuple(rows)


def _is_covered(date: pd.Timestamp, by_date: Mapping[pd.Timestamp, Any]) -> bool:
    """Tell whether a release was made in the week of a date, if on another day."""
    return any(date <= made < date + WEEK for made in by_date)


def _missing(rows: tuple[str, ...], date: pd.Timestamp) -> Week:
    cell = Cell("missing", title=f"no release was made as of {date:%Y-%m-%d}")
    return Week(date, "", "", 0, dict.fromkeys(rows, cell), "")


def _read_week(pipeline: Pipeline, runs: list[Run], start: Path, *, is_newest: bool, is_first: bool) -> Week:
    run = runs[-1]
    records = run.stages()
    verdicts = read_file(run, "gates.json", {})
    answers = {item["kind"]: item for item in read_file(run, "decisions.json", [])}
    page = os.path.relpath(run.folder, start)
    cells = {}
    for row in list_rows(pipeline):
        if row in pipeline.stages:
            cells[row] = _stage_cell(row, records.get(row, {}), f"{page}/{row}/{REPORT}")
    for step, (row, _) in GATES.items():
        if step in verdicts:
            cells[row] = _gates_cell(verdicts[step]["results"], f"{page}/index.html#gates-{step}")
    failed = [row for row in list_rows(pipeline) if row in cells and cells[row].status == "failed"]
    waits = {
        "approval": is_newest and _waits_for_approval(records, verdicts, is_first=is_first),
        "review": records.get("12_monitor_production", {}).get("status") == "succeeded" and "monitoring" in verdicts,
    }
    for question, row in QUESTIONS.items():
        cells[row] = _decision_cell(answers.get(question), waits[question], f"{page}/index.html#decisions")
    ordered = {row: cells.get(row, Cell()) for row in list_rows(pipeline)}
    return Week(run.as_of, run.name, f"{page}/index.html", len(runs), ordered, failed[0] if failed else "")


def _stage_cell(stage: str, record: Mapping[str, Any], href: str) -> Cell:
    if not record:
        return Cell()
    seconds = float(record.get("seconds") or 0.0)
    status = str(record.get("status", ""))
    if status == "failed":
        error = record.get("error") or {}
        cell = error.get("cell")
        where = f" in cell {cell}" if cell else ""
        anchor = f"#cell-{cell}" if cell else ""
        title = f"{stage} failed{where}: {error.get('cause') or error.get('message') or ''}"
        return Cell("failed", _short(seconds), seconds, title, href + anchor)
    if record.get("reused"):
        return Cell("reused", "", 0.0, f"{stage} was reused from {record['reused'].get('run', '')}", href)
    return Cell(status, _short(seconds), seconds, f"{stage} {status} in {seconds:.1f} s", href)


def _gates_cell(results: list[dict[str, Any]], href: str) -> Cell:
    failed = [item for item in results if item["status"] == "failed"]
    judged = sum(item["status"] != "skipped" for item in results)
    if failed:
        return Cell("failed", f"{len(failed)} of {judged}", title=failed[0]["sentence"], href=href)
    return Cell("succeeded", str(judged), title=f"all {judged} gates passed", href=href)


def _waits_for_approval(records: Mapping[str, Any], verdicts: Mapping[str, Any], *, is_first: bool) -> bool:
    """Tell whether a candidate has passed all that comes before a person, and nobody has answered."""
    if records.get("09_deploy_shadow", {}).get("status") != "succeeded" or "11_promote_model" in records:
        return False
    if is_first:  # there is no production to compare it with
        return True
    compared = records.get("10_compare_shadow", {}).get("status") == "succeeded"
    return compared and all(item["status"] != "failed" for item in verdicts.get("comparison", {}).get("results", ()))


def _decision_cell(answer: Mapping[str, Any] | None, waits: bool, href: str) -> Cell:
    if answer:
        status = "failed" if answer["decision"] in ("reject", "roll back") else "succeeded"
        title = f"{answer['decision']} by {answer['name']}: {answer['reason']}"
        return Cell(status, str(answer["decision"]), title=title, href=href)
    return Cell("waiting", "waits", title="a person is asked", href=href) if waits else Cell()


def read_file(run: Run, name: str, default: Any) -> Any:
    """Read a JSON file of a run, such as gates.json; what is not there is the default."""
    path = run.folder / name
    return read_json(path) if path.exists() else default


def show_board(board: Board) -> dict[str, Any]:
    """Lay a board out for the template, and for JSON: rows, and weeks with their cells."""
    weeks = [
        {
            "date": f"{week.as_of:%Y-%m-%d}",
            "run": week.run,
            "href": week.href,
            "attempts": week.attempts,
            "first_failure": week.first_failure,
            "cells": {row: asdict(cell) for row, cell in week.cells.items()},
        }
        for week in board.weeks
    ]
    return {"rows": list(board.rows), "weeks": weeks}


def _short(seconds: float) -> str:
    """Write seconds in as few digits as say something: a year of weeks stands side by side."""
    return f"{seconds:.1f}" if seconds < 9.95 else f"{seconds:.0f}"
