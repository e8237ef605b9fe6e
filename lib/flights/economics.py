"""What an alert is worth: the money that a right one saves and a wrong one costs.

An alert goes out one hour before departure: *this flight will be more than 30 minutes late*. The airline then offers
the passengers whose connection is too tight a later onward flight, while there are still seats on it.

- **Right alert.** Those who accept wait for the flight they chose instead of missing one, queueing, and taking what is
  left.
- **Wrong alert.** Those who accept have given up a connection that they would have made. Some get it back on landing;
  the others wait for the later one.
- **No alert** is the world as it is, and counts as 0.

Each number of :class:`Assumptions` says where it comes from. Where it says *judgement*, nobody measured it: it is the
authors' guess, written down so that it can be replaced, and 08_evaluate_business shows what changes when it does. All
is the passengers' time in US dollars plus the desk's; goodwill, hotel nights and the airline's own delay are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Assumptions:
    """The numbers behind an alert's worth.

    Attributes
    ----------
    seats : float
        Seats on an average flight: the mean over the flights of 2013 whose tail number the data's table of planes
        knows.
    load_factor : float
        Share of seats taken: 0.831 on US airlines in 2013 (US Bureau of Transportation Statistics, Table 13, Systemwide
        Load Factor on U.S. Airlines, from T-100 Segment).
    connecting_share : float
        Share of the passengers on a flight who fly on: 209 of 696 million domestic enplanements were connections
        (Transportation Research Board, research project description 18560, from the FAA's 2008-2025 forecasts).
        New York's own share will differ.
    at_risk_share : float
        Share of those whose connection a delay of more than 30 minutes breaks. Judgement: such delays last 65 minutes
        in the median (this data), and layovers leave between 0 and 2 hours to spare.
    acceptance : float
        Share of those at risk who take the offer. Judgement.
    hours_saved : float
        Saved by each who takes a right offer, against queueing after landing for a seat on flights that are five
        sixths full. Judgement.
    hours_lost : float
        Lost by each who takes a wrong offer: half get their old seat back, the others wait an hour and a half.
        Judgement.
    hour : float
        Worth of an hour of a passenger's time. US DOT's guidance on the valuation of travel time values intercity
        air travel at 70 % of hourly income on personal and 100 % on business trips; the income (50 dollars) and the
        share of business trips (40 %) are judgement.
    handling : float
        Dollars for finding and offering one alternative: five minutes of a desk. Judgement.
    """

    seats: float = 137.0
    load_factor: float = 0.831
    connecting_share: float = 0.30
    at_risk_share: float = 0.40
    acceptance: float = 0.50
    hours_saved: float = 2.5
    hours_lost: float = 0.75
    hour: float = 50.0 * (0.6 * 0.70 + 0.4 * 1.00)
    handling: float = 5.0

    @property
    def offers(self) -> float:
        """Passengers who are offered another connection when an alert goes out."""
        return self.seats * self.load_factor * self.connecting_share * self.at_risk_share

    @property
    def right_alert(self) -> float:
        """Dollars that an alert for a late flight saves."""
        return self.offers * (self.acceptance * self.hours_saved * self.hour - self.handling)

    @property
    def wrong_alert(self) -> float:
        """Dollars that an alert for a flight that is not late costs."""
        return self.offers * (self.acceptance * self.hours_lost * self.hour + self.handling)


DEFAULT = Assumptions()


class Threshold(TypedDict):
    """The threshold that earns most on some rows.

    Attributes
    ----------
    threshold : float
        Alert where the score reaches it; above every score when no alert pays.
    value_per_1000 : float
        Dollars per 1,000 flights at that threshold, on the rows it was chosen on: flattering, by design.
    alert_share : float
        Share of the rows that are alerts.
    """

    threshold: float
    value_per_1000: float
    alert_share: float


def value(label: npt.ArrayLike, decision: npt.ArrayLike, assumptions: Assumptions = DEFAULT) -> npt.NDArray[np.float64]:
    """Compute what each decision earns, against doing nothing; pipeline.yaml's value hook.

    Parameters
    ----------
    label : array-like of shape (n,)
        1 where the flight was late, else 0.
    decision : array-like of shape (n,)
        True where an alert went out.
    assumptions : Assumptions
        Other numbers, to see what they change.

    Returns
    -------
    float64 array of shape (n,)
        Dollars a row: ``right_alert`` for an alert on a late flight, minus ``wrong_alert`` for one on a flight that was
        not, 0 without an alert.

    Raises
    ------
    ValueError
        When the shapes differ, or a label is neither 0 nor 1: a flight without a label has no known value.
    """
    labels = np.asarray(label, dtype="float64")
    alerts = np.asarray(decision, dtype=bool)
    if labels.shape != alerts.shape:
        raise ValueError(f"{labels.shape} labels for {alerts.shape} decisions")
    if not np.isin(labels, (0.0, 1.0)).all():
        raise ValueError("labels must be 0 or 1; leave out flights whose label is not known")
    paid = np.where(labels == 1.0, assumptions.right_alert, -assumptions.wrong_alert)
    return np.where(alerts, paid, 0.0)


def break_even_precision(assumptions: Assumptions = DEFAULT) -> float:
    """Compute the share of right alerts at which alerting earns nothing.

    It is also the probability from which on a single alert pays, ``wrong / (wrong + right)``: the threshold to use with
    scores that mean what they say (Elkan 2001, The Foundations of Cost-Sensitive Learning, IJCAI, eq. 2).

    Returns
    -------
    float
        Between 0 and 1.
    """
    return assumptions.wrong_alert / (assumptions.wrong_alert + assumptions.right_alert)


def best_threshold(label: npt.ArrayLike, score: npt.ArrayLike, assumptions: Assumptions = DEFAULT) -> Threshold:
    """Find the threshold that would have earned most on these rows.

    Parameters
    ----------
    label : array-like of shape (n,)
        0 or 1.
    score : array-like of shape (n,)
        Probability of label 1, finite.
    assumptions : Assumptions
        Other numbers, to see what they change.

    Returns
    -------
    Threshold
        One of the scores, the highest among equals (fewest alerts); infinity when no alert pays.

    Raises
    ------
    ValueError
        When there are no rows, or shapes differ, or a value is missing.
    """
    scores, total = value_curve(label, score, assumptions)
    rows = np.asarray(label).size
    if scores.size == 0:
        raise ValueError("there are no rows to choose a threshold on")
    best = int(np.argmax(total))
    if total[best] <= 0:
        return Threshold(threshold=float("inf"), value_per_1000=0.0, alert_share=0.0)
    threshold = float(scores[best])
    share = float(np.mean(np.asarray(score, dtype="float64") >= threshold))
    return Threshold(threshold=threshold, value_per_1000=1000.0 * float(total[best]) / rows, alert_share=share)


def value_curve(
    label: npt.ArrayLike, score: npt.ArrayLike, assumptions: Assumptions = DEFAULT
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Compute what every possible threshold would have earned on these rows.

    Parameters
    ----------
    label, score, assumptions
        As in :func:`best_threshold`.

    Returns
    -------
    threshold : float64 array of shape (m,)
        The distinct scores, highest first.
    total : float64 array of shape (m,)
        Dollars for all rows together, when scores that reach the threshold are alerts.

    Raises
    ------
    ValueError
        When shapes differ, or a value is missing.
    """
    scores = np.asarray(score, dtype="float64")
    if not np.isfinite(scores).all():
        raise ValueError("every score must be a number")
    paid = value(label, np.ones(scores.shape, dtype=bool), assumptions)
    order = np.argsort(-scores, kind="stable")
    last_of_equals = np.flatnonzero(np.diff(scores[order], append=-np.inf))
    return scores[order][last_of_equals], np.cumsum(paid[order])[last_of_equals]
