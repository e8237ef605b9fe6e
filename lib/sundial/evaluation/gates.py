"""Gates: declared checks on scraps, each answered with one sentence.

A gate passes only when its number is there, is a number, rests on enough rows and keeps its bounds. Anything else
fails and says which of these it was. It is skipped in one case only: the notebook recorded, in these words, that there
is no production model to compare with.

A guardrail (`allowed_harm`) reads a comparison segment by segment: it fails for each segment that was shown to be worse
off, and names it. It also fails when nothing could be judged, and says how many segments were too small for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from sundial.errors import nearest

if TYPE_CHECKING:
    from sundial.pipeline import Gate

NO_PRODUCTION = "no production model"

MOST_NAMED = 8

Status = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True)
class GateResult:
    """What a gate said.

    Attributes
    ----------
    gate, scrap : str
        As declared.
    status : str
        ``passed``, ``failed`` or ``skipped``.
    observed : float or None
        The number that was judged (an end of the interval, when there is one); None when there was none.
    bound : str
        What was asked, in words.
    rows : int or None
        Rows that the number rests on, where known.
    sentence : str
        The verdict: gate, number, bound and by how much.
    """

    gate: str
    scrap: str
    status: Status
    observed: float | None
    bound: str
    rows: int | None
    sentence: str

    @property
    def passed(self) -> bool:
        """Whether the release may go on."""
        return self.status != "failed"

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, for gates.json."""
        return asdict(self)


class _FailureError(Exception):
    """Ends the judging of one gate with a reason; never leaves this module."""

    def __init__(self, reason: str, observed: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.observed = observed


class _NothingToCompareError(Exception):
    """The notebook says that there is no production model; never leaves this module."""


def judge_gate(gate: Gate, scraps: Mapping[str, Mapping[str, Any]]) -> GateResult:
    """Judge one gate.

    Parameters
    ----------
    gate : Gate
        As declared in pipeline.yaml.
    scraps : mapping
        Scraps by stage.

    Returns
    -------
    GateResult
        Never raises for what a notebook recorded.
    """
    name = gate.scrap.rsplit(".", 1)[-1]
    rows: int | None = None

    def result(status: Status, observed: float | None, sentence: str) -> GateResult:
        return GateResult(gate.gate, gate.scrap, status, observed, _describe(gate), rows, sentence)

    try:
        found = _find(gate.scrap, scraps)
        rows = _rows(found)
        if gate.min_rows is not None:
            _check_rows(name, rows, gate.min_rows)
        observed = _judge(gate, name, found)
    except _NothingToCompareError:
        return result("skipped", None, f"{gate.gate}: skipped, there is {NO_PRODUCTION} to compare with")
    except _FailureError as failure:
        return result("failed", failure.observed, f"{gate.gate} fails: {failure.reason}{_row_note(rows)}")
    said = f"{name} {_read(found, observed)}" if gate.allowed_harm is None else _read_guardrail(found, name)
    return result("passed", observed, f"{gate.gate}: {said}, asked {_describe(gate)}{_row_note(rows)}")


def judge_gates(gates: Iterable[Gate], scraps: Mapping[str, Mapping[str, Any]]) -> list[GateResult]:
    """Judge all gates, also after one has failed: a person wants to know all of it.

    Parameters
    ----------
    gates : iterable of Gate
    scraps : mapping
        Scraps by stage.

    Returns
    -------
    list of GateResult
        In the order declared.
    """
    return [judge_gate(gate, scraps) for gate in gates]


def _find(path: str, scraps: Mapping[str, Mapping[str, Any]]) -> Any:
    """Follow a path such as ``07_evaluate_model.metrics.last_week.roc_auc``."""
    stage, *keys = path.split(".")
    if stage not in scraps:
        raise _FailureError(f"stage {stage} recorded nothing. {nearest(stage, scraps)}".rstrip())
    found: Any = scraps[stage]
    walked = stage
    for key in keys:
        if found == NO_PRODUCTION:
            raise _NothingToCompareError
        if not isinstance(found, Mapping):
            raise _FailureError(f"{walked} is {_kind(found)}, so it has no {key!r}")
        if key not in found:
            raise _FailureError(f"{walked} has no {key!r}. {nearest(key, [str(k) for k in found])}".rstrip())
        found = found[key]
        walked = f"{walked}.{key}"
    if found == NO_PRODUCTION:
        raise _NothingToCompareError
    return found


def _rows(found: Any) -> int | None:
    rows = found.get("rows") if isinstance(found, Mapping) else None
    if _is_guardrail(found) and rows is None:
        known = [_rows(figure) for figure in found.values()]
        rows = None if None in known else min(item for item in known if item is not None)
    return rows if isinstance(rows, int) and not isinstance(rows, bool) else None


def _check_rows(name: str, rows: int | None, min_rows: int) -> None:
    if rows is None:
        raise _FailureError(f"{name} does not say how many rows it rests on, and {min_rows:,} are needed")
    if rows < min_rows:
        raise _FailureError(f"{name} rests on {rows:,} rows, fewer than {min_rows:,}")


def _judge(gate: Gate, name: str, found: Any) -> float:
    """Compare the number with each bound; return the one that a table should show."""
    observed = None
    if gate.equals is not None:
        observed = _number(found, name, "estimate")
        if observed != gate.equals:
            raise _FailureError(f"{name} is {_show(observed)}, not {_show(gate.equals)}", observed)
    if gate.at_most is not None:
        observed = _number(found, name, "high")
        if observed > gate.at_most:
            by = _show(observed - gate.at_most)
            raise _FailureError(
                f"{_which(found, name, 'high')} {_show(observed)} is {by} above {_show(gate.at_most)}", observed
            )
    if gate.at_least is not None:
        observed = _number(found, name, "low")
        if observed < gate.at_least:
            by = _show(gate.at_least - observed)
            raise _FailureError(
                f"{_which(found, name, 'low')} {_show(observed)} is {by} below {_show(gate.at_least)}", observed
            )
    if gate.allowed_drop is not None:
        if not isinstance(found, Mapping):
            raise _FailureError(f"{name} is {_kind(found)} and not an estimate, so the drop has no interval")
        observed = _number(found, name, "low")
        if observed < -gate.allowed_drop:
            estimate = _number(found, name, "estimate")
            raise _FailureError(
                f"{name} may be {_show(-observed)} worse than production (estimate {estimate:+.3g}), "
                f"{_show(-observed - gate.allowed_drop)} more than the allowed {_show(gate.allowed_drop)}",
                observed,
            )
    if gate.allowed_harm is not None:
        observed = _judge_guardrail(found, name, gate.allowed_harm)
    if observed is None:
        raise _FailureError("the gate asks for nothing")
    return observed


def _is_guardrail(found: Any) -> bool:
    """Tell whether this is what `sundial.evaluation.guardrail.summarize_guardrail` made, or one figure of it."""
    if not isinstance(found, Mapping) or not found:
        return False
    return isinstance(found.get("groups"), Mapping) or all(
        isinstance(figure, Mapping) and isinstance(figure.get("groups"), Mapping) for figure in found.values()
    )


def _figures(found: Any, name: str) -> dict[str, Any]:
    return {name: found} if "groups" in found else dict(found)


def _judge_guardrail(found: Any, name: str, allowed: float) -> float:
    """Look for segments whose whole interval lies below what is allowed; return the end that lies lowest."""
    if not _is_guardrail(found):
        raise _FailureError(f"{name} is {_kind(found)} and not a comparison of segments: it has no 'groups'")
    harmed: dict[str, list[str]] = {}
    lowest = math.inf
    for figure, summary in _figures(found, name).items():
        if not _number(summary, _words(figure), "judged") or not summary["groups"]:
            raise _FailureError(
                f"{_words(figure)} could be judged in no segment ({summary.get('method', 'no reason was recorded')})"
            )
        for group, estimate in summary["groups"].items():
            what = f"{_words(figure)} of {group}"
            middle, low, high = (_number(estimate, what, end) for end in ("estimate", "low", "high"))
            lowest = min(lowest, high)
            if high < -allowed:
                text = f"{_words(figure)} {_show(middle)} ({_show(low)} to {_show(high)})"
                harmed.setdefault(group, []).append(text)
    if harmed:
        names = [f"{group}, {', '.join(texts)}" for group, texts in harmed.items()]
        count = f"{len(names)} segments are" if len(names) > 1 else "one segment is"
        more = f"; and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        limit = f" by more than the allowed {_show(allowed)}" if allowed else ""
        raise _FailureError(f"{count} worse off{limit}: {'; '.join(names[:MOST_NAMED])}{more}", lowest)
    return lowest


def _read_guardrail(found: Any, name: str) -> str:
    """Say what was judged, and what could not be."""
    parts = [
        f"{_words(figure)} in {_show(summary['judged'])} segments ({summary.get('too_small', '?')} too small to judge)"
        for figure, summary in _figures(found, name).items()
    ]
    return f"none is shown to be worse off, {', '.join(parts)}"


def _number(found: Any, name: str, end: str) -> float:
    """Take the number itself, or the end of an estimate's interval that is nearer to failing."""
    value = found
    if isinstance(found, Mapping):
        if end not in found:
            raise _FailureError(f"{name} is a table and not an estimate: it has no {end!r}")
        value, name = found[end], f"{name}.{end}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _FailureError(f"{name} is {_kind(value)}, not a number")
    if not math.isfinite(value):
        raise _FailureError(f"{name} is undefined{_reason(found)}")
    return float(value)


def _reason(found: Any) -> str:
    method = found.get("method") if isinstance(found, Mapping) else None
    return f" ({method})" if isinstance(method, str) else ""


def _which(found: Any, name: str, end: str) -> str:
    """Say that an end of the interval was judged, when one was."""
    if not isinstance(found, Mapping):
        return name
    return f"the {end} end of {name} ({_show(_number(found, name, 'estimate'))} on its own),"


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, bool):
        return f"the truth value {value}"
    return f"{type(value).__name__} {value!r}"[:80]


def _describe(gate: Gate) -> str:
    """Say the bounds in words."""
    parts = []
    if gate.at_least is not None:
        parts.append(f"at least {_show(gate.at_least)}")
    if gate.at_most is not None:
        parts.append(f"at most {_show(gate.at_most)}")
    if gate.equals is not None:
        parts.append(f"exactly {_show(gate.equals)}")
    if gate.allowed_drop is not None:
        parts.append(f"at most {_show(gate.allowed_drop)} worse than production")
    if gate.allowed_harm is not None:
        parts.append(
            "no segment worse than production"
            + (f" by more than {_show(gate.allowed_harm)}" if gate.allowed_harm else "")
        )
    if gate.min_rows is not None:
        parts.append(f"on {gate.min_rows:,} rows or more")
    return ", ".join(parts)


def _show(value: float) -> str:
    """Write a number as people read it: three decimals, more for a tiny one, separators for a large one."""
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 100:
        return f"{value:,.1f}"
    return f"{value:.3f}" if abs(value) >= 0.001 else f"{value:.2g}"


def _read(found: Any, observed: float) -> str:
    """Write the number that passed, an estimate with its interval."""
    if not isinstance(found, Mapping):
        return _show(observed)
    ends = [found.get(end) for end in ("estimate", "low", "high")]
    if not all(isinstance(end, int | float) and math.isfinite(end) for end in ends):
        return _show(observed)
    estimate, low, high = (_show(float(end)) for end in ends if end is not None)
    return f"{estimate} ({low} to {high})"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _row_note(rows: int | None) -> str:
    return "" if rows is None else f" (rows {rows:,})"
