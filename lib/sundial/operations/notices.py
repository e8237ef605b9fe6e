"""Notices: what went wrong, kept where the next person looks, whether or not a message was sent."""

from __future__ import annotations

import fcntl
import json
import logging
from collections.abc import Mapping
from typing import Any

from sundial.pipeline import find_serve_url
from sundial.runs import now
from sundial.settings import Settings

log = logging.getLogger("sundial.notices")


def report_failure(*, flow: str, parameters: Mapping[str, Any], reason: str, settings: Settings) -> str:
    """Write a failure down and say it in one paragraph.

    Parameters
    ----------
    flow : str
        Name of the flow run.
    parameters : mapping
        What it was called with.
    reason : str
        Why it failed.
    settings : Settings
        Where things are.

    Returns
    -------
    str
        What to send to people: pipeline, date, run, cause, report, and the command that looks further.
    """
    run = str(parameters.get("run", ""))
    about = [f"pipeline {parameters.get('pipeline', '?')}"]
    about += [f"as of {parameters['as_of']}"] if parameters.get("as_of") else []
    about += [f"run {run}"] if run else []
    address = find_serve_url(str(parameters.get("pipeline", "")), settings)
    page = f"{address}/reports/{run}/index.html" if run else f"{address}/reports/"
    cause = reason.strip() or "no reason given"
    notice = f"{flow} failed ({', '.join(about)}). {cause}\nReport: {page}\nLook further: sundial status"
    log.error("%s", notice)
    settings.artifacts.mkdir(parents=True, exist_ok=True)
    entry = {"at": now(), "flow": flow, "parameters": dict(parameters), "reason": cause, "report": page}
    with (settings.artifacts / "notices.jsonl").open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps(entry) + "\n")
    return notice


def read_notices(settings: Settings, *, last: int = 10) -> list[dict[str, Any]]:
    """Read the latest notices, oldest first."""
    path = settings.artifacts / "notices.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[-last:]]
