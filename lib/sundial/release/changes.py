"""What changed between two releases: cells, parameters, data, environment and figures, without the noise of outputs.

Executed notebooks differ each week in every number, time and count they print. What a person must see is what somebody
changed: so sources are compared cell by cell (nbdime aligns them), and of what was computed only the figures that gates
judge.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sundial.pipeline import Pipeline
from sundial.release.environment import read_environment
from sundial.release.evidence import LATER
from sundial.release.tables import Table, is_single, show, words
from sundial.runs import Run

if TYPE_CHECKING:
    from nbformat import NotebookNode

INJECTED = "injected-parameters"
# Differ in every release by what they are.
OWN_PARAMETERS = ("run", "as_of")
# What comes in, what is learned from, what is judged on; the sizes between follow from these.
SIZED = ("01_", "04_", "05_")
FACTS = ("trained_from", "trained_to", "label_share", "examples", "example_share")
CONTEXT_LINES = 1
MOST_LINES = 40  # of one cell; the rest is in the notebooks


@dataclass(frozen=True)
class CellChange:
    """One cell that is not what it was.

    Attributes
    ----------
    stage, cell : str
        Where; the cell's id.
    kind : str
        ``changed``, ``added`` or ``removed``.
    lines : tuple of str
        Each with ``+``, ``-`` or a space before it.
    """

    stage: str
    cell: str
    kind: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Changes:
    """What changed from one run to another.

    Attributes
    ----------
    since, since_as_of : str
        Name and release date of the earlier run.
    cells : tuple of CellChange
        Of all stages that both ran.
    parameters, data, environment, figures : Table
        Before and after; only data and figures also list what stayed.
    commits : tuple of str
        Git commit then and now, ten digits, with a plus sign for changes that were not committed.
    """

    since: str
    since_as_of: str
    cells: tuple[CellChange, ...]
    parameters: Table
    data: Table
    environment: Table
    figures: Table
    commits: tuple[str, str]


def compare_runs(before: Run, after: Run, pipeline: Pipeline) -> Changes:
    """Compare a release with an earlier one.

    Parameters
    ----------
    before, after : Run
        Both with their stages up to the model at least.
    pipeline : Pipeline
        For its gates, whose figures are compared.

    Returns
    -------
    Changes
    """
    later = LATER["approval"]
    then, now = ({name: item for name, item in run.stages().items() if name not in later} for run in (before, after))
    return Changes(
        since=before.name,
        since_as_of=f"{before.as_of:%Y-%m-%d}",
        cells=tuple(change for stage in now if stage in then for change in _compare_cells(before, after, stage)),
        parameters=Table(("stage", "parameter", "then", "now"), tuple(_compare_parameters(then, now))),
        data=Table(("", "then", "now"), tuple(_compare_data(before, after, pipeline))),
        environment=Table(("", "then", "now"), tuple(_compare_environment(before, after))),
        figures=Table(("figure that a gate judges", "then", "now"), tuple(_compare_figures(before, after, pipeline))),
        commits=(_commit(before), _commit(after)),
    )


def _commit(run: Run) -> str:
    manifest = run.manifest()
    return str(manifest.get("commit") or "")[:10] + ("+" if manifest.get("dirty") else "")


def _compare_cells(before: Run, after: Run, stage: str) -> Iterator[CellChange]:
    """Compare the sources of a stage; nothing is opened where the notebook in git was the same."""
    sources = [run.stage_record(stage).get("notebook_sha256") for run in (before, after)]
    paths = [run.stage_folder(stage) / "notebook.ipynb" for run in (before, after)]
    if sources[0] == sources[1] or not all(path.is_file() for path in paths):
        return
    import nbformat
    from nbdime.diffing.notebooks import diff_notebooks, set_notebook_diff_targets
    from nbdime.patching import patch

    then, now = (_bare(nbformat.read(path, as_version=4)) for path in paths)  # type: ignore[no-untyped-call]
    set_notebook_diff_targets(
        sources=True, outputs=False, attachments=False, metadata=False, identifier=False, details=False
    )
    for entry in next((item.diff for item in diff_notebooks(then, now) if item.key == "cells"), []):
        if entry.op == "addrange":
            for cell in entry.valuelist:
                yield CellChange(stage, cell.get("id", ""), "added", _lines("", cell.source))
        elif entry.op == "removerange":
            for cell in then.cells[entry.key : entry.key + entry.length]:
                yield CellChange(stage, cell.get("id", ""), "removed", _lines(cell.source, ""))
        else:
            cell = then.cells[entry.key]
            lines = _lines(cell.source, patch(cell, entry.diff).source)
            if lines:
                yield CellChange(stage, cell.get("id", ""), "changed", lines)


def _bare(notebook: NotebookNode) -> NotebookNode:
    """Take what an execution put into a notebook out of it again."""
    notebook.cells = [cell for cell in notebook.cells if INJECTED not in cell.metadata.get("tags", [])]
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


def _lines(before: str, after: str) -> tuple[str, ...]:
    """Show the lines that differ, with one around them."""
    found = list(difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=CONTEXT_LINES))[2:]
    lines = [line for line in found if not line.startswith("@@")]
    more = len(lines) - MOST_LINES
    return (*lines[:MOST_LINES], *([f"  … and {more} more lines"] if more > 0 else []))


def _compare_parameters(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for stage in now:
        if stage not in then:
            continue
        old, new = (dict(records[stage].get("parameters") or {}) for records in (then, now))
        for name in dict.fromkeys([*old, *new]):
            if name not in OWN_PARAMETERS and old.get(name) != new.get(name):
                yield stage, name, show(old.get(name, "none")), show(new.get(name, "none"))


def _compare_data(before: Run, after: Run, pipeline: Pipeline) -> Iterator[tuple[str, ...]]:
    """Compare the sizes of what the release's stages made, and what the model learned from."""
    for stage, spec in pipeline.stages.items():
        if stage not in pipeline.release_stages or not stage.startswith(SIZED):
            continue
        for name in spec.outputs:
            old, new = (run.stage_record(stage).get("outputs", {}).get(name, {}).get("rows") for run in (before, after))
            if new is not None:
                yield f"rows of {words(name)} ({stage[:2]})", show(old), show(new)
    old_scraps, new_scraps = before.scraps(), after.scraps()
    for name in FACTS:
        for stage in pipeline.release_stages:
            new = new_scraps.get(stage, {}).get(name)
            if new is not None and is_single(new):
                yield f"{words(name)} ({stage[:2]})", show(old_scraps.get(stage, {}).get(name)), show(new)


def _compare_environment(before: Run, after: Run) -> Iterator[tuple[str, ...]]:
    old, new = read_environment(before), read_environment(after)
    if not old or not new:
        if new:
            yield "what was installed", "not recorded", f"{len(new['packages'])} packages"
        return
    for name in ("python", "machine"):
        if old.get(name) != new.get(name):
            yield name, show(old.get(name)), show(new.get(name))
    for name in sorted(old["packages"].keys() | new["packages"].keys()):
        then, now = old["packages"].get(name, "none"), new["packages"].get(name, "none")
        if then != now:
            yield name, then, now


def _compare_figures(before: Run, after: Run, pipeline: Pipeline) -> Iterator[tuple[str, ...]]:
    old, new = before.scraps(), after.scraps()
    wanted = [gate.scrap for gate in (*pipeline.gates.release, *pipeline.gates.comparison)]
    if "value_per_1000" in new.get("08_evaluate_business", {}):
        wanted.append("08_evaluate_business.value_per_1000.candidate")
    wanted += ["08_evaluate_business.threshold", "08_evaluate_business.alert_share"]
    for scrap in dict.fromkeys(wanted):
        found = _look_up(new, scrap)
        then = _look_up(old, scrap)
        if found is not None and then is not None and is_single(found) and is_single(then):
            yield scrap, show(then), show(found)


def _look_up(scraps: Mapping[str, Any], path: str) -> Any:
    """Find a scrap by its path; None when it is not there."""
    found: Any = scraps
    for key in path.split("."):
        if not isinstance(found, Mapping) or key not in found:
            return None
        found = found[key]
    return found
