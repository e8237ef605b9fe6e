"""Notebooks in git: no outputs, one parameters cell, numbered, readable from the first line on."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import nbformat
import pytest

from sundial.pipeline import list_pipelines, load_pipeline

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = (ROOT / "notebooks", ROOT / "tests" / "tiny" / "notebooks", ROOT / "lib" / "sundial" / "templates")
NOTEBOOKS = sorted(
    path for folder in FOLDERS for path in folder.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts
)
LONGEST_CELL = 30


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: f"{path.parent.name}/{path.stem}", scope="module")
def path(request) -> Path:
    """Give each notebook in turn."""
    return request.param


@pytest.fixture(scope="module")
def notebook(path) -> nbformat.NotebookNode:
    """Read it as JSON, since reading by nbformat repairs some of what is looked for here."""
    return nbformat.from_dict(json.loads(path.read_text(encoding="utf-8")))


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """List the cells that are code."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def source(cell: nbformat.NotebookNode) -> str:
    """Give a cell's source as one text."""
    return cell.source if isinstance(cell.source, str) else "".join(cell.source)


def tagged(notebook: nbformat.NotebookNode, tag: str) -> list[nbformat.NotebookNode]:
    """List the cells that bear a tag."""
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def test_every_stage_has_its_notebook(monkeypatch):
    """Each stage of each pipeline that ships has a notebook, and no notebook is without a stage."""
    monkeypatch.delenv("SUNDIAL_ARTIFACTS")
    wanted = {load_pipeline(name).notebook(stage) for name in list_pipelines() for stage in load_pipeline(name).stages}

    assert wanted == {path for path in NOTEBOOKS if path.is_relative_to(ROOT / "notebooks")}


def test_it_is_a_notebook_of_format_4_5(notebook):
    """The file follows the format, in the version that gives cells their ids."""
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)


def test_it_has_no_outputs(notebook):
    """What a run made is in the run, not in git: no outputs, no execution counts."""
    assert [] == [cell.id for cell in code_cells(notebook) if cell.outputs or cell.execution_count is not None]


def test_it_has_one_parameters_cell(notebook):
    """Papermill finds one cell tagged parameters, and nobody committed a run."""
    assert len(tagged(notebook, "parameters")) == 1
    assert tagged(notebook, "injected-parameters") == []


def test_its_parameters_explain_themselves(notebook):
    """Each parameter is one line: name, type, literal default and a help; as_of and run stand first."""
    text = source(tagged(notebook, "parameters")[0])
    nodes = ast.parse(text).body

    assert [True] * len(nodes) == [isinstance(node, ast.AnnAssign) for node in nodes]
    names = [node.target.id for node in nodes]
    assert names[: names.index("run") + 1] in (["as_of", "run"], ["pipeline", "as_of", "run"])
    for node in nodes:
        ast.literal_eval(node.value)
    # papermill cannot read a line whose help has an equals sign in it, and calls the parameter unknown
    assert [] == [line for line in text.splitlines() if line.strip() and not re.search(r"  # \w[^=]*$", line)]


def test_its_metadata_is_the_kernel_and_no_more(notebook):
    """The kernel is python3; a version of Python or a run's times would change with everyone who saves."""
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.metadata.kernelspec.language == "python"  # papermill writes parameters in this language
    assert set(notebook.metadata) == {"kernelspec"}, "make format strips the rest"
    assert [] == [cell.id for cell in notebook.cells if set(cell.metadata) - {"tags"}]


def test_its_ids_were_kept(notebook):
    """Ids are unique and random: numbered anew, one cell more would change all that follow."""
    ids = [cell.id for cell in notebook.cells]

    assert len(set(ids)) == len(ids)
    assert [] == [item for item in ids if re.fullmatch(r"\d{1,3}", item)]


def test_it_begins_with_its_title(notebook):
    """The first cell is prose: an H1 and what goes in and out; headings below it are H2."""
    first, *others = [source(cell) for cell in notebook.cells if cell.cell_type == "markdown"]

    assert notebook.cells[0].cell_type == "markdown"
    assert re.match(r"# \S", first)
    assert len(first.splitlines()) >= 3
    assert any(re.search(r"^## \S", text, re.MULTILINE) for text in others)
    assert [] == [text for text in others if re.search(r"^# ", text, re.MULTILINE)]


def test_its_name_is_numbered(path):
    """Sort order is execution order."""
    assert re.fullmatch(r"\d\d_[a-z]+(_[a-z]+)*\.ipynb", path.name)


def test_it_opens_its_own_stage(path, notebook):
    """The stage that it opens bears the file's name, and so what it saves lands in its own folder."""
    opened = [
        call.args[0].value
        for cell in code_cells(notebook)
        for call in ast.walk(ast.parse(source(cell)))
        if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("open_stage")
    ]

    assert opened == [path.stem]


def test_its_cells_are_short(notebook):
    """A cell is a screenful at most; what is longer belongs in lib."""
    assert [] == [cell.id for cell in code_cells(notebook) if len(source(cell).splitlines()) > LONGEST_CELL]


def test_it_is_a_notebook_not_a_package(notebook):
    """No class, no tampering with paths, no installing, no shell: it is plain Python that lib does the work for."""
    banned = r"^\s*class |sys\.path|os\.chdir|\bos\.getcwd|Path\.cwd|__file__|^\s*[%!]|\bpickle\b|\bjoblib\b"
    found = [match[0] for cell in code_cells(notebook) for match in re.finditer(banned, source(cell), re.MULTILINE)]

    assert found == []


def test_no_cell_is_empty(notebook):
    """An empty cell is a leftover."""
    assert [] == [cell.id for cell in notebook.cells if not source(cell).strip()]
