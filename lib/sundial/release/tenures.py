"""Who has been in production: each stay of a version, who put it there, who approved it, and on which evidence."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any

import pandas as pd

from sundial.release.history import REHEARSAL, Move, as_utc
from sundial.release.registry import Registry
from sundial.runs import Run
from sundial.settings import Settings, load_settings


@dataclass(frozen=True)
class Tenure:
    """One stay of a version in production.

    Attributes
    ----------
    version : int or None
        None where nothing was in production.
    since, until : str
        From the clock, in UTC, as ISO 8601; until is empty for the present one.
    as_of, as_of_until : str
        The same in the time of the data, where that is not the present.
    by, reason, kind : str
        Who put it there, why, and by what: ``promotion``, ``rollback``, ``restored``.
    approved_by, approved_at, proof, evidence : str
        Whose approval the version has, when it was given, what proved who they are, and the hash of what they saw.
    run : str
        The run that made the version.
    page : str
        Path of the page that was signed, where it is still there.
    """

    version: int | None
    since: str
    until: str
    as_of: str
    as_of_until: str
    by: str
    reason: str
    kind: str
    approved_by: str = ""
    approved_at: str = ""
    proof: str = ""
    evidence: str = ""
    run: str = ""
    page: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Give it as JSON takes it."""
        return asdict(self)


def list_tenures(pipeline: str, settings: Settings | None = None, *, rehearsals: bool = False) -> list[Tenure]:
    """List the stays in production, oldest first.

    Parameters
    ----------
    pipeline : str
        Name of the pipeline.
    settings : Settings, optional
        Read from the environment by default.
    rehearsals : bool
        Also the seconds of rehearsals, in which the version before answers once more.

    Returns
    -------
    list of Tenure
    """
    settings = settings or load_settings()
    registry = Registry(settings)
    moves = registry.history(pipeline) if rehearsals else _skip_rehearsals(registry.history(pipeline))
    versions = {info.version: info for info in registry.versions(pipeline)}
    tenures = []
    for index, move in enumerate(moves):
        following = moves[index + 1] if index + 1 < len(moves) else None
        info = versions.get(move.version) if move.version is not None else None
        tags = info.tags if info else {}
        page = Run(settings.runs / info.run).folder / "approval.html" if info else None
        tenures.append(
            Tenure(
                version=move.version,
                since=move.at,
                until=following.at if following else "",
                as_of=move.as_of,
                as_of_until=following.as_of if following else "",
                by=move.by,
                reason=move.reason,
                kind=move.kind,
                approved_by=tags.get("decided_by", ""),
                approved_at=tags.get("decided_at", ""),
                proof=tags.get("decision_proof", ""),
                evidence=tags.get("evidence", ""),
                run=info.run if info else "",
                page=str(page) if page and page.is_file() else "",
            )
        )
    return tenures


def _skip_rehearsals(moves: list[Move]) -> list[Move]:
    """Leave out the way back and forward again; a way back that was the end of it stays."""
    kept: list[Move] = []
    for move, following in zip_longest(moves, moves[1:]):
        passing = following is not None and following.kind == REHEARSAL
        again = bool(kept) and kept[-1].version == move.version
        if move.kind != REHEARSAL or not (passing or again):
            kept.append(move)
    return kept


def find_tenure(tenures: list[Tenure], moment: str | pd.Timestamp) -> tuple[Tenure | None, str]:
    """Find which stay a moment falls in.

    Parameters
    ----------
    tenures : list of Tenure
        Oldest first.
    moment : str or Timestamp
        UTC unless it says otherwise. Before anything was in production by the clock it is taken as a date of the data,
        for pipelines whose data is not of the present.

    Returns
    -------
    tuple of Tenure or None, and str
        The stay (None when nothing was in production), and which time the moment was taken in: ``clock`` or ``data``.
    """
    asked = as_utc(moment)
    in_data = [item for item in tenures if item.as_of]
    by_clock = bool(tenures) and asked >= as_utc(tenures[0].since)
    if by_clock or not in_data:
        fitting = [item for item in tenures if as_utc(item.since) <= asked]
        return (fitting[-1] if fitting else None), "clock"
    fitting = [item for item in in_data if as_utc(item.as_of) <= asked]
    return (fitting[-1] if fitting else None), "data"
