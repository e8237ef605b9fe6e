"""What the evidence is worth: error rates of the comparison on simulated weeks, and its cost on a large log.

Run by ``make bench-evidence``. Everything is seeded, but for the times.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np

from sundial.declarations import SegmentSpec
from sundial.evaluation.gates import judge_gate
from sundial.evaluation.guardrail import compare_groups, summarize_guardrail
from sundial.evaluation.policy import fit_score_map
from sundial.evaluation.segments import count_cells, join_relations
from sundial.pipeline import Gate
from tests.benchmarks.figures import Figure, write_figures
from tests.benchmarks.simulation import PLACE, THRESHOLD, place_sizes, simulate_week, value

GATE = Gate(gate="nobody is worse off", scrap="10_compare_shadow.guardrail", allowed_harm=0.0)
GIB = 2**30
HARMED = 5
LARGE = 1000  # requests a week
SEGMENTS = (
    SegmentSpec(name="carrier", columns=("carrier",)),
    SegmentSpec(name="origin", columns=("origin",)),
    SegmentSpec(name="route", columns=("origin", "dest")),
)


class Week(NamedTuple):
    """What a simulated week came to."""

    stopped: bool
    harmed: int  # of the harmed, how many were named
    others: int  # named and not harmed
    gain: float  # money a thousand requests, shadow - production
    recall: float  # mean change of recall in the harmed


def tell(figure: str, value: float, unit: str, goal: str = "", met: object = None) -> Figure:
    """Make a figure of plain numbers, whatever numpy gave."""
    return Figure(figure, float(value), unit, goal, None if met is None else bool(met))


def judge_week(seed: int, days: int, harm: float = 0.0, smallest: int = LARGE) -> Week:
    """Simulate a week of 140,000 requests in 200 places, and have the gate judge it."""
    places: dict[int, float] = {}
    if harm:
        large = np.flatnonzero(place_sizes() >= smallest)
        places = dict.fromkeys(np.random.default_rng(10_000 + seed).choice(large, HARMED, replace=False).tolist(), harm)
    week = simulate_week(seed, days=days, noise=(0.7, 0.5) if harm else (0.7, 0.7), harm=places)
    compared = compare_groups(count_cells(week, PLACE, label="late"), value)
    result = judge_gate(GATE, {"10_compare_shadow": {"guardrail": summarize_guardrail(compared)}})
    table = compared.table.reset_index()
    worse = set(re.findall(r"place (p\d+),", result.sentence))
    harmed = {f"p{number}" for number in places}
    recall = table[table["of"].isin(list(harmed)) & (table["figure"] == "recall")]["difference"].mean() if harm else 0.0
    gain = value(week["late"], week["shadow_decision"]) - value(week["late"], week["production_decision"])
    return Week(not result.passed, len(worse & harmed), len(worse - harmed), 1000 * float(gain.mean()), float(recall))


def error_rates(runs: int) -> Iterable[Figure]:
    """Stop rates of two models alike, and of candidates that are better for all but five."""
    for days in (7, 5):
        stopped = np.mean([judge_week(seed, days).stopped for seed in range(runs)])
        yield tell(f"A/A, {days} days: stopped, of {runs}", 100 * stopped, "%", "<= 5", stopped <= 0.05)
    for harm, smallest, judged in ((2.0, LARGE, True), (1.2, LARGE, False), (0.8, LARGE, False), (2.0, 500, False)):
        weeks = [judge_week(seed, 7, harm, smallest) for seed in range(runs if judged else runs // 2)]
        lost = -100 * np.mean([week.recall for week in weeks])
        about = f"5 of 200 harmed, {smallest:,}+ requests each, recall -{lost:.0f} points"
        caught, named = np.mean([week.stopped for week in weeks]), np.mean([week.harmed == HARMED for week in weeks])
        goal = (">= 95", caught >= 0.95) if judged else ("", None)
        yield tell(f"{about}: stopped", 100 * caught, "%", *goal)
        goal = (">= 95", named >= 0.95) if judged else ("", None)
        yield tell(f"{about}: all five named", 100 * named, "%", *goal)
        yield tell(f"{about}: harmed that were named", 100 * np.mean([week.harmed / 5 for week in weeks]), "%")
        yield tell(f"{about}: somebody else named", 100 * np.mean([week.others > 0 for week in weeks]), "%")
        yield tell(f"{about}: gain of 1,000 requests", float(np.mean([week.gain for week in weeks])), "money")


def squared_scores() -> Iterable[Figure]:
    """Map a candidate that squares production's scores back: fitted on one week, used on another."""
    fitted, fresh = simulate_week(0), simulate_week(1)
    before = fresh["production_score"].to_numpy()
    score_map = fit_score_map(fitted["production_score"], fitted["production_score"] ** 2, THRESHOLD)
    mapped = score_map(before**2)
    share = (before >= THRESHOLD).mean()
    unmapped, shift = ((scores >= THRESHOLD).mean() - share for scores in (before**2, mapped))
    moved = int((np.argsort(mapped, kind="stable") != np.argsort(before, kind="stable")).sum())
    yield tell(
        "scores squared: alert share moves, unmapped", 100 * abs(unmapped), "points", "> 5", abs(unmapped) > 0.05
    )
    yield tell("scores squared: alert share moves, mapped", 100 * abs(shift), "points", "< 0.1", abs(shift) < 0.001)
    yield tell("scores squared: ranks that the map changed", moved, "rows", "0", moved == 0)


def write_log(folder: Path, rows: int) -> None:
    """Write a log of that many requests, the shadow's scores and four fifths of the labels, each in its own order."""
    with duckdb.connect() as connection:
        connection.execute("SET enable_progress_bar = false")
        connection.execute("SELECT setseed(0.5)")
        connection.execute(f"""
            CREATE TABLE log AS SELECT i AS key, i AS entity,
                TIMESTAMP '2020-01-06' + INTERVAL (CAST(floor(i * 604800.0 / {rows}) AS BIGINT)) SECOND AS event_time,
                'c' || CAST(floor(20 * pow(random(), 2)) AS INT) AS carrier,
                'o' || CAST(floor(3 * random()) AS INT) AS origin,
                'd' || CAST(floor(159 * pow(random(), 1.5)) AS INT) AS dest,
                random() AS score FROM range({rows}) t(i)
        """)  # noqa: S608  a number
        for name, query in {
            "log": "SELECT *, score >= 0.8 AS decision FROM log",
            "scores": "SELECT key, 0.9 * score + 0.1 * random() AS score, score >= 0.78 AS decision FROM log ORDER BY hash(key)",  # noqa: E501  a query
            "labels": "SELECT entity, CAST(random() < score AS TINYINT) AS late FROM log WHERE key % 5 > 0 ORDER BY hash(key)",  # noqa: E501  a query
        }.items():
            connection.execute(f"COPY ({query}) TO '{folder / name}.parquet'")


def measure_scale(folder: str, rounds: int, answer: multiprocessing.connection.Connection) -> None:
    """Time the bare join, and the join with counting and judging, in turn; in a process of its own, for its memory."""
    with duckdb.connect() as connection:
        connection.execute("SET enable_progress_bar = false")

        def join() -> duckdb.DuckDBPyRelation:
            tables = (connection.read_parquet(f"{folder}/{name}.parquet") for name in ("log", "scores", "labels"))
            return join_relations(*tables, entity="entity", label="late")

        columns = ", ".join(f"max({name})" for name in join().columns if not name.endswith(("key", "entity")))
        times: dict[str, list[float]] = {"bare": [], "compared": []}
        groups = 0
        for _ in range(rounds):
            begun = time.perf_counter()
            join().query("joined", f"SELECT count(*), {columns} FROM joined").fetchall()  # noqa: S608  our own columns
            times["bare"].append(time.perf_counter() - begun)
            begun = time.perf_counter()
            cells = count_cells(join(), SEGMENTS, label="late")
            compare_groups(cells, value)
            times["compared"].append(time.perf_counter() - begun)
            groups = len(cells[["segment", "of"]].drop_duplicates())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    answer.send((statistics.median(times["bare"]), statistics.median(times["compared"]), groups, peak))


def scale(rows: int, rounds: int) -> Iterable[Figure]:
    """Compare segments on a large log in Parquet."""
    with tempfile.TemporaryDirectory(prefix="sundial-bench-") as folder:
        write_log(Path(folder), rows)
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=measure_scale, args=(folder, rounds, theirs))
        process.start()
        theirs.close()
        bare, compared, groups, peak = ours.recv()
        process.join()
    about = f"{rows:,} rows, {groups} segments"
    yield tell(f"{about}: bare join of the same columns", bare, f"s, median of {rounds}")
    yield tell(f"{about}: joined, counted, judged", compared, f"s, median of {rounds}")
    yield tell(f"{about}: ratio", compared / bare, "times", "<= 2", compared / bare <= 2)
    yield tell(f"{about}: memory", peak / GIB, "GiB", "< 4", peak < 4 * GIB)


def main(arguments: list[str] | None = None) -> int:
    """Run all of it, and write artifacts/bench/evidence.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200, help="simulated weeks a figure")
    parser.add_argument("--rows", type=int, default=5_000_000, help="logged rows")
    parser.add_argument("--rounds", type=int, default=5, help="times that each time is taken")
    given = parser.parse_args(arguments)
    figures = [*scale(given.rows, given.rounds), *squared_scores(), *error_rates(given.runs)]
    write_figures("evidence", figures)
    return 0 if all(figure.met is not False for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
