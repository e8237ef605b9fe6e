"""Many comparisons at once: sign changes of whole days, stepped down; and estimates that borrow from each other.

The test
    If neither model is better, swapping the two on any day changes nothing but the sign of that day's contribution. All
    sign patterns (2,000 drawn ones where there are more) give the distribution of the largest of all statistics, days
    kept whole and comparisons kept together: whatever the rows of a day, or segments that overlap, have in common, the
    distribution has too. It needs no normal approximation, which matters with seven days (Canay, Romano and Shaikh
    2017, Econometrica 85:1013-1030: sign changes with few clusters; exact where days are independent and their
    contributions symmetric, approximately so with many rows a day).
The correction
    Step down from the largest statistic (Westfall and Young 1993, Resampling-Based Multiple Testing, ch. 2; Romano and
    Wolf 2005, Econometrica 73:1237-1282): the chance of *any* false verdict, over all comparisons together, is at
    most 5 %, and as likely to be a false "better" as a false "worse". Holm's method on the t of each segment would be
    valid too, and with seven days could find next to nothing: on 6 degrees of freedom the bound of 600 tests is a t
    of 9. Five days are the fewest with which anything can be found, at 6.25 %.
Pooled estimates
    Small groups borrow from the others of their kind: a normal distribution of true differences around a common one,
    both estimated by moments (DerSimonian and Laird 1986, Controlled Clinical Trials 7:177-188), each estimate drawn
    towards it by what is not known of it, with the intervals of Morris 1983, JASA 78:47-55, sec. 4.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sundial.evaluation.metrics import Floats

FEWEST_DAYS = 5
PATTERNS = 2000
ALL_PATTERNS_UP_TO = 11  # days: 1,024 patterns, a pattern and its opposite being one
NORMAL_95 = 1.96
FEWEST_TO_POOL = 4


class StepDown(NamedTuple):
    """What a step-down test found.

    Attributes
    ----------
    p_values : float64 array of shape (comparisons,)
        Corrected for all of them; two-sided.
    critical : float
        What the statistic of a comparison had to exceed, once all that was found is set aside.
    """

    p_values: Floats
    critical: float


def sign_patterns(days: int, patterns: int = PATTERNS, seed: int = 0) -> Floats:
    """Make the ways to swap two models on whole days.

    Parameters
    ----------
    days : int
        How many.
    patterns : int
        Drawn when there are too many for all.
    seed : int
        Of the drawing.

    Returns
    -------
    float64 array of shape (patterns, days)
        1 and -1. The first pattern swaps nothing; where all are given, none is another's opposite.
    """
    if days <= ALL_PATTERNS_UP_TO:
        codes = np.arange(2 ** (days - 1))[:, np.newaxis] >> np.arange(days)
        return np.where(codes & 1, -1.0, 1.0)
    drawn = np.random.default_rng(seed).choice([-1.0, 1.0], size=(patterns, days))
    drawn[0] = 1.0
    return drawn


def finest_level(days: int, level: float) -> float:
    """Give the smallest chance of a false verdict, not below `level`, at which so many days can find anything."""
    return max(level, 0.5 ** max(days - 1, 0))


def step_down(terms: Floats, level: float, *, patterns: int = PATTERNS, seed: int = 0) -> StepDown:
    """Test many comparisons together.

    Parameters
    ----------
    terms : float64 array of shape (comparisons, days)
        What each day adds to each comparison's statistic, in units of the statistic's own scale.
    level : float
        Chance of any false verdict; see `finest_level`.
    patterns, seed : int
        See `sign_patterns`.

    Returns
    -------
    StepDown
    """
    # the first line is what was observed
    statistics = np.abs(sign_patterns(terms.shape[1], patterns, seed) @ terms.T)
    order = np.argsort(-statistics[0], kind="stable")
    # the largest statistic of each test and all smaller ones
    largest = np.maximum.accumulate(statistics[:, order[::-1]], axis=1)[:, ::-1]
    # rounding must not make equal sums differ
    reached = (largest >= statistics[0, order] * (1 - 1e-9)).mean(axis=0)
    corrected = np.maximum.accumulate(reached)
    found = int((corrected <= level).sum())
    rest = np.sort(largest[1:, min(found, len(order) - 1)])[::-1]
    # where the models never differed there is nothing to swap, and an interval all the same
    critical = float(rest[int(level * len(statistics) + 1e-9) - 1]) or NORMAL_95
    p_values = np.empty(len(order))
    p_values[order] = corrected
    return StepDown(p_values, critical)


def shrink(difference: Floats, error: Floats, own: npt.NDArray[np.bool_]) -> Floats:
    """Draw estimates towards the common one of their kind, the more the less is known of them.

    Parameters
    ----------
    difference, error : float64 arrays of shape (groups,)
        Estimates and their standard errors; NaN where there is none.
    own : bool array of shape (groups,)
        Which of them the common distribution is estimated from.

    Returns
    -------
    float64 array of shape (groups, 3)
        Estimate and the ends of its 95 % interval, for one group at a time.
    """
    known = np.isfinite(difference) & own
    count = int(known.sum())
    if count < FEWEST_TO_POOL:
        reach = NORMAL_95 * error
        return np.column_stack([difference, difference - reach, difference + reach])
    variance = error**2
    weight = 1.0 / variance[known]
    mean = (weight * difference[known]).sum() / weight.sum()
    excess = (weight * (difference[known] - mean) ** 2).sum() - (count - 1)
    between = max(0.0, excess / (weight.sum() - (weight**2).sum() / weight.sum()))
    weight = 1.0 / (variance[known] + between)
    mean = (weight * difference[known]).sum() / weight.sum()
    # Morris's corrections: never draw all the way, and widen by what is not known of the spread between groups
    away = (count - 3) / (count - 1) * variance / (variance + between)
    typical = (weight * variance[known]).sum() / weight.sum()
    doubt = 2.0 / (count - 3) * (typical + between) / (variance + between)
    squared = variance * (1.0 - (count - 1) / count * away) + doubt * (away * (difference - mean)) ** 2
    there = np.isfinite(difference)
    pooled = np.where(there, mean + (1.0 - away) * (difference - mean), mean)
    spread = np.sqrt(np.where(there, squared, between + 1.0 / weight.sum()))
    return np.column_stack([pooled, pooled - NORMAL_95 * spread, pooled + NORMAL_95 * spread])
