"""Notebooks made on the spot, a project to run them in, and a kernel server that all of them share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from sundial.execution.forkserver import KernelServer, start_kernel_server
from sundial.settings import Settings, load_settings

PIPELINE = """
name: demo
title: A demonstration
entity: flight_id
event_time: departs
label: {column: late, delay: 1 day, maturity: 2 days}
stages:
  01_make: {outputs: [table]}
  02_use: {inputs: [01_make/table], outputs: [result], timeout: 60 s, parameters: {factor: 3}}
  09_deploy_shadow: {inputs: [], outputs: []}
  10_compare_shadow: {inputs: [], outputs: []}
  11_promote_model: {inputs: [], outputs: []}
  12_monitor_production: {inputs: [], outputs: []}
  13_review_production: {inputs: [], outputs: []}
hooks: {labels: "demo:labels", requests: "demo:requests", value: "demo:value"}
schedule: {cron: "0 6 * * 1"}
"""
PARAMETERS = 'as_of: str = "2013-09-30"  # release date\nrun: str = ""  # run folder'
OPEN = 'import sundial\nstage = sundial.open_stage("{}", pipeline="demo", as_of=as_of, run=run)'

PRELOAD = ["numpy", "pandas", "pyarrow.parquet", "matplotlib.pyplot", "pydantic_settings", "yaml"]

Write = Callable[..., Path]


def make_notebook(*cells: str) -> nbformat.NotebookNode:
    """Make a notebook: a cell that starts with # and a space is prose, one with ': str =' the parameters."""
    made = []
    for source in cells:
        prose = source.startswith(("# ", "## "))
        cell = new_markdown_cell(source) if prose else new_code_cell(source)
        if not prose and source.split("\n")[0].startswith(("as_of: ", "run: ", "x: ", "token")):
            cell.metadata["tags"] = ["parameters"]
        made.append(cell)
    notebook = new_notebook(cells=made)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return notebook


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a notebook of the given cells, and give its path."""

    def write_notebook(*cells: str, name: str = "notebook.ipynb") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(make_notebook(*cells), path)
        return path

    return write_notebook


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a project with one pipeline, ``demo``, and give the folder of its notebooks."""
    folder = tmp_path / "project" / "notebooks" / "demo"
    folder.mkdir(parents=True)
    (folder / "pipeline.yaml").write_text(PIPELINE)
    make = (OPEN.format("01_make"), "import pandas as pd\nstage.save('table', pd.DataFrame({'x': [1, 2, 3]}))")
    use = (
        OPEN.format("02_use"),
        "table = stage.load('table')\nstage.save('result', {'total': int(table['x'].sum()) * factor})",
        "stage.record(rows=len(table), auc=float('nan'))",
    )
    nbformat.write(make_notebook("# Make\n\nA table.", PARAMETERS, *make), folder / "01_make.ipynb")
    nbformat.write(
        make_notebook("# Use", PARAMETERS + "\nfactor: int = 2  # times", "## Compute", *use), folder / "02_use.ipynb"
    )
    monkeypatch.setenv("SUNDIAL_ROOT", str(tmp_path / "project"))
    monkeypatch.setenv("SUNDIAL_ARTIFACTS", str(tmp_path / "project" / "artifacts"))
    return folder


@pytest.fixture(scope="session", autouse=True)
def _plots_show() -> Iterator[None]:
    """Let plots show in notebooks, as they do outside of tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MPLBACKEND", raising=False)
        yield


@pytest.fixture(scope="session")
def server(_plots_show: None) -> Iterator[KernelServer]:
    """Start one small kernel server for the session, which nobody uses who does not ask for it."""
    with start_kernel_server(PRELOAD) as running:
        del os.environ["SUNDIAL_KERNEL_SOCKET"]
        running.report()
        yield running


@pytest.fixture(params=["process", "fork"])
def settings(request: pytest.FixtureRequest) -> Settings:
    """Give settings for each of the two kinds of kernel."""
    if request.param == "process":
        return load_settings().model_copy(update={"kernel": "process"})
    running = request.getfixturevalue("server")
    return load_settings().model_copy(update={"kernel": "fork", "kernel_socket": str(running.socket)})
