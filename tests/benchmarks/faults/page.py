"""Writes the tables of docs/faults.md from the measured cells, between the page's marks."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.benchmarks.faults.chain import Cell

PAGE = Path(__file__).resolve().parents[3] / "docs" / "faults.md"


def write_page(cells: Mapping[tuple[str, str], Cell], stages: Sequence[str], faults: Sequence[str]) -> None:
    """Put the tables into the page."""
    text = PAGE.read_text(encoding="utf-8")
    for name, lines in (
        ("matrix", _matrix(cells, stages, faults)),
        ("times", _times(cells, stages, faults)),
        ("resumed", _resumed(cells, stages, faults)),
    ):
        block = f"<!-- {name} -->\n" + "\n".join(lines) + f"\n<!-- end of {name} -->"
        text = re.sub(rf"<!-- {name} -->.*<!-- end of {name} -->", lambda _, put=block: put, text, flags=re.S)
    PAGE.write_text(text, encoding="utf-8")


def _matrix(cells: Mapping[tuple[str, str], Cell], stages: Sequence[str], faults: Sequence[str]) -> list[str]:
    lines = ["| stage | " + " | ".join(faults) + " |", "| --- " * (len(faults) + 1) + "|"]
    for stage in stages:
        row = [_show(cells.get((stage, fault))) for fault in faults]
        lines.append(f"| {stage} | " + " | ".join(row) + " |")
    return lines


def _show(cell: Cell | None) -> str:
    if cell is None:
        return "not measured"
    if cell.faults:
        return "FAILS: " + "; ".join(cell.faults).replace("|", "/")
    where = f"cell {cell.named_cell}" if cell.named_cell else "after its cells"
    return f"{max(cell.seconds or 0.0, 0.0):.1f} s, {where}"


def _times(cells: Mapping[tuple[str, str], Cell], stages: Sequence[str], faults: Sequence[str]) -> list[str]:
    lines = ["| fault | cells | all holds | median, s | worst, s |", "| --- | ---: | ---: | ---: | ---: |"]
    for fault in faults:
        found = [cells[stage, fault] for stage in stages if (stage, fault) in cells]
        seconds = [max(cell.seconds, 0.0) for cell in found if cell.seconds is not None]
        held = sum(not cell.faults for cell in found)
        times = f"{statistics.median(seconds):.1f} | {max(seconds):.1f}" if seconds else "- | -"
        lines.append(f"| {fault} | {len(found)} | {held} | {times} |")
    return lines


def _resumed(cells: Mapping[tuple[str, str], Cell], stages: Sequence[str], faults: Sequence[str]) -> list[str]:
    lines = ["| fault | went on | an alarm of it |", "| --- | --- | --- |"]
    for fault in faults:
        found = [cells[stage, fault] for stage in stages if (stage, fault) in cells]
        if not found:
            continue
        ways: dict[str, list[str]] = {}
        for cell in found:
            ways.setdefault(cell.resumed or "did not", []).append(cell.stage[:2])
        said = "; ".join(way if len(ways) == 1 else f"{', '.join(where)}: {way}" for way, where in ways.items())
        cause = found[min(5, len(found) - 1)].cause.replace("|", "/")
        cause = re.sub(r"/\S*/(?=runs/)", "…/", cause)
        lines.append(f"| {fault} | {said} | {cause[:160]} |")
    return lines
