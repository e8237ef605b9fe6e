"""What gates would have stopped: each at every bound, on releases whose end is known.

A gate is judged again and again with other bounds on the scraps that were recorded. Two kinds of releases answer for
it. Real ones, of which it is known by now how the candidate compared with the production it was to replace on the
requests that came after: stopping one that turned out no worse is a false stop. And planted ones, which are known to be
bad: letting one pass is a miss.

Beside the gates as declared stand plain point gates on the same numbers: *absolute* (the candidate's figure reaches a
bound) and *change* (it is not more than a bound below production's), both without any interval. They are what most
tools offer, and the baseline to beat.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from sundial.evaluation.gates import NO_PRODUCTION, judge_gate
from sundial.evaluation.intervals import Estimate
from sundial.pipeline import Gate

Truth = Literal["better", "no difference shown", "worse", "unknown"]
BOUNDS = 41


@dataclass(frozen=True)
class Case:
    """One release that gates are tried on.

    Attributes
    ----------
    name : str
        For people, such as its date.
    scraps : mapping
        By stage, as gates read them.
    planted : str
        What was planted in it; empty for a real release.
    failed_stage : str
        Stage that failed, so that no gate had to stop it; empty when none did.
    later : Estimate or None
        Candidate against production on the requests that came after, positive where it was better.
    """

    name: str
    scraps: Mapping[str, Mapping[str, Any]]
    planted: str = ""
    failed_stage: str = ""
    later: Estimate | None = None

    @property
    def truth(self) -> Truth:
        """What came of it, as its interval says."""
        if self.later is None or not np.isfinite(self.later["low"]):
            return "unknown"
        if self.later["high"] < 0:
            return "worse"
        return "better" if self.later["low"] > 0 else "no difference shown"


def judge_case(gate: Gate, case: Case) -> str:
    """Judge a gate on a case: ``stopped``, ``passed``, ``skipped``, or ``not reached`` (its stage did not run)."""
    if gate.scrap.partition(".")[0] not in case.scraps:
        return "not reached"
    status = judge_gate(gate, case.scraps).status
    return {"failed": "stopped"}.get(status, status)


def tabulate_gates(gates: Sequence[Gate], cases: Sequence[Case]) -> pd.DataFrame:
    """Say what each gate stopped, alone.

    Parameters
    ----------
    gates : sequence of Gate
        As declared, or made by `point_gates`.
    cases : sequence of Case
        Real and planted.

    Returns
    -------
    DataFrame
        A row a gate, and last one for all of them together: ``gate``, ``judged`` and ``stopped`` of the real releases,
        ``stopped_worse`` (of those that turned out worse), ``worse`` (that there were), ``false_stops`` (that turned
        out no worse); then for each planted fault what was stopped, and ``<fault> of``: of how many.
    """
    lines = [_count(gate.gate, [[judge_case(gate, case)] for case in cases], cases) for gate in gates]
    together = [[judge_case(gate, case) for gate in gates] for case in cases]
    return pd.DataFrame([*lines, _count("all of them together", together, cases)])


def _count(name: str, verdicts: Sequence[Sequence[str]], cases: Sequence[Case]) -> dict[str, Any]:
    line: dict[str, Any] = {"gate": name, "judged": 0, "stopped": 0, "worse": 0, "stopped_worse": 0, "false_stops": 0}
    for given, case in zip(verdicts, cases, strict=True):
        stopped = "stopped" in given
        if case.planted:
            line.setdefault(case.planted, 0)
            line.setdefault(f"{case.planted} of", 0)
            if not case.failed_stage:
                line[f"{case.planted} of"] += 1
                line[case.planted] += stopped
            continue
        if not {"stopped", "passed"} & set(given):
            continue
        line["judged"] += 1
        line["stopped"] += stopped
        line["worse"] += case.truth == "worse"
        line["stopped_worse"] += stopped and case.truth == "worse"
        line["false_stops"] += stopped and case.truth in ("better", "no difference shown")
    return line


def point_gates(absolute: str, change: str, *, lowest: float, drop: float) -> list[Gate]:
    """Make the plain gates that the declared ones are compared with.

    Parameters
    ----------
    absolute, change : str
        Scraps: an estimate of the candidate, and one of its difference from production.
    lowest, drop : float
        Bounds.

    Returns
    -------
    list of Gate
        They read the estimates themselves, without their intervals.
    """
    return [
        Gate(gate="absolute, point", scrap=f"{absolute}.estimate", at_least=lowest),
        Gate(gate="change, point", scrap=f"{change}.estimate", at_least=-drop),
    ]


def sweep_gate(gate: Gate, cases: Sequence[Case], *, bounds: int = BOUNDS) -> pd.DataFrame:
    """Try a gate at every bound that makes a difference.

    Parameters
    ----------
    gate : Gate
        With one bound; of one with two, each is moved alone.
    cases : sequence of Case
        Real and planted.
    bounds : int
        Most bounds to try, evenly over those that the cases span; the declared one is among them.

    Returns
    -------
    DataFrame
        ``gate``, ``moved`` (which bound), ``bound``, ``declared`` (whether it is the declared one), ``sound`` and
        ``false_stops`` (real releases that turned out no worse, and those of them stopped), ``worse``,
        ``stopped_worse``, ``planted`` and ``caught``.
    """
    lines = []
    for moved in ("at_least", "at_most", "allowed_drop", "allowed_harm"):
        declared = getattr(gate, moved)
        if declared is None:
            continue
        numbers = [number for case in cases if (number := _number(gate, moved, case)) is not None]
        if not numbers:
            continue
        tried = np.unique(np.r_[declared, np.quantile(numbers, np.linspace(0, 1, bounds)), _beyond(numbers)])
        if moved.startswith("allowed"):
            tried = tried[tried >= 0]
        for bound in tried:
            changed = gate.model_copy(update={"at_least": None, "at_most": None, "equals": None, moved: float(bound)})
            lines.append(
                {
                    "gate": gate.gate,
                    "moved": moved,
                    "bound": float(bound),
                    "declared": bool(bound == declared),
                    **_tally(changed, cases),
                }
            )
    return pd.DataFrame(lines)


def _tally(gate: Gate, cases: Sequence[Case]) -> dict[str, int]:
    real = [(judge_case(gate, case), case.truth) for case in cases if not case.planted]
    judged = [(verdict == "stopped", truth) for verdict, truth in real if verdict in ("stopped", "passed")]
    planted = [judge_case(gate, case) for case in cases if case.planted and not case.failed_stage]
    return {
        "sound": sum(truth in ("better", "no difference shown") for _, truth in judged),
        "false_stops": sum(stopped and truth in ("better", "no difference shown") for stopped, truth in judged),
        "worse": sum(truth == "worse" for _, truth in judged),
        "stopped_worse": sum(stopped and truth == "worse" for stopped, truth in judged),
        "planted": sum(verdict in ("stopped", "passed") for verdict in planted),
        "caught": sum(verdict == "stopped" for verdict in planted),
    }


def _number(gate: Gate, moved: str, case: Case) -> float | None:
    """Read the number that a bound is compared with, in the bound's own direction; None when there is none."""
    if moved == "allowed_harm":  # of the segment that is worst off
        observed = judge_gate(gate, case.scraps).observed
        return None if observed is None else -observed
    found: Any = case.scraps
    for key in gate.scrap.split("."):
        if found == NO_PRODUCTION or not isinstance(found, Mapping) or key not in found:
            return None
        found = found[key]
    end = "high" if moved == "at_most" else "low"
    number = found.get(end) if isinstance(found, Mapping) else found
    if isinstance(number, bool) or not isinstance(number, int | float) or not np.isfinite(number):
        return None
    return float(-number if moved == "allowed_drop" else number)


def _beyond(numbers: Sequence[float]) -> list[float]:
    """Give a bound on either side of all numbers: one that stops everything, one that stops nothing."""
    span = max(numbers) - min(numbers) or 1.0
    return [min(numbers) - 0.05 * span, max(numbers) + 0.05 * span]
