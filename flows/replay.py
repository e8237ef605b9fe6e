"""replay: weeks of the past, released again in parallel; Prefect spreads the steps, and sundial.replay does them."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import ExitStack
from queue import SimpleQueue
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner

from sundial.execution.kernels import keep_kernel_server, start_kernel_server
from sundial.replay.plan import Step, find_ready
from sundial.replay.replays import claim, open_replay, read_records
from sundial.replay.steps import run_step
from sundial.serving.process import limit_threads
from sundial.settings import Settings, load_settings

log = logging.getLogger("sundial.flows")


@task(task_run_name="{name}", cache_policy=NO_CACHE)
def step(folder: str, week: int, kind: str, name: str) -> dict[str, Any]:
    """Do one step of one week, in whatever process this runs."""
    limit_threads()  # before the server starts: it forks only for steps that have its limits
    keep_kernel_server()  # on Dask; to processes of our own the flow announces one
    return run_step(folder, week, kind)


@flow(name="replay")
def replay(folder: str, workers: int) -> int:
    """Do all steps of a replay that have not been done, each as soon as what it waits for is there.

    Parameters
    ----------
    folder : str
        Of the replay.
    workers : int
        Steps at a time. No more are handed out, so that the most urgent one is always the next.

    Returns
    -------
    int
        Steps done.
    """
    opened = open_replay(folder)
    records = read_records(opened)
    before = len(records)
    running: dict[PrefectFuture[Any], Step] = {}
    ended: SimpleQueue[PrefectFuture[Any]] = SimpleQueue()
    while True:
        for ready in find_ready(opened, records, running.values())[: workers - len(running)]:
            name = f"{opened.weeks[ready.week]:%Y-%m-%d} {ready.kind}"
            future = step.submit(folder=folder, week=ready.week, kind=ready.kind, name=name)
            running[future] = ready
            future.add_done_callback(ended.put)
        if not running:
            return len(records) - before
        future = ended.get()
        done = running.pop(future)
        records[done] = future.result()
        log.info("%s %s: %s", f"{opened.weeks[done.week]:%Y-%m-%d}", done.kind, records[done]["outcome"])


def choose_runner(settings: Settings, workers: int) -> TaskRunner[Any]:
    """Choose where steps run: on the Dask cluster that the settings name, else in processes of this machine."""
    if settings.dask_scheduler:
        from prefect_dask import DaskTaskRunner

        return DaskTaskRunner(address=settings.dask_scheduler)
    return ProcessPoolTaskRunner(max_workers=workers)


def main(folder: str, workers: int = 0) -> int:
    """Go on with a replay until all of it is done.

    Parameters
    ----------
    folder : str
        Of the replay.
    workers : int
        Steps at a time; one a processor by default.

    Returns
    -------
    int
        Steps done.
    """
    logging.getLogger("sundial").setLevel(logging.INFO)
    settings = load_settings()
    workers = workers or settings.replay_workers or os.cpu_count() or 1
    limit_threads()  # the kernel server forks only for steps that have its limits, and theirs is one thread
    with ExitStack() as stack:
        stack.enter_context(claim(open_replay(folder)))
        # a second of each flow run goes to the thread of the heartbeat, and nobody waits for it here
        stack.enter_context(temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}))
        if sys.platform == "linux" and not settings.dask_scheduler:
            stack.enter_context(start_kernel_server())
        runner = choose_runner(settings, workers)
        return replay.with_options(task_runner=runner)(folder, workers)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0)
