"""Flow runs, as Prefect's API tells them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

FINAL = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")
# states in which a flow run may still act later
OPEN = ("SCHEDULED", "PENDING", "RUNNING", "PAUSED")


@dataclass(frozen=True)
class FlowRun:
    """A flow run, as the API tells it.

    Attributes
    ----------
    id, name : str
        Prefect's identifiers.
    state, state_name, message : str
        Type of state such as ``PAUSED``, its name such as ``Suspended``, and what it says.
    parameters : dict
        What the flow was called with.
    tags : tuple of str
        Ours: ``flow:…``, ``pipeline:…`` and ``run:…``.
    starts : datetime or None
        When it is to start, or did.
    keys : dict
        Where the form of a suspended run is: ``schema``, ``description`` and ``response``.
    ended : datetime or None
        When it did.
    """

    id: str
    name: str
    state: str
    state_name: str
    message: str
    parameters: dict[str, Any]
    tags: tuple[str, ...]
    starts: datetime | None
    keys: dict[str, str] = field(default_factory=dict)
    ended: datetime | None = None

    @property
    def flow(self) -> str:
        """Name of the flow, from our tag."""
        return next((tag.removeprefix("flow:") for tag in self.tags if tag.startswith("flow:")), "")

    @property
    def run(self) -> str:
        """Name of the run that it works on, from our tag; empty when it has none yet."""
        return next((tag.removeprefix("run:") for tag in self.tags if tag.startswith("run:")), "")

    @property
    def waits_for_person(self) -> bool:
        """Whether it is suspended with a question."""
        return self.state == "PAUSED" and bool(self.keys)

    @property
    def is_final(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in FINAL


def read_flow_run(data: Mapping[str, Any]) -> FlowRun:
    """Read a flow run from what the API answers."""
    state = data.get("state") or {}
    when = data.get("start_time") or data.get("next_scheduled_start_time") or data.get("expected_start_time")
    return FlowRun(
        id=data["id"],
        name=data["name"],
        state=state.get("type") or "SCHEDULED",
        state_name=state.get("name") or "Scheduled",
        message=state.get("message") or "",
        parameters=data.get("parameters") or {},
        tags=tuple(data.get("tags") or ()),
        starts=datetime.fromisoformat(when) if when else None,
        keys=(state.get("state_details") or {}).get("run_input_keyset") or {},
        ended=datetime.fromisoformat(data["end_time"]) if data.get("end_time") else None,
    )
