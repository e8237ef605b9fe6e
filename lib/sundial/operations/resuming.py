"""A release, or what follows it, goes on where it stopped: what is finished and whole is not done again."""

from __future__ import annotations

from collections.abc import Callable

from sundial.errors import RunError, RunNotFoundError
from sundial.execution.restoring import give_up_lost, restore_outputs
from sundial.operations.prefect_api import FlowRun, PrefectApi
from sundial.pipeline import load_pipeline
from sundial.release.turns import is_running, was_left
from sundial.runs import Run, open_run
from sundial.settings import Settings

ENDED_BADLY = ("FAILED", "CRASHED", "CANCELLED")


def resume(name: str, settings: Settings, *, say: Callable[[str], None]) -> FlowRun:
    """Let the flow run go on that stopped last.

    Outputs that a disk lost are put back first, where they can be had again to the byte; a release whose outputs cannot
    goes on from the stage that makes them.

    Parameters
    ----------
    name : str
        Name of a run, or identity of a flow run.
    settings : Settings
        Where things are.
    say : callable
        Told of outputs that were put back.

    Returns
    -------
    FlowRun
        That goes on.

    Raises
    ------
    RunError
        When nothing has stopped, or what a decision rests on is gone.
    ServiceError
        When Prefect does not answer.
    """
    with PrefectApi(settings=settings) as api:
        try:
            run: Run | None = open_run(name, settings)
        except RunNotFoundError:
            if len(name) != len("00000000-0000-0000-0000-000000000000"):  # a run was meant
                raise
            run = None
        stopped = _find_stopped(api, run, settings) if run is not None else api.read(name)
        if stopped is None or stopped.state not in (*ENDED_BADLY, "RUNNING", "PENDING"):
            raise RunError(f"nothing of {name} has stopped", hint="see 'sundial status'")
        if run is not None:
            _mend(run, stopped, settings, say)
        api.set_state(stopped, "SCHEDULED", name="AwaitingRetry", message="resumed by a person")
        return stopped


def _find_stopped(api: PrefectApi, run: Run, settings: Settings) -> FlowRun | None:
    """Find the flow run of a run that ended badly, or whose process is gone; of several the one that began last."""
    found = api.find(run.pipeline, run=run.name)
    key = str(run.manifest().get("key") or "")
    found += [api.read(key)] if key else []
    gone = was_left(run, settings) or any(
        record.get("status") == "running" and not is_running(run, stage) for stage, record in run.stages().items()
    )
    states = (*ENDED_BADLY, "RUNNING", "PENDING") if gone else ENDED_BADLY
    stopped = [item for item in found if item.state in states and item.state_name != "Superseded"]
    return max(stopped, key=lambda item: str(item.starts), default=None)


def _mend(run: Run, stopped: FlowRun, settings: Settings, say: Callable[[str], None]) -> None:
    """Put back what the disk lost, or see to it that a release makes it anew."""
    lost = restore_outputs(run, settings, say=say)
    if not lost:
        return
    candidates = load_pipeline(run.pipeline, settings).release_stages
    if stopped.flow != "release" or not set(lost) <= set(candidates):
        raise RunError(
            f"what {', '.join(lost)} made in {run.name} is gone, and a decision rests on it",
            hint="put its files back from a backup, or release the week again",
        )
    give_up_lost(run, lost)
