"""What a benchmark writes: its figures with their goals, as a table and as artifacts/bench/<name>.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sundial.formats import write_json_atomically
from sundial.settings import load_settings


class Figure(NamedTuple):
    """One figure of a benchmark.

    Attributes
    ----------
    figure : str
        What was measured.
    value : float
        How much.
    unit : str
        Of what.
    goal : str
        What was asked, in words; empty for a figure that is only told.
    met : bool or None
        Whether it is; None without a goal.
    """

    figure: str
    value: float
    unit: str
    goal: str = ""
    met: bool | None = None


def write_figures(name: str, figures: Sequence[Figure]) -> Path:
    """Print the figures as a table, and write them to ``artifacts/bench/<name>.json``."""
    rows: list[dict[str, Any]] = [item._asdict() for item in figures]
    width = max(len(item.figure) for item in figures)
    for item in figures:
        verdict = {True: "met", False: "MISSED", None: ""}[item.met]
        print(f"{item.figure:<{width}}  {item.value:>10.4g} {item.unit:<12} {item.goal:<20} {verdict}")
    path = write_json_atomically(load_settings().artifacts / "bench" / f"{name}.json", rows)
    print(f"written to {path}")
    return path
