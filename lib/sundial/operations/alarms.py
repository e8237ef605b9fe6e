"""Alarms: what is wrong now. Each is raised once, said to people, and cleared when it is mended.

What stands is in ``artifacts/alarms.json``; flows that fail and the watchdog share it, so that the same fault, seen by
both, is one alarm. A message that could not be sent is tried again at each look.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from sundial.formats import read_json, write_json_atomically
from sundial.operations.notices import send_message, write_notice
from sundial.release.locks import hold_lock
from sundial.runs import now
from sundial.settings import Settings

log = logging.getLogger("sundial.alarms")
Kind = Literal["not started", "not finished", "empty data", "old data", "failed", "server down", "disk full", "clock"]


@dataclass(frozen=True)
class Alarm:
    """Something that is wrong.

    Attributes
    ----------
    key : str
        The same fault has the same key, whoever sees it.
    kind : str
        Which kind of fault.
    cause : str
        What happened, in a sentence.
    pipeline, week, run, stage : str
        Where; empty for what is about none. The week is the release date.
    cell : int or None
        Number of the cell, as a reader counts them; None where none is to blame, or none was reached.
    report : str
        Address of the page that shows it.
    resume : str
        The command that lets it go on once the cause is mended.
    raised_at : str
        In UTC; empty before it was raised.
    unsent : bool
        Whether people are still to be told.
    """

    key: str
    kind: Kind
    cause: str
    pipeline: str = ""
    week: str = ""
    run: str = ""
    stage: str = ""
    cell: int | None = None
    report: str = ""
    resume: str = ""
    raised_at: str = ""
    unsent: bool = False

    @property
    def subject(self) -> str:
        """A line for a list of messages."""
        return " ".join(filter(None, ["Sundial:", self.pipeline, self.week, self.kind]))

    @property
    def text(self) -> str:
        """All that a person needs who has just been woken."""
        where = {
            "Pipeline": self.pipeline,
            "Week": self.week,
            "Run": self.run,
            "Stage": self.stage,
            "Cell": "" if self.cell is None else str(self.cell),
            "Cause": self.cause,
            "Report": self.report,
            "Resume": self.resume,
        }
        return "\n".join(f"{name + ':':<10}{text}" for name, text in where.items() if text)


@dataclass
class Standing:
    """What ``alarms.json`` holds: the alarms that stand, and what the watchdog remembers from look to look."""

    alarms: dict[str, Alarm] = field(default_factory=dict)
    memory: dict[str, Any] = field(default_factory=dict)


def _path(settings: Settings) -> Path:
    return settings.artifacts / "alarms.json"


def read_standing(settings: Settings) -> Standing:
    """Read what stands."""
    if not _path(settings).exists():
        return Standing()
    found = read_json(_path(settings))
    alarms = {key: Alarm(**item) for key, item in found.get("alarms", {}).items()}
    return Standing(alarms, found.get("memory", {}))


def _write(standing: Standing, settings: Settings) -> None:
    alarms = {key: asdict(alarm) for key, alarm in standing.alarms.items()}
    write_json_atomically(_path(settings), {"alarms": alarms, "memory": standing.memory}, durable=True)


def raise_alarms(
    found: Iterable[Alarm],
    settings: Settings,
    *,
    clear: Callable[[Alarm], bool] = lambda _: False,
    memory: dict[str, Any] | None = None,
) -> tuple[list[Alarm], list[Alarm]]:
    """Raise what is new, clear what is mended, and tell people of both.

    Parameters
    ----------
    found : iterable of Alarm
        What is wrong; what stands already is not raised again, but where the cause is known only now.
    settings : Settings
        Where it is kept, and whom to tell.
    clear : callable
        Whether an alarm that stands and was not found is mended.
    memory : dict, optional
        What the watchdog wants to remember.

    Returns
    -------
    tuple of two lists of Alarm
        What was raised and what was cleared.
    """
    at = now()
    seen = {alarm.key: alarm for alarm in found}
    with hold_lock(settings.artifacts / ".alarms.lock"):
        standing = read_standing(settings)
        new = [alarm for key, alarm in seen.items() if _says_more(alarm, standing.alarms.get(key))]
        raised = [replace(alarm, raised_at=at) for alarm in new]
        again = {(alarm.run, alarm.stage) for alarm in raised if alarm.stage}  # failed once more: another alarm
        missing = [alarm for key, alarm in standing.alarms.items() if key not in seen]
        gone = [alarm for alarm in missing if clear(alarm) or _of(alarm) in again]
        for alarm in gone:
            del standing.alarms[alarm.key]
        cleared = [alarm for alarm in gone if _of(alarm) not in again]
        unsent = [alarm for alarm in standing.alarms.values() if alarm.unsent]
        # written before anybody is told: a crash in between says a thing twice at the worst, and never loses it
        standing.alarms |= {alarm.key: replace(alarm, unsent=True) for alarm in raised}
        standing.memory |= memory or {}
        _try(_write, standing, settings)
    for alarm in raised:
        log.error("%s\n%s", alarm.subject, alarm.text)
        entry = {**_about(alarm), "reason": f"{alarm.kind}: {alarm.cause}", **_details(alarm)}
        _try(write_notice, entry, settings)
    for alarm in cleared:
        log.info("%s: mended (%s)", alarm.subject, alarm.cause)
        _try(write_notice, {**_about(alarm), "reason": f"mended: {alarm.cause}", "cleared": alarm.raised_at}, settings)
        if not alarm.unsent:
            send_message(f"{alarm.subject}: mended", alarm.text, settings)
    told = [alarm.key for alarm in (*raised, *unsent) if not send_message(alarm.subject, alarm.text, settings)]
    _mark_sent(told, settings)
    return raised, cleared


def _says_more(alarm: Alarm, standing: Alarm | None) -> bool:
    """Tell whether nobody was told yet, or only that a stage was left, and now why it failed.

    A stage that cannot write down its error, on a full disk, looks as if it was left until its flow has ended.
    """
    if standing is None:
        return True
    known = bool(alarm.stage) and f"{alarm.stage} failed" in alarm.cause
    return (standing.kind, alarm.kind) == ("not finished", "failed") and known


def _try(write: Callable[..., None], *arguments: Any) -> None:
    """Write down what can be written: a full disk is no reason to tell nobody."""
    try:
        write(*arguments)
    except OSError as error:
        log.error("it cannot be written down: %s", error)  # noqa: TRY400  the sentence says it all


def _mark_sent(keys: list[str], settings: Settings) -> None:
    if not keys:
        return
    with hold_lock(settings.artifacts / ".alarms.lock"):
        standing = read_standing(settings)
        for key in keys:
            if key in standing.alarms:
                standing.alarms[key] = replace(standing.alarms[key], unsent=False)
        _try(_write, standing, settings)


def _of(alarm: Alarm) -> tuple[str, str]:
    return alarm.run, alarm.stage


def _about(alarm: Alarm) -> dict[str, Any]:
    about = {"pipeline": alarm.pipeline, "as_of": alarm.week, "run": alarm.run}
    what = " ".join(filter(None, [alarm.pipeline or "Sundial", alarm.week, alarm.stage]))
    return {"flow": what, "parameters": {name: text for name, text in about.items() if text}, "report": alarm.report}


def _details(alarm: Alarm) -> dict[str, Any]:
    return {"kind": alarm.kind, "stage": alarm.stage, "cell": alarm.cell, "resume": alarm.resume, "key": alarm.key}
