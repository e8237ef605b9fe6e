"""Counters of the model server, as text that Prometheus reads."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """What is counted while requests are answered."""

    def __init__(self) -> None:
        self._requests: Counter[int] = Counter()
        self._buckets = [0] * (len(BUCKETS) + 1)
        self._seconds = 0.0

    def observe(self, status: int, seconds: float) -> None:
        """Count a request; the histogram holds those that were answered with 200."""
        self._requests[status] += 1
        if status == 200:
            self._buckets[bisect_left(BUCKETS, seconds)] += 1
            self._seconds += seconds

    def counters(self) -> dict[str, float]:
        """Give what was counted, by name, so that it can be added up over processes."""
        buckets = {f"bucket {number}": float(count) for number, count in enumerate(self._buckets)}
        statuses = {f"status {status}": float(count) for status, count in self._requests.items()}
        return {**statuses, **buckets, "seconds": self._seconds}


Value = float | Mapping[str, float] | None


def render(counters: Mapping[str, float], more: Iterable[tuple[str, str, str, Value]], *, label: str = "alias") -> str:
    """Write metrics as Prometheus reads them.

    Parameters
    ----------
    counters : mapping of str to float
        From :meth:`Metrics.counters`, of one process or added up.
    more : iterable of (name, type, help, value)
        Beside those; a value of None is left out, and several are written with a label each.
    label : str
        Name of that label.

    Returns
    -------
    str
    """
    lines = _head("sundial_requests_total", "counter", "Requests to /invocations, by HTTP status.")
    statuses = {name.removeprefix("status "): count for name, count in counters.items() if name.startswith("status ")}
    lines += [
        _line("sundial_requests_total", {"status": status}, int(count)) for status, count in sorted(statuses.items())
    ]
    name = "sundial_request_seconds"
    lines += _head(name, "histogram", "Seconds from arrival to answer of requests answered with 200.")
    total = 0
    for number, bound in enumerate((*map(str, BUCKETS), "+Inf")):
        total += int(counters.get(f"bucket {number}", 0))
        lines.append(_line(f"{name}_bucket", {"le": bound}, total))
    lines += [_line(f"{name}_sum", {}, counters.get("seconds", 0.0)), _line(f"{name}_count", {}, total)]
    return "\n".join(lines) + "\n" + render_values(more, label)


def render_values(more: Iterable[tuple[str, str, str, Value]], label: str) -> str:
    """Write values as Prometheus reads them; see :func:`render`."""
    lines = []
    for metric, kind, text, value in more:
        if isinstance(value, Mapping):
            lines += [*_head(metric, kind, text), *(_line(metric, {label: key}, each) for key, each in value.items())]
        elif value is not None:
            lines += [*_head(metric, kind, text), _line(metric, {}, value)]
    return "".join(f"{line}\n" for line in lines)


def _head(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def _line(name: str, labels: Mapping[str, str], value: float) -> str:
    inside = ",".join(f'{label}="{text}"' for label, text in labels.items())
    return f"{name}{{{inside}}} {value}" if labels else f"{name} {value}"
