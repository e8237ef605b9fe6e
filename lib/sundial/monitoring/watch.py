"""The first hours after a promotion, judged against what the shadow forecast, on the very requests that come in.

How often a model alerts moves with what is asked: a calm day after a stormy one looks like a broken model. So the
version before scores the same requests, and what is judged is the difference between the two, against the same
difference in the shadow's week. Only the limits on errors and latency, and the alert share that no model may exceed,
need no version before.

Nothing is judged by a point: a bound is broken when the whole interval lies beyond it. Looking again and again would
find something by chance, so the k-th look spends 6 / (pi k)^2 of the 5 %, shared by all limits (the sum over all looks
is 5 %: the Basel series). Assumptions: within a look requests are taken as independent, which those of one day are not
quite; the bounds must leave room for that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from sundial.declarations import WatchBounds
from sundial.formats import read_json
from sundial.runs import Run

ERROR_RATE = 0.05
LIMITS = 5
MOST_ROWS = 100_000
COMPARISON = "10_compare_shadow"
FILE = "watch.json"


@dataclass(frozen=True)
class Forecast:
    """What the shadow's week says of a candidate against the version before, on the same requests.

    Attributes
    ----------
    alert_change, score_change : float
        Candidate - version before: alert share, and mean score.
    rows : int
        Requests that both answered.
    """

    alert_change: float
    score_change: float
    rows: int


@dataclass
class Seen:
    """What was answered since the promotion; a row a request of the promoted version, in four columns that grow.

    Attributes
    ----------
    requests, failed : int
        HTTP requests, and those answered with 5xx.
    alerts : list of bool
        Decisions.
    latencies : list of float
        Milliseconds.
    alert_changes, score_changes : list of float
        Against what the version before says to the same request; empty where there is none.
    """

    requests: int = 0
    failed: int = 0
    alerts: list[bool] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    alert_changes: list[float] = field(default_factory=list)
    score_changes: list[float] = field(default_factory=list)

    def forget(self) -> None:
        """Keep the newest rows only, where there are very many."""
        for column in (self.alerts, self.latencies, self.alert_changes, self.score_changes):
            del column[:-MOST_ROWS]


@dataclass(frozen=True)
class Finding:
    """One limit, judged.

    Attributes
    ----------
    limit : str
        What it bounds.
    observed, low, high : float
        With its interval at this look's confidence.
    bound : str
        In words.
    rows : int
        What it rests on.
    broken : bool
        Whether the whole interval lies beyond the bound.
    """

    limit: str
    observed: float
    low: float
    high: float
    bound: str
    rows: int
    broken: bool

    @property
    def sentence(self) -> str:
        """Say it."""
        verdict = "is beyond" if self.broken else "is not shown to be beyond"
        return (
            f"{self.limit} {self.observed:.4g} ({self.low:.4g} to {self.high:.4g}, {self.rows:,} rows) "
            f"{verdict} {self.bound}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Give it as JSON takes it: an end of the interval that is not known is None."""
        known = {
            name: None if isinstance(item, float) and not math.isfinite(item) else item
            for name, item in asdict(self).items()
        }
        return known | {"sentence": self.sentence}


def read_forecast(run: Run) -> Forecast | None:
    """Read what the shadow's week forecast; None when there was no comparison."""
    if "joined" not in run.stage_record(COMPARISON).get("outputs", {}):
        return None
    columns = ["production_score", "shadow_score", "production_decision", "shadow_decision"]
    rows = pd.read_parquet(run.verify_output(COMPARISON, "joined"), columns=columns)
    rows = rows[rows["shadow_score"].notna() & rows["shadow_decision"].notna()]
    if rows.empty:
        return None
    alert = rows["shadow_decision"].astype("float64") - rows["production_decision"].astype("float64")
    return Forecast(float(alert.mean()), float((rows["shadow_score"] - rows["production_score"]).mean()), len(rows))


def judge_watch(seen: Seen, forecast: Forecast | None, bounds: WatchBounds, look: int) -> list[Finding]:
    """Judge all limits.

    Parameters
    ----------
    seen : Seen
        All since the promotion.
    forecast : Forecast or None
        Of the shadow's week.
    bounds : WatchBounds
        Of pipeline.yaml.
    look : int
        Number of this look, from 1.

    Returns
    -------
    list of Finding
        One a limit that has enough rows.
    """
    alpha = ERROR_RATE * 6 / (math.pi * look) ** 2 / LIMITS
    found = []
    if seen.requests >= bounds.min_rows:
        low, high = share_interval(seen.failed, seen.requests, alpha)
        found.append(
            _at_most(
                "share of failed requests", seen.failed / seen.requests, low, high, bounds.error_share, seen.requests
            )
        )
    rows = len(seen.alerts)
    if rows < bounds.min_rows:
        return found
    alerts = int(sum(seen.alerts))
    low, high = share_interval(alerts, rows, alpha)
    found.append(_at_most("alert share", alerts / rows, low, high, bounds.alert_share_at_most, rows))
    middle, low, high = quantile_interval(seen.latencies, 0.99, alpha)
    found.append(_at_most("99th percentile of latency, ms,", middle, low, high, bounds.latency_p99_ms, rows))
    if forecast is not None and len(seen.alert_changes) >= bounds.min_rows:
        for name, values, expected, bound in (
            ("alert share", seen.alert_changes, forecast.alert_change, bounds.alert_share_change),
            ("mean score", seen.score_changes, forecast.score_change, bounds.score_change),
        ):
            middle, low, high = mean_interval(values, alpha)
            found.append(
                Finding(
                    f"change of {name} against the version before",
                    middle,
                    low,
                    high,
                    f"{bound:g} from the shadow's {expected:.4g}",
                    len(values),
                    low > expected + bound or high < expected - bound,
                )
            )
    return found


def _at_most(limit: str, observed: float, low: float, high: float, bound: float, rows: int) -> Finding:
    return Finding(limit, observed, low, high, f"{bound:g}", rows, low > bound)


def share_interval(count: int, rows: int, alpha: float) -> tuple[float, float]:
    """Give the Clopper-Pearson interval of a share (Biometrika 26, 1934), exact for independent rows."""
    from scipy.stats import beta

    low = 0.0 if count == 0 else float(beta.ppf(alpha / 2, count, rows - count + 1))
    high = 1.0 if count == rows else float(beta.ppf(1 - alpha / 2, count + 1, rows - count))
    return low, high


def quantile_interval(values: Sequence[float], share: float, alpha: float) -> tuple[float, float, float]:
    """Give a quantile and the interval between two order statistics, which needs no assumption on how values lie."""
    from scipy.stats import binom

    ordered = np.sort(np.asarray(values, dtype=np.float64))
    rows = len(ordered)
    low, high = (int(binom.ppf(level, rows, share)) for level in (alpha / 2, 1 - alpha / 2))
    middle = float(ordered[min(int(share * rows), rows - 1)])
    return middle, float(ordered[max(low - 1, 0)]), float(ordered[high]) if high < rows else math.inf


def mean_interval(values: Sequence[float] | npt.NDArray[np.float64], alpha: float) -> tuple[float, float, float]:
    """Give the mean of values between -1 and 1, and its empirical Bernstein interval.

    Maurer and Pontil, "Empirical Bernstein bounds and sample variance penalization" (COLT 2009), theorem 4, for a range
    of 2 and both sides.
    """
    found = np.asarray(values, dtype=np.float64)
    rows = len(found)
    logarithm = math.log(4 / alpha)
    width = math.sqrt(2 * float(found.var(ddof=1)) * logarithm / rows) + 2 * 7 * logarithm / (3 * (rows - 1))
    middle = float(found.mean())
    return middle, middle - width, middle + width


def read_watch(run: Run) -> dict[str, Any]:
    """Read how the watch over a run's model stands; empty when there was none."""
    path = run.folder / FILE
    return dict(read_json(path)) if path.exists() else {}
