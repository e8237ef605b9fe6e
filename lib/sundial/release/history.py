"""Moves of aliases, kept for ever: which version was in production on a date, who moved it there, why and on what.

MLflow knows only where an alias points now. Each move is therefore also a tag of the registered model, under a key of
its own that nobody writes twice: so the record lives in the registry itself, survives with it, is shared by all who
use a remote one, and needs no store of ours. (Who may edit the registry's tags can edit it: a record, not a seal.)
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd

from sundial.errors import RegistryError, nearest

ALIASES = ("production", "shadow")
# further shadows: shadow-NAME
SHADOW = re.compile(r"shadow(-[a-z0-9][a-z0-9-]{0,40})?")
PREFIX = "sundial.move."
OUTSIDE = "outside of Sundial"
# What moved an alias, where it matters to who reads the moves.
PROMOTION, REHEARSAL, ROLLBACK, RESTORED = "promotion", "rehearsal", "rollback", "restored"


@dataclass(frozen=True)
class Move:
    """One move of an alias.

    Attributes
    ----------
    alias : str
        ``production``, ``shadow`` or ``shadow-NAME``.
    version, previous : int or None
        Where it points from now on, and where it did; None for nowhere.
    at : str
        When, in UTC, to the microsecond, as ISO 8601.
    by, reason, evidence : str
        Who moved it, why, and the hash of what they had seen.
    as_of : str
        The date that it was in the run's time, where that is not the present.
    kind : str
        ``promotion``; ``rehearsal`` of the rollback, which takes seconds; ``rollback``; ``restored`` after a rehearsal
        that failed; empty for all others.
    """

    alias: str
    version: int | None
    previous: int | None
    at: str
    by: str = ""
    reason: str = ""
    evidence: str = ""
    as_of: str = ""
    kind: str = ""

    def as_tag(self) -> tuple[str, str]:
        """Give key and value of the tag that records the move."""
        value = json.dumps(asdict(self), ensure_ascii=False)
        # a colon and a plus sign are not welcome in keys everywhere; the hash tells apart two moves of one microsecond
        stamp = self.at[:26].replace(":", "").replace("-", "")
        return f"{PREFIX}{stamp}.{hashlib.sha256(value.encode()).hexdigest()[:6]}", value


def read_moves(tags: Mapping[str, str], alias: str | None = None) -> list[Move]:
    """Read the moves from the tags of a registered model, oldest first; of one alias, or of all."""
    moves = [Move(**json.loads(value)) for key, value in tags.items() if key.startswith(PREFIX)]
    return sorted((move for move in moves if alias in (None, move.alias)), key=lambda move: move.at)


def next_moment(moves: Iterable[Move]) -> str:
    """Give the present time in UTC, or a microsecond after the last move when the clock was set back."""
    last = max((datetime.fromisoformat(move.at) + timedelta(microseconds=1) for move in moves), default=None)
    moment = datetime.now(UTC)
    return max(moment, last or moment).isoformat(timespec="microseconds")


def version_at(
    moves: Iterable[Move], moment: str | datetime | pd.Timestamp, *, in_run_time: bool = False
) -> int | None:
    """Find where an alias pointed at a moment.

    Parameters
    ----------
    moves : iterable of Move
        Of one alias, oldest first.
    moment : str, datetime or Timestamp
        Without a timezone it is UTC. A move counts from its own moment on.
    in_run_time : bool
        Compare with ``as_of`` of the moves: for data that is not of the present. Moves without one do not count.

    Returns
    -------
    int or None
        The version; None when the alias pointed nowhere.
    """
    version = None
    for move in moves:
        when = move.as_of if in_run_time else move.at
        if when and as_utc(when) <= as_utc(moment):
            version = move.version
    return version


def as_utc(moment: str | datetime | pd.Timestamp) -> pd.Timestamp:
    """Read a moment; without a timezone it is UTC."""
    stamp = pd.Timestamp(moment)
    return stamp.tz_localize("UTC") if stamp.tzinfo is None else stamp.tz_convert("UTC")


def find_unrecorded(alias: str, moves: Iterable[Move], aliases: Mapping[str, Any]) -> list[Move]:
    """Find a move that nobody recorded: somebody moved the alias without Sundial, say in MLflow's own pages.

    Parameters
    ----------
    alias : str
        Name of the alias.
    moves : iterable of Move
        Recorded, oldest first.
    aliases : mapping
        Where the aliases point now.

    Returns
    -------
    list of Move
        None or one, dated now, since nobody wrote down when.
    """
    own = [move for move in moves if move.alias == alias]
    recorded = own[-1].version if own else None
    current = int(aliases[alias]) if alias in aliases else None
    if current == recorded:
        return []
    return [Move(alias, current, recorded, next_moment(own), by=OUTSIDE, reason="found to be so; nobody recorded why")]


def check_alias(alias: str) -> None:
    """Refuse an alias that we do not use.

    Raises
    ------
    RegistryError
        With the nearest name.
    """
    if alias not in ALIASES and not SHADOW.fullmatch(alias):
        hint = f"{nearest(alias, ALIASES)} Further shadows are called shadow-NAME, in lowercase."
        raise RegistryError(f"{alias!r} is not an alias", hint=hint)
