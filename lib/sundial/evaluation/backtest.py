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
MOVED = ("at_least", "at_most", "allowed_drop", "allowed_harm")
SOUND = ("better", "no difference shown")


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
        A row a gate, and last one for all of them together: ``gate``; of the real releases ``judged``, ``sound`` (that
        turned out no worse), ``stopped``, ``worse`` (that turned out worse), ``stopped_worse`` and ``false_stops``
        (sound ones); then for each planted fault what was stopped, and ``<fault> of``: of how many.
    """
    lines = [_count(gate.gate, [[judge_case(gate, case)] for case in cases], cases) for gate in gates]
    together = [[judge_case(gate, case) for gate in gates] for case in cases]
    return pd.DataFrame([*lines, _count("all of them together", together, cases)])


def _count(name: str, verdicts: Sequence[Sequence[str]], cases: Sequence[Case]) -> dict[str, Any]:
    counts = ("judged", "sound", "stopped", "worse", "stopped_worse", "false_stops")
    line: dict[str, Any] = {"gate": name, **dict.fromkeys(counts, 0)}
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
        line["sound"] += case.truth in SOUND
        line["stopped"] += stopped
        line["worse"] += case.truth == "worse"
        line["stopped_worse"] += stopped and case.truth == "worse"
        line["false_stops"] += stopped and case.truth in SOUND
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
    for moved, numbers in _read_numbers(gate, cases).items():
        declared = getattr(gate, moved)
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


def choose_bounds(gates: Sequence[Gate], cases: Sequence[Case]) -> list[Gate]:
    """Move every bound on an estimate to the tightest that would have stopped none of the sound releases.

    A bound chosen so on n releases stops the next one with a probability of 1 / (n + 1), and k bounds one of them with
    at most k / (n + 1), if the next is exchangeable with those: it is stopped when its number is the most extreme of
    all n + 1 (Wilks 1941, *Determination of sample sizes for setting tolerance limits*, Annals of Mathematical
    Statistics 12, pp. 91-96). Bounds that stop more of later releases than that are on numbers that have moved.

    Parameters
    ----------
    gates : sequence of Gate
        As declared, or made by `point_gates`.
    cases : sequence of Case
        Of them the real ones that turned out no worse are chosen on.

    Returns
    -------
    list of Gate
        In the same order. Bounds on numbers without uncertainty, such as counts of rows, stay, as do those that no
        sound release had a number for.
    """
    sound = [case for case in cases if not case.planted and not case.failed_stage and case.truth in SOUND]
    chosen = []
    for gate in gates:
        estimated = any(_is_estimated(gate, case) for case in sound)
        bounds: dict[str, float] = {}
        for moved, numbers in _read_numbers(gate, sound).items() if estimated else ():
            bound = min(numbers) if moved == "at_least" else max(numbers)
            bounds[moved] = max(bound, 0.0) if moved.startswith("allowed") else bound
        chosen.append(gate.model_copy(update=bounds))
    return chosen


def _tally(gate: Gate, cases: Sequence[Case]) -> dict[str, int]:
    real = [(judge_case(gate, case), case.truth) for case in cases if not case.planted]
    judged = [(verdict == "stopped", truth) for verdict, truth in real if verdict in ("stopped", "passed")]
    planted = [judge_case(gate, case) for case in cases if case.planted and not case.failed_stage]
    return {
        "sound": sum(truth in SOUND for _, truth in judged),
        "false_stops": sum(stopped and truth in SOUND for stopped, truth in judged),
        "worse": sum(truth == "worse" for _, truth in judged),
        "stopped_worse": sum(stopped and truth == "worse" for stopped, truth in judged),
        "planted": sum(verdict in ("stopped", "passed") for verdict in planted),
        "caught": sum(verdict == "stopped" for verdict in planted),
    }


def _read_numbers(gate: Gate, cases: Sequence[Case]) -> dict[str, list[float]]:
    """Read the numbers that each declared bound of a gate is compared with; a bound without any is left out."""
    found = {
        moved: [number for case in cases if (number := _number(gate, moved, case)) is not None]
        for moved in MOVED
        if getattr(gate, moved) is not None
    }
    return {moved: numbers for moved, numbers in found.items() if numbers}


def _number(gate: Gate, moved: str, case: Case) -> float | None:
    """Read the number that a bound is compared with, in the bound's own direction; None when there is none."""
    if moved == "allowed_harm":  # of the segment that is worst off
        observed = judge_gate(gate, case.scraps).observed
        return None if observed is None else -observed
    found = _find(case, gate.scrap)
    end = "high" if moved == "at_most" else "low"
    number = found.get(end) if isinstance(found, Mapping) else found
    if isinstance(number, bool) or not isinstance(number, int | float) or not np.isfinite(number):
        return None
    return float(-number if moved == "allowed_drop" else number)


def _is_estimated(gate: Gate, case: Case) -> bool:
    """Tell whether a gate reads an estimate, its point, or differences segment by segment."""
    found = _find(case, gate.scrap.removesuffix(".estimate"))
    return isinstance(found, Mapping) and (gate.allowed_harm is not None or "low" in found)


def _find(case: Case, path: str) -> Any:
    """Follow keys joined by dots; None where there is nothing, or no production to compare with."""
    found: Any = case.scraps
    for key in path.split("."):
        if found == NO_PRODUCTION or not isinstance(found, Mapping) or key not in found:
            return None
        found = found[key]
    return found


def _beyond(numbers: Sequence[float]) -> list[float]:
    """Give a bound on either side of all numbers: one that stops everything, one that stops nothing."""
    span = max(numbers) - min(numbers) or 1.0
    return [min(numbers) - 0.05 * span, max(numbers) + 0.05 * span]
