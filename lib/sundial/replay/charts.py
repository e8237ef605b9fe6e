"""Charts for the pages, drawn by matplotlib as SVG: part of the page, so that it opens offline."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

INK, ACCENT, SOFT, GOOD, BAD = "#1f2328", "#d9730d", "#64748b", "#1a7f4b", "#b3261e"
PALETTE = ("#0f172a", "#d9730d", "#64748b", "#0d9488", "#7c3aed", "#b45309", "#94a3b8", "#be123c", "#e2e8f0")


def draw(paint: Callable[[Any], None], *, size: tuple[float, float] = (10.0, 3.6), columns: int = 1) -> str:
    """Draw a figure.

    Parameters
    ----------
    paint : callable
        Given the axes: one, or an array of them.
    size : tuple of float
        Inches.
    columns : int
        Axes beside each other.

    Returns
    -------
    str
        A ``data:`` address for an image, the same for the same picture.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots(1, columns)
    paint(axes)
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    import matplotlib as mpl

    with mpl.rc_context({"svg.hashsalt": "sundial", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def draw_lines(
    table: pd.DataFrame, *, title: str, ylabel: str, zero: bool = False, size: tuple[float, float] = (10.0, 3.6)
) -> str:
    """Draw a line a column over the weeks of the index."""

    def paint(axis: Any) -> None:
        for name, color in zip(table, PALETTE, strict=False):
            axis.plot(table.index, table[name], "o-", color=color, markersize=3, linewidth=1.4, label=str(name))
        if zero:
            axis.axhline(0, color=INK, linewidth=0.8)
        axis.set(title=title, ylabel=ylabel)
        axis.legend(frameon=False, fontsize=9, ncols=min(len(table.columns), 4))
        _date_axis(axis)

    return draw(paint, size=size)


def draw_shares(table: pd.DataFrame, *, title: str, marks: Mapping[pd.Timestamp, str] | None = None) -> str:
    """Draw shares that add up to 1 as bands over the weeks, with a mark where something new appeared."""

    def paint(axis: Any) -> None:
        colors = [*PALETTE[: len(table.columns) - 1], PALETTE[-1]] if len(table.columns) > 1 else [PALETTE[0]]
        axis.stackplot(table.index, 100 * table.T, labels=list(table), colors=colors, edgecolor="white", linewidth=0.4)
        for week, text in (marks or {}).items():
            axis.axvline(week, color=BAD, linewidth=1, linestyle=":")
            axis.text(week, 101, text, color=BAD, fontsize=7, rotation=60, ha="left", va="bottom")
        axis.set(title=title, ylabel="percent of requests", ylim=(0, 100), xlim=(table.index[0], table.index[-1]))
        axis.title.set_y(1.12 if marks else 1.0)
        axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), reverse=True)
        _date_axis(axis)

    return draw(paint, size=(10.0, 3.8))


def draw_intervals(
    estimates: Mapping[str, Mapping[str, Any]],
    *,
    title: str,
    xlabel: str,
    scale: float = 1.0,
    note: float | None = None,
) -> str:
    """Draw an estimate and its interval a line, with a dotted line at zero and, where given, at another number."""

    def paint(axis: Any) -> None:
        for row, one in enumerate(estimates.values()):
            axis.plot([scale * one["low"], scale * one["high"]], [row, row], color=ACCENT, linewidth=3)
            axis.plot(scale * one["estimate"], row, "o", color=INK, markersize=5)
        axis.axvline(0, color=INK, linestyle=":", linewidth=1)
        if note is not None:
            axis.axvline(scale * note, color=BAD, linestyle="--", linewidth=1)
        axis.set_yticks(range(len(estimates)), list(estimates))
        axis.invert_yaxis()
        axis.set(title=title, xlabel=xlabel)

    return draw(paint, size=(9.0, 0.5 * len(estimates) + 1.2))


def draw_sweeps(sweeps: Mapping[str, pd.DataFrame]) -> str:
    """Draw, for each gate at all its bounds, the planted releases that it catches over the sound ones it stops."""

    def paint(axis: Any) -> None:
        for number, (name, table) in enumerate(sweeps.items()):
            color, dashed = PALETTE[number % len(PALETTE)], number >= len(PALETTE)
            shown = pd.DataFrame(
                {
                    "false": 100 * table["false_stops"] / table["sound"].clip(lower=1),
                    "caught": 100 * table["caught"] / table["planted"].clip(lower=1),
                    "declared": table["declared"],
                }
            ).sort_values(["false", "caught"])
            style = {"color": color, "linewidth": 1.6, "linestyle": "--" if dashed else "-", "drawstyle": "steps-post"}
            axis.plot(shown["false"], shown["caught"], label=name, **style)
            own = shown[shown["declared"]]
            axis.plot(own["false"], own["caught"], "D", color=color, markersize=6)
        axis.set(
            title="Each gate at every bound (diamond: as declared)",
            xlabel="sound releases stopped, percent",
            ylabel="planted bad releases stopped, percent",
            xlim=(-2, 102),
            ylim=(-2, 102),
        )
        axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))

    return draw(paint, size=(10.0, 4.6))


def _date_axis(axis: Any) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(maxticks=12)  # type: ignore[no-untyped-call]  # matplotlib has no types
    axis.xaxis.set_major_locator(locator)
    axis.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]  # the same


def as_cells(table: pd.DataFrame, columns: Sequence[str] | None = None) -> dict[str, Any]:
    """Turn a table into head and rows for a template; what is no number or text is shown as text."""
    shown = table[list(columns)] if columns else table
    return {"head": [str(name) for name in shown], "rows": shown.astype(object).to_numpy().tolist()}
