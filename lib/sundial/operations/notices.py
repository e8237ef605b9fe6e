"""Notices: what went wrong, kept where the next person looks, whether or not a message was sent."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from sundial.operations.services import prefect_environment
from sundial.pipeline import find_serve_url
from sundial.runs import now
from sundial.settings import Settings

log = logging.getLogger("sundial.notices")
SEND_SECONDS = 60


def find_report(pipeline: str, run: str, settings: Settings, stage: str = "") -> str:
    """Give the address of the page that shows a stage, a run, or all runs."""
    address = f"{find_serve_url(pipeline, settings)}/reports/"
    page = f"{stage}/report.html" if stage else "index.html"
    return f"{address}{run}/{page}" if run else address


def write_notice(entry: Mapping[str, Any], settings: Settings) -> None:
    """Keep a notice: ``flow``, what it is about; ``parameters``, ``reason`` and ``report``; and what else it says."""
    settings.artifacts.mkdir(parents=True, exist_ok=True)
    with (settings.artifacts / "notices.jsonl").open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps({"at": now(), **entry}) + "\n")


def read_notices(settings: Settings, *, last: int = 10) -> list[dict[str, Any]]:
    """Read the latest notices, oldest first."""
    path = settings.artifacts / "notices.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[-last:]]


def send_message(subject: str, text: str, settings: Settings) -> list[str]:
    """Send a message to people, by all ways that the settings name.

    ``notification_url`` needs nobody else. The block of ``notification_block`` is kept by Prefect's server, which must
    be up; a process of its own loads it, since Prefect is none of the framework's imports.

    Parameters
    ----------
    subject, text : str
        What they read.
    settings : Settings
        Says by which ways; none is none.

    Returns
    -------
    list of str
        For each way that failed, how; nothing of it shows a secret.
    """
    failed = []
    url = settings.notification_url.get_secret_value()
    if url:
        import apprise

        sender = apprise.Apprise()
        if not sender.add(url):
            failed.append("SUNDIAL_NOTIFICATION_URL is no address that Apprise knows")
        elif not sender.notify(title=subject, body=text):
            failed.append("SUNDIAL_NOTIFICATION_URL does not take the message")
    if settings.notification_block:
        command = [sys.executable, "-m", "flows.notify", subject]
        environment = {**os.environ, **prefect_environment(settings)}
        try:
            done = subprocess.run(  # noqa: S603  our own program
                command,
                input=text,
                capture_output=True,
                text=True,
                check=False,
                cwd=settings.root,
                env=environment,
                timeout=SEND_SECONDS,
            )
            words = done.stderr.strip().splitlines()[-1:] if done.returncode else []
            failed += [f"block {settings.notification_block}: {line}" for line in words or [""] * bool(done.returncode)]
        except subprocess.TimeoutExpired:
            failed.append(f"block {settings.notification_block}: not sent within {SEND_SECONDS} s")
    for reason in failed:
        log.warning("a message was not sent: %s", reason)
    return failed
