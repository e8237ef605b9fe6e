"""Runs a replay to its end: a Prefect server to show it, the flow in a process of its own, and a bar that moves.

Beside them one model server for the rehearsals of all promotions: a fresh one each time would cost five seconds of the
chain that everything waits for. Where steps run on other machines, each promotion starts its own.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sundial.errors import ServiceError
from sundial.formats import write_json_atomically
from sundial.operations.services import (
    Service,
    Supervisor,
    answers,
    free_port,
    prefect_environment,
    prefect_server,
    tail,
)
from sundial.release.registry import Registry
from sundial.replay.plan import list_steps
from sundial.replay.replays import SERVER, Replay, isolate, own_environment
from sundial.settings import Settings

POLL_SECONDS = 0.5


def run_replay(
    replay: Replay,
    settings: Settings,
    *,
    workers: int = 0,
    say: Callable[[str], None] = print,
    progress: Callable[[int, int], None] | None = None,
) -> float:
    """Go on with a replay until all of its steps are done.

    Parameters
    ----------
    replay : Replay
        Begun before; what was done is kept.
    settings : Settings
        The real ones: a Prefect server that they name, or that runs, is used; else one is started, and ended again.
    workers : int
        Steps at a time; by default as the settings say.
    say : callable
        Told addresses.
    progress : callable, optional
        Told how many steps are done, and of how many.

    Returns
    -------
    float
        Seconds that this part of it took.

    Raises
    ------
    ServiceError
        When the flow ended early; shows the end of its log.
    """
    total = len(list_steps(replay))
    log = settings.logs / f"replay-{replay.name}.log"
    with Supervisor(settings) as supervisor, _rehearsal_server(replay, settings, supervisor):
        if not answers(f"{settings.prefect_api_url}/health"):
            supervisor.add(prefect_server(settings)).wait_ready()
        say(f"Prefect  {settings.prefect_api_url.removesuffix('/api')}")
        command = [sys.executable, "-m", "flows.replay", str(replay.folder), str(workers)]
        begun = time.monotonic()
        flow = Service("replay", command, log, lambda: True, environment=prefect_environment(settings))
        supervisor.add(flow)
        while flow.is_running:
            if progress is not None:
                progress(_count(replay), total)
            time.sleep(POLL_SECONDS)
        seconds = time.monotonic() - begun
        code = flow.process.returncode if flow.process else None
        if code or _count(replay) < total:
            raise ServiceError(
                f"replay {replay.name} ended with {code} after {_count(replay)} of {total} steps:\n{tail(log)}",
                hint=f"see {log}; the same command goes on from there",
            )
        if progress is not None:
            progress(total, total)
    return seconds


@contextmanager
def _rehearsal_server(replay: Replay, settings: Settings, supervisor: Supervisor) -> Iterator[None]:
    """Have a model server that follows the replay's registry, with a log of its own; a step finds it by its file."""
    if settings.dask_scheduler:
        yield
        return
    with isolate(replay.settings):
        Registry(replay.settings).versions(replay.pipeline.name)  # the server would make the same tables at once
    port = free_port(settings.host)
    environment = {
        **own_environment(replay.settings),
        "SUNDIAL_ARTIFACTS": str(replay.folder / "rehearsals"),
        "SUNDIAL_SERVE_WORKERS": "1",
    }
    command = [sys.executable, "-m", "sundial", "serve", "--pipeline", replay.pipeline.name, "--port", str(port)]
    log = replay.settings.logs / "model-server.log"
    supervisor.add(Service("model server of the rehearsals", command, log, lambda: True, environment=environment))
    path = replay.folder / SERVER
    write_json_atomically(path, {"serve_port": port - replay.pipeline.serve_port_offset})
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _count(replay: Replay) -> int:
    return sum(1 for _ in (replay.folder / "steps").glob("*.json"))
