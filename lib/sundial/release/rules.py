"""What a page shows that stands in no run: the rules of pipeline.yaml and of the settings when it was asked.

A rule that is changed between the question and the answer makes the page that was read an untrue one: it named who may
sign, and how. A question therefore keeps what it showed, and an answer under other rules is refused.
"""

from __future__ import annotations

from collections.abc import Mapping

from sundial.pipeline import Pipeline
from sundial.release.codes import needs_code
from sundial.settings import Settings


def read_rules(pipeline: Pipeline, settings: Settings) -> dict[str, str]:
    """Read what a page shows of pipeline.yaml and of the settings, as texts.

    Parameters
    ----------
    pipeline : Pipeline
        What it declares.
    settings : Settings
        With the secrets of one-time codes, of which only the names are read.

    Returns
    -------
    dict of str to str
        What each rule is called, and what it says.
    """
    names = pipeline.approvers or tuple(settings.approver_secrets)
    segments = [f"{item.name} ({', '.join(item.columns)})" for item in pipeline.segments]
    return {
        "title": pipeline.title,
        "question": pipeline.question,
        "label": pipeline.label.column,
        "event_time": pipeline.event_time,
        "segments": ", ".join(segments) or "none",
        "approvers": ", ".join(pipeline.approvers) or "anybody",
        "self_approval": "allowed" if pipeline.self_approval else "not allowed",
        "who needs a one-time code": ", ".join(name for name in names if needs_code(name, settings)) or "nobody",
    }


def find_changed(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Say of each rule that is not what it was what it was, and is; a rule that was not kept is not compared."""
    return [f"{name} was {then[name]!r} and is {now[name]!r}" for name in then if then[name] != now.get(name, "")]
