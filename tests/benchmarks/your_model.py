"""make bench-your-model: docs/your-model.md, followed with a table of a million rows, from `sundial new` to answers.

Every block of the page is done as its reader would do it, in a project of its own, by commands and edits of the user's
own files alone; only the number of rows that the page's table is made with differs. Told are the seconds of the
commands that take some, and the largest sum of proportional set sizes (PSS, proc(5)) of all processes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path

import psutil

from tests.benchmarks.figures import Figure, write_figures
from tests.benchmarks.notebooks import sum_pss_mib
from tests.e2e.guide import Reader, read_blocks, read_guide

WORTH_TELLING = 2.0
SAMPLE_SECONDS = 1.0


def watch(peak: list[float], stop: threading.Event) -> None:
    """Keep the largest sum of memory of all that this process has started."""
    while not stop.wait(SAMPLE_SECONDS):
        peak[0] = max(peak[0], sum(map(sum_pss_mib, psutil.Process().children())))


def follow(reader: Reader, rows: int) -> tuple[list[Figure], str]:
    """Do the page; give its seconds, and what its last command printed."""
    figures, told, began, start = [], "", time.monotonic(), 0.0
    for block in read_blocks():
        text = block.text.replace("make_table.py 20000", f"make_table.py {rows}")
        start = time.monotonic()
        told = reader.follow(type(block)(block.language, block.words, text))
        seconds = time.monotonic() - start
        if seconds > WORTH_TELLING:
            command = text.strip().splitlines()[-1].partition(" --decision")[0]
            figures.append(Figure(command, seconds, "s"))
            print(f"{seconds:7.1f} s  {command}", flush=True)
    return [*figures, Figure("from nothing to answers of an approved release", time.monotonic() - began, "s")], told


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the table")
    rows = parser.parse_args().rows
    peak, stop = [0.0], threading.Event()
    with tempfile.TemporaryDirectory() as folder, read_guide(Path(folder)) as reader:
        watcher = threading.Thread(target=watch, args=(peak, stop), daemon=True)
        watcher.start()
        figures, told = follow(reader, rows)
        stop.set()
        watcher.join()
        print(told)
        status = json.loads(reader.run("sundial status --pipeline payments --json").stdout)
    version = status["aliases"]["production"]["version"]
    approved = bool(version) and "0 failed" in told
    write_figures(
        "your-model",
        [
            Figure("rows of the table", rows, "rows"),
            *figures,
            Figure("memory of all processes", peak[0], "MiB"),
            Figure("version in production, approved", version or 0, "", "1, no request failed", approved),
        ],
    )


if __name__ == "__main__":
    main()
