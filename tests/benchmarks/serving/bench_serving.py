"""Throughput and latency of Sundial, its peers and the empty app: ``make bench-serving``.

All servers of a model run at once, and all but the one that is measured are halted, so that passes alternate without
restarts. A figure is the median over the passes.
"""

from __future__ import annotations

import argparse
import signal
import statistics
from pathlib import Path

from figures import Figure, write_figures
from load import Load, closed_loop, open_loop
from models import BenchModel, make_models
from servers import KINDS, Kind, Server, make_environment, start

from sundial.settings import load_settings

CLIENTS = (8, 32)
RATE = 100.0  # requests a second of the open loop: what the slowest peer can do, too


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--models", nargs="*", default=["numbers", "flights"])
    parser.add_argument("--servers", nargs="*", default=[kind.name for kind in KINDS])
    arguments = parser.parse_args()
    folder = load_settings().artifacts / "bench"
    kinds = []
    for kind in KINDS:
        if kind.name in arguments.servers:
            reason = make_environment(kind, folder / "peers")
            if reason:
                print(f"{kind.name} could not be installed, and is not measured: {reason}")
            else:
                kinds.append(kind)
    figures: list[Figure] = []
    for model in make_models(folder / "models"):
        if model.name in arguments.models:
            found = measure(model, kinds, folder, arguments.passes, arguments.seconds)
            figures += tell(model.name, found)
    write_figures("serving", figures)


def measure(
    model: BenchModel, kinds: list[Kind], folder: Path, passes: int, seconds: float
) -> dict[str, dict[str, Load]]:
    """Measure all servers on a model; those that cannot be halted come last, alone."""
    found: dict[str, dict[str, Load]] = {}
    together = [kind for kind in kinds if kind.halts]
    for group in ([together] if together else []) + [[kind] for kind in kinds if not kind.halts]:
        servers: list[Server] = []
        try:
            for kind in group:
                server = start(kind, model, folder)
                servers.append(server)
                try:
                    server.wait_ready()
                except RuntimeError as error:
                    print(f"not measured: {error}")
                    server.stop()
                    servers.remove(server)
                    continue
                if kind.halts:
                    server.send(signal.SIGSTOP)
            loads: dict[str, list[dict[str, Load]]] = {server.kind.name: [] for server in servers}
            for number in range(passes):
                for server in servers if number % 2 == 0 else reversed(servers):
                    loads[server.kind.name].append(_measure_one(server, seconds, number))
        finally:
            for server in servers:
                server.stop()
        for name, several in loads.items():
            found[name] = {what: _median([load[what] for load in several]) for what in several[0]}
    return found


def _measure_one(server: Server, seconds: float, number: int) -> dict[str, Load]:
    if server.kind.halts:
        server.send(signal.SIGCONT)
    closed_loop(server.url, server.kind.path, server.bodies, 8, 1)  # warm
    loads = {
        f"{clients} clients": closed_loop(server.url, server.kind.path, server.bodies, clients, seconds)
        for clients in CLIENTS
    }
    loads["open loop"] = open_loop(server.url, server.kind.path, server.bodies, RATE, seconds, seed=number)
    if server.kind.halts:
        server.send(signal.SIGSTOP)
    return loads


def _median(loads: list[Load]) -> Load:
    middle = [statistics.median(values) for values in list(zip(*loads, strict=True))[:3]]
    return Load(middle[0], middle[1], middle[2], sum(load.failed for load in loads))


def tell(model: str, found: dict[str, dict[str, Load]]) -> list[Figure]:
    """Print the table of a model, and hold it against the goals."""
    print(f"\n{model}: requests a second, p50 / p99 in ms ({RATE:.0f} a second in the open loop)")
    columns = [*(f"{clients} clients" for clients in CLIENTS), "open loop"]
    print(f"{'':22}" + "".join(f"{column:>28}" for column in columns))
    figures = []
    for name, loads in found.items():
        cells = [f"{load.rate:,.0f}  {load.p50:.2f} / {load.p99:.2f}" for load in loads.values()]
        failed = sum(load.failed for load in loads.values())
        print(f"{name:22}" + "".join(f"{cell:>28}" for cell in cells) + (f"  {failed} failed" if failed else ""))
        for what, load in loads.items():
            figures += [
                Figure(f"{model}, {name}, {what}: throughput", round(load.rate, 1), "requests/s"),
                Figure(f"{model}, {name}, {what}: p50", round(load.p50, 3), "ms"),
                Figure(f"{model}, {name}, {what}: p99", round(load.p99, 3), "ms"),
            ]
    print()
    return figures + list(_goals(model, found))


def _goals(model: str, found: dict[str, dict[str, Load]]) -> list[Figure]:
    """Compare Sundial at 32 clients with what it should be."""
    at = {name: loads["32 clients"] for name, loads in found.items()}
    if "Sundial" not in at:
        return []
    ours = at.pop("Sundial")
    figures = []
    for name, least in (("MLServer adaptive", 10.0), ("naive FastAPI", 25.0), ("empty app", 0.5)):
        if name in at:
            ratio = ours.rate / at[name].rate
            goal = f"at least {least:g}"
            figures.append(
                Figure(f"{model}, 32 clients: throughput over {name}'s", round(ratio, 3), "times", goal, ratio >= least)
            )
    peers = {name: load.p99 for name, load in at.items() if name != "empty app"}
    if peers:
        best = min(peers, key=lambda name: peers[name])
        ratio = ours.p99 / peers[best]
        what = f"{model}, 32 clients: p99 over the best peer's ({best})"
        figures.append(Figure(what, round(ratio, 3), "times", "at most 0.3", ratio <= 0.3))
    return figures


if __name__ == "__main__":
    main()
