"""What a shadow costs production: ``make bench-shadow``.

One model server and one shadow scorer, both of the model that ships. The shadow comes and goes by its alias, in turn
with runs without it, so that both see the same machine; and runs without it are held against each other, which says how
much of a difference is the machine's. A figure is the median over the runs.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import httpx
from figures import Figure, write_figures
from load import Load, closed_loop, open_loop
from models import make_models

from sundial.serving.predictions import log_position
from sundial.settings import Settings, load_settings

RATE = 400.0  # requests a second of the open loop
CLIENTS = 8  # of the closed one
PATIENCE = 60.0


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=9, help="with the shadow; as many pairs are without it")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each open loop")
    parser.add_argument("--model", default="flights")
    arguments = parser.parse_args()
    folder = load_settings().artifacts / "bench"
    (model,) = [model for model in make_models(folder / "models") if model.name == arguments.model]
    work = folder / "work" / "shadow"
    shutil.rmtree(work, ignore_errors=True)
    from folder_source import FolderSource
    from processes import running

    source = FolderSource(Path(shutil.copytree(model.folder / "source", work / "models")))
    settings = Settings(artifacts=work / "artifacts")
    bodies = _bodies(model.rows)
    with (
        running("server", settings.artifacts, source.root) as server,
        running("scorer", settings.artifacts, source.root),
    ):
        server.wait_ready()
        closed_loop(server.url, "/invocations", bodies, CLIENTS, 2)  # warm
        found: dict[str, list[tuple[Load, Load]]] = {"off": [], "off again": [], "on": []}
        orders = (("off", "on", "off again"), ("on", "off", "off again"), ("off again", "off", "on"))
        for number in range(arguments.runs):
            for what in orders[number % 3]:
                _point(source, server.url, settings, on=what == "on")
                steady = open_loop(server.url, "/invocations", bodies, RATE, arguments.seconds, seed=number)
                full = closed_loop(server.url, "/invocations", bodies, CLIENTS, 2)
                found[what].append((steady, full))
                print(f"{number + 1}/{arguments.runs} {what:10} p99 {steady.p99:7.2f} ms  {full.rate:8.0f} requests/s")
    write_figures("shadow", list(_figures(found)))


def _bodies(rows: list[dict[str, Any]]) -> list[bytes]:
    import json

    return [json.dumps({"dataframe_records": [row]}).encode() for row in rows]


def _point(source: Any, url: str, settings: Settings, *, on: bool) -> None:
    """Put a version in shadow, from here on, or take it out; and wait until the scorer has done so."""
    source.point("shadow", 2 if on else None, **({"shadow_from": log_position("demo", settings)} if on else {}))
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        shadow = httpx.get(f"{url}/health", trust_env=False, timeout=10).json()["shadow"]
        scorer = shadow.get("scorer") or {}
        if shadow["version"] == ("2" if on else None) and (not on or str(scorer.get("version")) == "2"):
            time.sleep(1)
            return
        time.sleep(0.1)
    raise RuntimeError(f"the shadow is not {'on' if on else 'off'} after {PATIENCE:.0f} s")


def _figures(found: dict[str, list[tuple[Load, Load]]]) -> list[Figure]:
    """Hold the runs with the shadow against those without, and those without against each other."""

    def p99(what: str) -> list[float]:
        return [steady.p99 for steady, _ in found[what]]

    def rate(what: str) -> list[float]:
        return [full.rate for _, full in found[what]]

    def ratio(left: list[float], right: list[float]) -> float:
        return round(statistics.median(left) / statistics.median(right), 3)

    without = [*p99("off"), *p99("off again")]
    rates = [*rate("off"), *rate("off again")]
    slower, faster = ratio(p99("on"), without), ratio(rate("on"), rates)
    failed = sum(load.failed for runs in found.values() for pair in runs for load in pair)
    return [
        Figure(f"p99 at {RATE:.0f} a second, no shadow", round(statistics.median(without), 3), "ms"),
        Figure(f"p99 at {RATE:.0f} a second, one shadow", round(statistics.median(p99("on")), 3), "ms"),
        Figure("p99, one shadow over none", slower, "times", "at most 1.05", slower <= 1.05),
        Figure("p99, none over none", ratio(p99("off again"), p99("off")), "times"),
        Figure("p99, no shadow: spread (quartiles over the median)", _spread(without), "times"),
        Figure(f"throughput at {CLIENTS} clients, no shadow", round(statistics.median(rates)), "requests/s"),
        Figure("throughput, one shadow over none", faster, "times", "at least 0.97", faster >= 0.97),
        Figure("throughput, none over none", ratio(rate("off again"), rate("off")), "times"),
        Figure("throughput, no shadow: spread (quartiles over the median)", _spread(rates), "times"),
        Figure("failed requests", float(failed), "requests", "none", failed == 0),
    ]


def _spread(values: list[float]) -> float:
    low, middle, high = statistics.quantiles(values, n=4)
    return round((high - low) / middle, 3)


if __name__ == "__main__":
    main()
