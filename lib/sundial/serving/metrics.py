"""Counters of the model server, as text that Prometheus reads."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """What is counted while requests are answered.

    Attributes
    ----------
    requests : Counter
        Requests to ``/invocations`` by HTTP status.
    """

    def __init__(self) -> None:
        self.requests: Counter[int] = Counter()
        self._buckets = [0] * (len(BUCKETS) + 1)
        self._seconds = 0.0

    def observe(self, status: int, seconds: float) -> None:
        """Count a request; the histogram holds those that were answered with 200."""
        self.requests[status] += 1
        if status == 200:
            self._buckets[bisect_left(BUCKETS, seconds)] += 1
            self._seconds += seconds

    def render(self, more: Iterable[tuple[str, str, str, float | None]]) -> str:
        """Write all metrics.

        Parameters
        ----------
        more : iterable of (name, type, help, value)
            Beside those counted here; a value of None is left out.

        Returns
        -------
        str
        """
        lines = _head("sundial_requests_total", "counter", "Requests to /invocations, by HTTP status.")
        lines += [
            _line("sundial_requests_total", {"status": str(status)}, count)
            for status, count in sorted(self.requests.items())
        ]
        name = "sundial_request_seconds"
        lines += _head(name, "histogram", "Seconds from arrival to answer of requests answered with 200.")
        total = 0
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), self._buckets, strict=True):
            total += count
            lines.append(_line(f"{name}_bucket", {"le": bound}, total))
        lines += [_line(f"{name}_sum", {}, self._seconds), _line(f"{name}_count", {}, total)]
        for metric, kind, text, value in more:
            if value is not None:
                lines += [*_head(metric, kind, text), _line(metric, {}, value)]
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def _line(name: str, labels: Mapping[str, str], value: float) -> str:
    inside = ",".join(f'{label}="{text}"' for label, text in labels.items())
    return f"{name}{{{inside}}} {value}" if labels else f"{name} {value}"
