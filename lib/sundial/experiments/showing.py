"""What an experiment found, as text and as a page: the same tables, and on the page what was changed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sundial.execution.pages import show_number, write_page
from sundial.execution.parameters import INJECTED_TAG, read_notebook
from sundial.experiments.comparing import took
from sundial.experiments.running import Result
from sundial.runs import Run
from sundial.scraps import from_plain

PAGE = "experiment.html"
NAMES = {
    "roc_auc": "ROC AUC",
    "average_precision": "average precision",
    "log_loss": "log loss",
    "brier": "Brier score",
    "calibration_error": "calibration error",
    "recall": "recall",
    "precision": "precision",
    "value": "money per 1,000",
}


def list_rows(comparison: Mapping[str, Any], part: str = "metrics") -> list[list[str]]:
    """Lay out the metrics of a comparison, a row each: name, production, experiment, difference, interval.

    Parameters
    ----------
    comparison : mapping
        As :func:`compare_runs` gives it.
    part : {'metrics', 'last'}
        All rows, or the first set.
    """
    lines = []
    for name, item in from_plain(comparison[part]).items():
        difference = item["difference"]
        lines.append(
            [
                NAMES.get(name, name),
                show_number(item["production"]["estimate"]),
                show_number(item["experiment"]["estimate"]),
                _signed(difference["estimate"]),
                f"{_signed(difference['low'])} to {_signed(difference['high'])}",
            ]
        )
    return lines


def list_sets(comparison: Mapping[str, Any]) -> list[list[str]]:
    """Lay out the sets of a comparison, a row each: name, rows, verdict, money and ROC AUC with their intervals."""
    lines = []
    for name, item in from_plain(comparison["sets"]).items():
        figures = [_interval(item[look]) if look in item else "" for look in ("value", "roc_auc")]
        lines.append([name, show_number(item["rows"]), item["verdict"], *figures])
    return lines


def list_segments(comparison: Mapping[str, Any]) -> list[list[str]]:
    """Lay out the groups to look at, a row each: name, rows, verdict, money with its interval."""
    groups = from_plain(comparison["segments"])["groups"]
    return [
        [item["name"], show_number(item["value"]["rows"]), item["verdict"], _interval(item["value"])] for item in groups
    ]


def conclude(comparison: Mapping[str, Any]) -> str:
    """Say in a few sentences what was compared, how, and who is hurt."""
    hurt, segments, left = comparison["hurt"], comparison["segments"], comparison["left_out"]
    return (
        f"Against {comparison['against']} ({comparison['base']}), on {show_number(comparison['rows'])} rows that both "
        f"scored" + (f"; {show_number(left)} rows are in one only" if left else "") + ". "
        "Differences are paired, positive where the experiment is better, with 95 % intervals over whole days. "
        + (f"Hurt: {', '.join(hurt)}. " if hurt else "Nobody is shown to be hurt. ")
        + (
            f"({segments['judged']} groups of the segments were judged by money, as the gates do; "
            f"{segments['too_small']} are too small. {segments['method']}.)"
            if segments["judged"]
            else ""
        )
    )


def print_results(results: Iterable[Result]) -> None:
    """Print what each experiment found beside production."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(width=120, highlight=False)
    for result in results:
        name = result.run.manifest().get("name", result.run.name)
        console.print(f"\n{name}, as of {result.run.as_of:%Y-%m-%d}  ({result.run.name})", markup=False)
        if result.error:
            console.print(f"failed: {result.error}", markup=False)
            continue
        if not result.comparison:
            console.print("There is no release of that date to compare with.", markup=False)
            continue
        found = result.comparison
        for title, part in (("all rows", "metrics"), (found["first_set"], "last")):
            table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
            for heading in (title, "production", "experiment", "difference", "95 % interval"):
                table.add_column(heading, justify="left" if heading == title else "right")
            for row in list_rows(found, part):
                table.add_row(*row)
            console.print(table)
        console.print(conclude(found), markup=False)
        records = result.run.stages()
        ran = [stage for stage, record in records.items() if not record.get("reused")]
        console.print(f"Of {len(records)} stages {len(ran)} ran: {', '.join(ran) or 'none'}.", markup=False)
        before = found["seconds"]
        print(f"From start to comparison: {result.seconds:.1f} s; the stages of the release took {before:.1f} s.")
        print(result.run.folder / PAGE)


def render_experiment(result: Result) -> Path:
    """Render the page of an experiment.

    Parameters
    ----------
    result : Result
        After its comparison.

    Returns
    -------
    Path
        ``experiment.html`` in the folder of its run; it opens offline.
    """
    run, found = result.run, result.comparison
    manifest = run.manifest()
    parts = [(f"Metrics, {name}", part) for name, part in (("all rows", "metrics"), (found["first_set"], "last"))]
    tables = [{"title": title, "rows": list_rows(found, part)} for title, part in parts]
    diffs = [
        {"title": stage, "lines": lines} for stage in run.stages() if (lines := diff_stage(result.base, run, stage))
    ]
    seconds = [
        {
            "name": stage,
            "seconds": record.get("seconds"),
            "reused": (record.get("reused") or {}).get("run", ""),
            "before": None if result.base is None else took(result.base.stage_record(stage)),
        }
        for stage, record in run.stages().items()
    ]
    contents = [
        ("metrics", "Metrics"),
        ("segments", "Segments"),
        ("sets", "Sets"),
        ("stages", "Stages"),
        ("changes", "What was changed"),
    ]
    return write_page(
        "experiment",
        run.folder / PAGE,
        {
            "kicker": f"{run.pipeline} · experiment",
            "title": str(manifest.get("name") or run.name),
            "lead": conclude(found),
            "facts": {
                "As of": f"{run.as_of:%Y-%m-%d}",
                "Run": run.name,
                "Started by": manifest.get("started_by") or "unknown",
                "Seconds": f"{result.seconds:.1f}",
            },
            "trail": [
                {"text": "Runs", "href": "../../reports/index.html"},
                {"text": run.name, "href": "index.html"},
                {"text": "comparison", "href": ""},
            ],
            "contents": [{"id": name, "text": text} for name, text in contents],
            "tables": tables,
            "segments": list_segments(found),
            "sets": list_sets(found),
            "stages": seconds,
            "diffs": diffs,
            "footer": "The numbers behind this page: comparison.json beside it.",
        },
    )


def diff_stage(before: Run | None, after: Run, stage: str) -> list[dict[str, str]]:
    """Compare what a stage was run with in two runs: its parameters, and the sources of its cells.

    Parameters
    ----------
    before, after : Run
        The two runs.
    stage : str
        Name of the stage.

    Returns
    -------
    list of dict
        ``kind`` (``same``, ``added``, ``removed`` or ``place``) and ``text``, as in a unified diff; empty when nothing
        differs.
    """
    if before is None:
        return []
    lines = difflib.unified_diff(_lines_of(before, stage), _lines_of(after, stage), lineterm="", n=2)
    kinds = {"+": "added", "-": "removed", "@": "place"}
    return [
        {"kind": kinds.get(line[:1], "same"), "text": line} for line in lines if not line.startswith(("+++", "---"))
    ]


def _lines_of(run: Run, stage: str) -> list[str]:
    """List the parameters and the cells of an executed stage, line by line."""
    path = run.stage_folder(stage) / "notebook.ipynb"
    if not path.is_file():
        return []
    given = run.stage_record(stage).get("parameters", {})
    lines = [f"{name} = {value!r}  (given)" for name, value in sorted(given.items()) if name != "run"]
    for cell in read_notebook(path).cells:
        if INJECTED_TAG not in cell.metadata.get("tags", []):
            lines += [f"[{cell.cell_type}]", *cell.source.splitlines()]
    return lines


def _signed(value: Any) -> str:
    text = show_number(value)
    return f"+{text}" if isinstance(value, int | float) and value > 0 else text


def _interval(estimate: Mapping[str, Any]) -> str:
    low, high = _signed(estimate["low"]), _signed(estimate["high"])
    return f"{_signed(estimate['estimate'])} ({low} to {high})"
