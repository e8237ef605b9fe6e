"""Run by make bench-faults: thirteen stages and ten faults; each must be seen, named, harmless, and gone on from.

Each cell is written to ``artifacts/bench/faults-cells.jsonl`` as soon as it is known, and a rerun measures only those
that are missing; ``--again`` forgets. ``--only 03,05`` and ``--fault hang`` choose. The page docs/faults.md is written
from the file, so no cell of it is anybody's word.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sundial.cli.application import end_like_ctrl_c
from sundial.formats import write_json_atomically
from sundial.settings import load_settings
from tests.benchmarks.faults.chain import DETECTED_WITHIN, FIRST, STAGES, Cell, Chain
from tests.benchmarks.faults.page import write_page
from tests.benchmarks.faults.results import differences
from tests.benchmarks.faults.system import System, running
from tests.benchmarks.figures import Figure, write_figures

FAULTS = (
    "exception",
    "hang",
    "kernel killed",
    "out of memory",
    "empty input",
    "stale input",
    "corrupt artifact",
    "Prefect server restarted",
    "worker killed",
    "disk full",
)
UNDISTURBED = ("undisturbed", "undisturbed_again")
GROUPS = {  # each has a pipeline of its own, and its faults happen in one release of it
    "disturbed_in_cells": FAULTS[:4],
    "disturbed_in_data": FAULTS[4:7],
    "disturbed_around": FAULTS[7:],  # whole services: nothing else may run meanwhile
}
ALONE = "disturbed_around"
GOAL_MINUTES = 25.0


class Book:
    """What is known: the cells, and what undisturbed releases made."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "faults-cells.jsonl"
        self.undisturbed = folder / "faults-undisturbed.json"
        self._lock = threading.Lock()

    def cells(self) -> dict[tuple[str, str], Cell]:
        """Read the cells; of one that was measured more than once, the last."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        found = [Cell(**json.loads(line)) for line in lines]
        return {(cell.stage, cell.fault): cell for cell in found}

    def add(self, cell: Cell) -> None:
        """Keep a cell, and say it."""
        with self._lock, self.path.open("a") as file:
            file.write(json.dumps(cell.as_dict()) + "\n")
        seen = "-" if cell.seconds is None else f"{cell.seconds:.1f} s"
        verdict = "; ".join(cell.faults) or "holds"
        detail = f" {cell.other[:4]}" if cell.other else ""
        where = f"{cell.named_stage} cell {cell.named_cell or '-'}"
        print(
            f"{cell.fault:<25} {cell.stage:<26} {seen:>7}  {where:<34} {cell.resumed:<16} {verdict}{detail}", flush=True
        )


def choose(known: dict[tuple[str, str], Cell], arguments: argparse.Namespace) -> dict[str, list[str]]:
    """Choose what is to be measured: by stage, the faults."""
    numbers = [item.strip() for item in arguments.only.split(",") if item.strip()]
    faults = arguments.fault or FAULTS
    unknown = [fault for fault in faults if fault not in FAULTS]
    if unknown:
        raise SystemExit(f"no fault {unknown[0]!r}; there are: {', '.join(FAULTS)}")
    wanted = {}
    for stage in STAGES:
        if numbers and stage[:2] not in numbers:
            continue
        missing = [
            item for item in faults if arguments.again or (stage, item) not in known or known[stage, item].faults
        ]
        if missing:
            wanted[stage] = missing
    return wanted


def run_disturbed(chain: Chain, work: Callable[[], object], book: Book) -> None:
    """Measure the cells of a chain; what breaks off the measurement stands in the cell in which it did."""
    try:
        work()
    except Exception as error:  # noqa: BLE001  the other chains go on
        traceback.print_exc()
        for cell in [*chain.waiting, *([chain.open] if chain.open else [])]:
            cell.problem = f"broken off: {type(error).__name__}: {error}"[:300]
            book.add(cell)


def run_undisturbed(system: System, book: Book) -> dict[str, Any]:
    """Make two releases that nothing disturbs: what they differ in is no result of a fault."""

    def one(name: str) -> dict[str, dict[str, str]]:
        return Chain(system, name, {}, {}, book.add).go()

    with ThreadPoolExecutor(2) as pool:
        made, again = pool.map(one, UNDISTURBED)
    noise = {stage: differences(made[stage], again[stage]) for stage in STAGES}
    expected = {"made": made, "noise": noise}
    write_json_atomically(book.undisturbed, expected)
    return expected


def measure(wanted: dict[str, list[str]], book: Book, *, fresh: bool) -> None:
    """Run the system and the chains."""
    undisturbed = fresh or not book.undisturbed.exists()
    shares = {
        name: share
        for name, faults in GROUPS.items()
        if (share := {stage: [item for item in items if item in faults] for stage, items in wanted.items()})
        and any(share.values())
    }
    names = [*(UNDISTURBED if undisturbed else ()), *shares]
    with (
        tempfile.TemporaryDirectory(prefix="sundial-faults-") as folder,
        running(Path(folder), names, FIRST.date()) as system,
    ):
        print(f"up with {len(names)} pipelines", flush=True)
        if undisturbed:
            expected = run_undisturbed(system, book)
            print("two undisturbed releases are made", flush=True)
        else:
            expected = json.loads(book.undisturbed.read_text())
        chains = {name: Chain(system, name, share, expected, book.add) for name, share in shares.items()}
        with ThreadPoolExecutor(len(chains)) as pool:
            for name, chain in chains.items():
                pool.submit(run_disturbed, chain, chain.bring_first if name == ALONE else chain.go, book)
        if ALONE in chains:
            run_disturbed(chains[ALONE], chains[ALONE].disturb_all, book)


def list_figures(cells: list[Cell], minutes: float, *, whole: bool) -> list[Figure]:
    """Sum the cells up."""
    held = sum(not cell.faults for cell in cells)
    seconds = [max(cell.seconds, 0.0) for cell in cells if cell.seconds is not None]
    asked = len(STAGES) * len(FAULTS)
    worst = max(seconds, default=float("nan"))
    figures = [
        Figure("cells measured", len(cells), f"of {asked}", f"{asked}", len(cells) == asked),
        Figure("cells in which all holds", held, f"of {len(cells)}", f"{asked}", held == asked),
        Figure("from fault to message, median", statistics.median(seconds) if seconds else float("nan"), "s"),
        Figure("from fault to message, worst", worst, "s", f"<= {DETECTED_WITHIN:.0f}", worst <= DETECTED_WITHIN),
    ]
    if whole:
        figures.append(Figure("all cells at one go", minutes, "min", f"<= {GOAL_MINUTES:.0f}", minutes <= GOAL_MINUTES))
    return figures


def main() -> None:
    """Measure what is missing, and write figures and page."""
    parser = argparse.ArgumentParser(prog="make bench-faults")
    parser.add_argument("--only", default="", help="numbers of stages, such as 03,05")
    parser.add_argument("--fault", action="append", help="repeatable; all by default")
    parser.add_argument("--again", action="store_true", help="measure what is known too")
    parser.add_argument("--page", action="store_true", help="only write the page from what is known")
    arguments = parser.parse_args()
    end_like_ctrl_c()
    book = Book(load_settings().artifacts / "bench")
    wanted = {} if arguments.page else choose(book.cells(), arguments)
    began = time.monotonic()
    if wanted:
        measure(wanted, book, fresh=arguments.again)
    cells = book.cells()
    whole = sum(map(len, wanted.values())) == len(STAGES) * len(FAULTS)
    write_figures("faults", list_figures(list(cells.values()), (time.monotonic() - began) / 60, whole=whole))
    write_page(cells, STAGES, FAULTS)


if __name__ == "__main__":
    main()
