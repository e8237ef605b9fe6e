"""Evidence as tables: scraps of whatever shape, laid out so that a form and a page can show them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

MOST_LINES = 8


@dataclass(frozen=True)
class Table:
    """A small table of texts.

    Attributes
    ----------
    header : tuple of str
        Names of the columns.
    rows : tuple of tuple of str
        Cells.
    title : str
        What stands above it; empty for nothing.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""

    def to_markdown(self, most_lines: int = MOST_LINES) -> str:
        """Write it as Markdown, cut where it is long."""
        lines = [self.header, ("---",) * len(self.header), *self.rows[:most_lines]]
        text = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        left = len(self.rows) - most_lines
        return text + (f"\n\n… and {left} more lines." if left > 0 else "")


def lay_out(found: Any, title: str = "") -> Iterator[Table]:
    """Lay out scraps of whatever shape: one list of single values, and a table for each table of values.

    Parameters
    ----------
    found : object
        A scrap, or a mapping of scraps.
    title : str
        What stands above the first table.

    Yields
    ------
    Table
    """
    if not isinstance(found, Mapping):
        yield Table(("", "value"), ((show(found), ""),), title)
        return
    if _is_table(found):
        yield matrix(found, title)
        return
    rest = dict(found)
    models, difference = rest.get("metrics"), rest.get("against_production")
    if _is_table(models) and isinstance(difference, Mapping) and not is_single(difference):
        rest = {name: value for name, value in rest.items() if name not in ("metrics", "against_production")}
        yield matrix(_turned({**models, "difference (positive: better)": difference}), title)
        title = ""
    single = tuple((words(name), show(value)) for name, value in rest.items() if is_single(value))
    if single:
        yield Table(("", "value (95 % interval)"), single, title)
    for name, value in rest.items():
        if isinstance(value, Mapping) and value and not is_single(value):
            yield from lay_out(value, words(name))


def matrix(lines: Mapping[str, Mapping[str, Any]], title: str = "") -> Table:
    """Lay out a line of single values under each name."""
    columns = list(dict.fromkeys(key for line in lines.values() for key in line))
    rows = tuple(
        (words(name), *(show(line[key]) if key in line else "" for key in columns)) for name, line in lines.items()
    )
    return Table(("", *map(words, columns)), rows, title)


def _is_table(value: Any) -> TypeGuard[Mapping[str, Mapping[str, Any]]]:
    """Tell whether each item is a line of single values."""
    return (
        isinstance(value, Mapping)
        and bool(value)
        and not is_single(value)
        and all(isinstance(line, Mapping) and not is_single(line) for line in value.values())
        and all(is_single(cell) for line in value.values() for cell in line.values())
    )


def _turned(lines: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Make rows columns: a few models beside each other are easier to read than many metrics."""
    columns = dict.fromkeys(key for line in lines.values() for key in line)
    return {key: {name: line[key] for name, line in lines.items() if key in line} for key in columns}


def is_estimate(value: Any) -> TypeGuard[Mapping[str, Any]]:
    """Tell whether a scrap is an estimate with its interval."""
    return isinstance(value, Mapping) and {"estimate", "low", "high"} <= value.keys()


def is_single(value: Any) -> bool:
    """Tell whether a scrap fits into one cell."""
    short = isinstance(value, Sequence) and all(isinstance(item, str | int | float) for item in value)
    return is_estimate(value) or value is None or isinstance(value, str | int | float) or short


def words(name: str) -> str:
    """Write a name as words."""
    return str(name).replace("_", " ")


def show(value: Any) -> str:
    """Write a value as people read it, an estimate with its interval.

    Examples
    --------
    >>> show({"estimate": 0.0185, "low": -0.004, "high": 0.041}), show(6402), show(None)
    ('0.018 (-0.004 to 0.041)', '6,402', '')
    """
    if is_estimate(value):
        if not math.isfinite(value["estimate"]):
            return "undefined"
        return f"{show(value['estimate'])} ({show(value['low'])} to {show(value['high'])})"
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        if not math.isfinite(value):
            return "undefined"
        if value == int(value):
            return f"{int(value):,}"
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}" if abs(value) < 0.001 else f"{value:.3f}"
    text = str(value) if isinstance(value, str) or not isinstance(value, Sequence) else ", ".join(map(show, value))
    return text if len(text) <= 120 else f"{text[:119]}…"
