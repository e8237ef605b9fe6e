"""Approval policies: what stands in for the person while weeks are replayed, and is recorded as such.

A policy answers in its own name, ``policy: <name>``, which no person and no list of approvers has. It is written into
decisions.json without the checks that a person's answer goes through: nobody is asked, and nothing real is promoted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeAlias

from sundial.errors import SettingsError, nearest
from sundial.evaluation.gates import GateResult


class Answer(NamedTuple):
    """What a policy says.

    Attributes
    ----------
    decision : str
        As a person would choose it in the form.
    reason : str
        Why.
    """

    decision: str
    reason: str


Question: TypeAlias = Literal["approval", "review"]
Policy: TypeAlias = Callable[[Question, Sequence[GateResult]], Answer]


def passing(question: Question, verdicts: Sequence[GateResult]) -> Answer:
    """Approve what passed its gates; keep production while the monitoring's gates hold, else ask for a new model.

    In a replay the next weekly release is that new model.
    """
    failed = [item for item in verdicts if not item.passed]
    judged = sum(item.status == "passed" for item in verdicts)
    if question == "approval":
        if failed:
            return Answer("reject", failed[0].sentence)
        return Answer("approve", f"all {judged} gates that could be judged have passed")
    if failed:
        return Answer("retrain now", f"{failed[0].sentence}; the next weekly release is the new model")
    return Answer("keep", f"all {judged} gates of the monitoring hold")


POLICIES: dict[str, Policy] = {"passing": passing}


def find_policy(name: str) -> Policy:
    """Find an approval policy by its name.

    Raises
    ------
    SettingsError
        When there is none of that name; gives the nearest.
    """
    if name not in POLICIES:
        raise SettingsError(f"no approval policy is called {name!r}", hint=nearest(name, POLICIES))
    return POLICIES[name]


def signature(name: str) -> str:
    """Give the name under which a policy signs."""
    return f"policy: {name}"
