"""``stage.compare()`` in a notebook: what was tried in it beside production, without leaving JupyterLab.

In a notebook, after a look at what it made::

    %load_ext sundial.experiments.inline
    stage.compare()
"""

from __future__ import annotations

from typing import Any

from sundial.experiments.changes import plan_arms
from sundial.experiments.running import Result, run_experiments
from sundial.experiments.scratch import read_scratch
from sundial.experiments.showing import print_results, render_experiment
from sundial.experiments.tracking import track_run
from sundial.stage import Stage


def load_ipython_extension(shell: Any) -> None:
    """Give every stage handle the method :func:`compare`; IPython calls this for ``%load_ext``."""
    Stage.compare = compare  # type: ignore[attr-defined]


def unload_ipython_extension(shell: Any) -> None:
    """Take it away again."""
    del Stage.compare  # type: ignore[attr-defined]


def compare(stage: Stage, *, name: str = "", by: str = "") -> Result | None:
    """Carry what a scratch run tried through the later stages, and print it beside production.

    It is ``sundial experiment --from-scratch`` for the run of this notebook, which is run as it is saved now, from
    top to bottom: cells that were run by hand, in any order, are no evidence.

    Parameters
    ----------
    stage : Stage
        The handle of the notebook.
    name : str
        Of the experiment, for people.
    by : str
        Who starts it; git's user.name by default.

    Returns
    -------
    Result or None
        What ``sundial ship`` can go on with; None where no person is looking, in a release or an experiment.

    Raises
    ------
    RunError
        When the run has no stage of a release.
    """
    if stage.run.kind != "scratch":
        print(f"{stage.run.name} is no scratch run: nothing is compared.")
        return None
    (arm,) = plan_arms(stage.pipeline, stage.settings, name=name)
    arm = read_scratch(stage.run, arm, stage.pipeline, stage.settings)
    (result,) = run_experiments([arm], stage.pipeline, stage.settings, by=by)
    if result.comparison:
        render_experiment(result)
    print_results([result])
    track_run(result.run, stage.settings)
    return result
