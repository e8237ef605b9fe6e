"""Does the interval of the staleness meter hold the truth? A year with a planted slope, simulated again and again.

Each simulated year has rows with labels and scores of models of known quality: the score of a row is normal around
mu x label, so that the ROC AUC is Phi(mu / sqrt 2) exactly, and mu is chosen for the AUC that age, luck of the
training and the week say. Answers of several models to one row go together, as they do. What makes it hard is planted
too: luck that a model keeps for as long as it is compared, and shocks to the world that stay between old and new
models.

Run with ``make bench-staleness``; the seed is fixed.
"""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
import pandas as pd
from scipy.stats import norm

from sundial.monitoring.staleness import AGES, WEEK, WEEKS_A_MONTH, estimate_month, measure_week
from tests.benchmarks.figures import Figure, write_figures

START = pd.Timestamp("2013-03-11")
WEEKS = 40
ROWS = 1500
LATE = 0.2
BEST = 0.72
TOGETHER = 0.9  # correlation of two models' scores of a row, given its label
LUCK = 0.004  # standard deviation of a model's own quality, in AUC
HARD = 0.02  # of a week's difficulty, the same for all models
SLOPE = -0.005  # AUC a month: half a point, as in the talk


def simulate_year(rng: np.random.Generator, slope: float, shock: float, weeks: int = WEEKS) -> pd.DataFrame:
    """Simulate a year and measure it with the meter's own code.

    Parameters
    ----------
    rng : Generator
        Source of everything random.
    slope : float
        AUC a month of age.
    shock : float
        Standard deviation of what a week changes in the world: a model is better or worse by the sum of the shocks
        since it was made, whose mean is zero.
    weeks : int
        Length.
    """
    dates = [START + number * WEEK for number in range(weeks)]
    luck = rng.normal(0, LUCK, weeks)
    world = np.cumsum(rng.normal(0, shock, weeks)) if shock else np.zeros(weeks)
    parts = []
    for number, week in enumerate(dates):
        label = (rng.random(ROWS) < LATE).astype("int64")
        common, hard = rng.normal(size=ROWS), rng.normal(0, HARD)
        table, models = {"late": label, "threshold": np.full(ROWS, 0.5)}, {}
        for age in (age for age in AGES if age <= number):
            made = number - age
            auc = BEST + hard + luck[made] + slope / WEEKS_A_MONTH * age + world[number] - world[made]
            mu = np.sqrt(2) * norm.ppf(np.clip(auc, 0.02, 0.98))
            own = TOGETHER**0.5 * common + (1 - TOGETHER) ** 0.5 * rng.normal(size=ROWS)
            table[f"model {made}"] = mu * label + own
            models[f"model {made}"] = dates[made]
        if models:
            parts.append(measure_week(pd.DataFrame(table), week, models, label="late", metrics=("roc_auc",)))
    return pd.concat(parts, ignore_index=True)


def count_held(simulations: int, seed: int, slope: float, shock: float) -> tuple[int, float]:
    """Count in how many years the interval holds the planted slope; also give the mean width of the interval."""
    held, widths = 0, []
    for number in range(simulations):
        year = simulate_year(np.random.default_rng([seed, number]), slope, shock)
        found = estimate_month(year, "roc_auc")
        held += found["low"] <= slope <= found["high"]
        widths.append(found["high"] - found["low"])
    return held, float(np.mean(widths))


def main() -> None:
    """Run the simulations and write their figures."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--simulations", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    count = partial(count_held, arguments.simulations, arguments.seed)
    goal = 0.93 * arguments.simulations
    figures = []
    for name, slope, shock in (
        ("planted: half a point a month", SLOPE, 0.0),
        ("planted: no drift", 0.0, 0.0),
        ("half a point a month, and shocks that stay", SLOPE, 0.001),
        ("no drift, and shocks that stay", 0.0, 0.001),
    ):
        held, width = count(slope, shock)
        asked = "" if shock else f"at least {goal:.0f}"
        met = None if shock else held >= goal
        figures.append(Figure(f"intervals that hold it, {name}", held, f"of {arguments.simulations}", asked, met))
        figures.append(Figure(f"mean width, {name}", 100 * width, "points"))
    write_figures("staleness", figures)


if __name__ == "__main__":
    main()
