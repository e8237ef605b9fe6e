"""What the terminal shows: the summary of a demo, and the status of a pipeline."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psutil
from rich.console import Console
from rich.table import Table

from sundial.formats import read_json
from sundial.settings import Settings

if TYPE_CHECKING:
    from sundial.operations.loop import Loop
    from sundial.release.tenures import Tenure

SAMPLE_SECONDS = 2.0


class PeakMemory:
    """Measures the most memory that this process and all that it started held at once.

    The proportional set size counts a page that two processes share as half a page for each, so that the sum is what
    the machine needs. Sampled every two seconds: a shorter peak may be missed.

    Attributes
    ----------
    peak : int
        Bytes.
    """

    def __init__(self) -> None:
        self.peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory", daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        me = psutil.Process(os.getpid())
        while not self._stop.wait(SAMPLE_SECONDS):
            total = 0
            for process in [me, *me.children(recursive=True)]:
                with suppress(psutil.Error):
                    memory = process.memory_full_info()
                    total += getattr(memory, "pss", memory.rss)
            self.peak = max(self.peak, total)


def print_summary(loop: Loop, *, seconds: float, peak_bytes: int) -> None:
    """Print what a demo did: versions, gates, decisions, seconds per stage, and where the reports are.

    Parameters
    ----------
    loop : Loop
        After its turn.
    seconds : float
        How long it took.
    peak_bytes : int
        See :class:`PeakMemory`.
    """
    console = Console(width=None if os.isatty(1) else 110)
    console.print()
    table = Table(title="Releases", title_justify="left")
    for column in ("run", "as of", "version", "gates passed", "decision", "by"):
        table.add_column(column)
    for run in loop.runs:
        found = next((item for item in loop.registry.versions(loop.pipeline.name) if item.run == run.name), None)
        verdicts = read_json(run.folder / "gates.json") if (run.folder / "gates.json").exists() else {}
        results = [item for step in verdicts.values() for item in step["results"]]
        counts = [sum(item["status"] == status for item in results) for status in ("passed", "skipped", "failed")]
        gates = f"{counts[0]} of {len(results) - counts[1]}" + (f", {counts[1]} skipped" if counts[1] else "")
        decided = [item for item in loop.decided if item.run == run.name]
        table.add_row(
            run.name,
            f"{run.as_of:%Y-%m-%d}",
            str(found.version) if found else "",
            gates,
            "\n".join(f"{item.question}: {item.decision}" for item in decided),
            "\n".join(item.name for item in decided),
        )
    console.print(table)

    table = Table(title="Seconds per stage", title_justify="left")
    table.add_column("stage")
    for run in loop.runs:
        table.add_column(f"{run.as_of:%Y-%m-%d}", justify="right")
    for stage in loop.pipeline.stages:
        spent = [run.stage_record(stage).get("seconds") for run in loop.runs]
        table.add_row(stage, *("" if value is None else f"{value:.1f}" for value in spent))
    console.print(table)

    table = Table(title="Requests", title_justify="left")
    for column in ("week", "sent", "failed", "answered by", "p50 ms", "p99 ms", "seconds"):
        table.add_column(column)
    for name, result in loop.replays.items():
        table.add_row(
            name,
            f"{result.sent:,}",
            str(result.failed),
            ", ".join(f"v{version}: {count:,}" for version, count in sorted(result.versions.items())),
            f"{result.quantile(0.5):.1f}",
            f"{result.quantile(0.99):.1f}",
            f"{result.seconds:.0f}",
        )
    console.print(table)
    console.print(f"{seconds:.0f} s, {peak_bytes / 2**30:.2f} GiB at the most", highlight=False)
    console.print(f"Reports: {loop.settings.reports / 'index.html'}", highlight=False, soft_wrap=True)
    console.print("Next: make lab (the notebooks), make up (the long-lived system), sundial status", highlight=False)


SAID = {
    "succeeded": "{}",
    "reused": "reused",
    "failed": "FAILED {}",
    "running": "runs",
    "waiting": "WAITS",
    "missing": "none",
}
COLORS = {"failed": "red", "waiting": "yellow", "missing": "red", "running": "yellow", "succeeded": "green"}


def print_board(found: dict[str, Any], console: Console) -> None:
    """Print the week board and the figures of delivery: weeks across, stages down, the first failure of each named."""
    board = found["board"]
    if not board["weeks"]:
        return
    table = Table(title="Weeks", title_justify="left", padding=(0, 0), pad_edge=False, show_edge=False)
    table.add_column("", no_wrap=True)
    for week in board["weeks"]:
        table.add_column(week["date"][2:], justify="right", no_wrap=True)
    for row in board["rows"]:
        cells = [week["cells"][row] for week in board["weeks"]]
        texts = [SAID.get(cell["status"], "").format(cell["text"])[:10] for cell in cells]
        styles = [COLORS.get(cell["status"], "dim") for cell in cells]
        table.add_row(row, *(f"[{style}]{text}[/]" for text, style in zip(texts, styles, strict=True)))
    console.print()
    console.print(table)
    for week in board["weeks"]:
        if week["first_failure"]:
            why = week["cells"][week["first_failure"]]["title"]
            console.print(f"  {week['date']}: {why}", highlight=False, markup=False, soft_wrap=True)
    facts = ", ".join(f"{name.lower()} {value}" for name, value in board["facts"].items())
    console.print(f"Delivery: {facts}", highlight=False, markup=False, soft_wrap=True)


def print_status(found: dict[str, Any], settings: Settings) -> None:
    """Print what :func:`sundial.operations.status.read_status` collected."""
    console = Console(width=None if os.isatty(1) else 110)
    say = console.print
    for alias, version in found["aliases"].items():
        text = "none" if version is None else f"version {version['version']} of {version['run']}"
        say(f"{alias:<14}{text}", highlight=False, soft_wrap=True)
    server = found["server"]
    answering = f"version {server.get('version')} at {found['address']}" if server else "down"
    say(f"{'model server':<14}{answering}", highlight=False)
    say(f"{'Prefect':<14}{'up at ' if found['prefect'] else 'down at '}{settings.prefect_api_url}", highlight=False)
    if found["watch"]:
        say(f"{'watch':<14}{found['watch']['state']}: {found['watch']['said']}", highlight=False, soft_wrap=True)
    for alarm in found["alarms"]:
        where = " ".join(filter(None, [alarm["pipeline"], alarm["week"]]))
        say(f"\nALARM since {alarm['raised_at'][:16]} UTC, {where} {alarm['kind']}", style="bold red", highlight=False)
        say(f"  {alarm['cause']}\n  {alarm['report']}\n  {alarm['resume']}", highlight=False, soft_wrap=True)
    for title, key in (("Waits for a person", "questions"), ("Comes next", "scheduled"), ("Failed", "failed")):
        if found[key]:
            say(f"\n{title}")
        for entry in found[key][:6]:
            when = entry["at"][:16] if key == "scheduled" else ""
            why = f": {entry['message']}" if key == "failed" and entry["message"] else ""
            say(f"  {when} {entry['name'] or entry['flow']}{why}\n    {entry['link']}", highlight=False, soft_wrap=True)
    for week in found["weeks"]:
        due = week["due"][:16].replace("T", " ")
        what = f"the review of version {week['version']}, {week['since'][:10]} to {week['until'][:10]},"
        said = {
            "maturing": f"opens on {week['opens'][:10]}, when its labels are mature",
            "open": f"is open, and due by {due} UTC",
            "overdue": f"is OVERDUE since {due} UTC: sundial approve",
            "answered": f"was answered: {week['answer']}",
        }[week["state"]]
        say(f"  {what} {said}", style="bold red" if week["state"] == "overdue" else None, highlight=False)
    if found["notices"] and not found["failed"]:
        say("\nLatest notices")
        for notice in found["notices"]:
            say(f"  {notice['at']} {notice['flow']}: {notice['reason']}", highlight=False, soft_wrap=True)
    print_board(found, console)
    if found["runs"]:
        table = Table(title="Latest runs", title_justify="left")
        for column in ("run", "as of", "succeeded", "failed"):
            table.add_column(column)
        for run in found["runs"]:
            stages = run["stages"]
            failed = ", ".join(name for name, state in stages.items() if state == "failed")
            table.add_row(run["run"], run["as_of"], str(sum(s == "succeeded" for s in stages.values())), failed)
        say()
        say(table)


def print_tenures(tenures: list[Tenure], *, at: str = "", clock: str = "clock") -> None:
    """Print who was in production, one line a stay; a single one in full.

    Parameters
    ----------
    tenures : list of Tenure
        Oldest first.
    at : str
        The moment that was asked for, if one was.
    clock : {'clock', 'data'}
        Which time the moment was taken in.
    """
    console = Console(width=None if os.isatty(1) else 130)
    if at:
        (one,) = tenures
        when = "by the clock, UTC" if clock == "clock" else "in the time of the data"
        held = "nothing was" if one.version is None else f"version {one.version} was"
        console.print(f"{held} in production at {at} ({when})", highlight=False)
        lines = {
            "since": _span(one.since, one.as_of),
            "until": _span(one.until, one.as_of_until) if one.until else "now",
            "put there by": f"{one.by or 'unknown'} ({one.kind or 'move'}): {one.reason}",
            "approved by": f"{one.approved_by} ({one.proof or 'name only'}) at {one.approved_at}"
            * bool(one.approved_by),
            "evidence": one.evidence,
            "page signed": one.page,
            "made by run": one.run,
        }
        for label, text in lines.items():
            if text:
                console.print(f"  {label:<14}{text}", highlight=False, soft_wrap=True)
        return
    table = Table(title="In production", title_justify="left")
    for column in ("version", "since (UTC)", "of the data", "put there by", "approved by", "proof", "evidence", "run"):
        table.add_column(column)
    for one in tenures:
        table.add_row(
            "none" if one.version is None else str(one.version),
            one.since[:19].replace("T", " "),
            one.as_of[:10],
            f"{one.by} ({one.kind})" if one.kind else one.by,
            one.approved_by,
            one.proof,
            one.evidence[:12],
            one.run,
        )
    console.print(table)


def _span(moment: str, as_of: str) -> str:
    return f"{moment[:19].replace('T', ' ')} UTC" + (f" (of the data: {as_of[:10]})" if as_of else "")
