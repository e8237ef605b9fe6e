"""Parameters are read without running anything, and checked before a kernel starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell

from sundial.errors import ParameterError
from sundial.execution.parameters import (
    MASK,
    check_parameters,
    looks_secret,
    mask_parameters,
    mask_secrets,
    read_parameters,
)

CELL = '''"""What this notebook takes."""
x: int = 200                      # boosting rounds
as_of: str = "2013-09-30"
share: float = 0.5                # a share, 0 to 1
verbose: bool = False
carriers: list[str] = []
weights: dict[str, float] = {"a": 1.0}
limit: Optional[int] = None
mode: Literal["fast", "exact"] = "fast"
plain = "text"
'''


def notebook_of(*sources: str) -> nbformat.NotebookNode:
    """Make a notebook whose cells all are tagged."""
    cells = [new_code_cell(source, metadata={"tags": ["parameters"]}) for source in sources]
    return nbformat.v4.new_notebook(cells=cells)


def test_reads_types_defaults_and_help() -> None:
    """Names, types, defaults and comments are read in order."""
    found = read_parameters(notebook_of(CELL))

    names = ["x", "as_of", "share", "verbose", "carriers", "weights", "limit", "mode", "plain"]
    assert names == list(found)
    assert (200, ("int",), "boosting rounds") == (found["x"].default, found["x"].annotation, found["x"].help)
    assert ("str",) == found["plain"].annotation
    assert not any(parameter.required for parameter in found.values())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"x": 3}, {"x": 3}),
        ({"share": 1}, {"share": 1.0}),
        ({"limit": None, "mode": "exact"}, {"limit": None, "mode": "exact"}),
        ({"carriers": ["AA"], "weights": {"b": 2}}, {"carriers": ["AA"], "weights": {"b": 2}}),
    ],
)
def test_accepts_what_fits(given: dict[str, Any], expected: dict[str, Any]) -> None:
    """Values of the declared types pass; a whole number becomes a float where one is declared."""
    checked = check_parameters(notebook_of(CELL), given)

    assert expected == checked
    assert [type(value) for value in expected.values()] == [type(value) for value in checked.values()]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"x": "200"}, "'x' is a whole number, not '200' (str)"),
        ({"x": True}, "'x' is a whole number, not True (bool)"),
        ({"x": 1.5}, "'x' is a whole number, not 1.5 (float)"),
        ({"x": None}, "'x' is a whole number, not None (NoneType)"),
        ({"share": float("nan")}, "'share' is nan, which JSON cannot hold"),
        ({"carriers": ["AA", 1]}, "'carriers' is a list (each text), not ['AA', 1] (list)"),
        ({"carriers": ("AA",)}, "'carriers' holds a tuple, which JSON cannot hold"),
        ({"x": np.int64(3)}, "'x' holds a numpy.int64, which JSON cannot hold"),
        ({"as_of": Path("a")}, "which JSON cannot hold"),
        ({"weights": {1: 2.0}}, "'weights' has a key that is not text"),
        ({"mode": "slow"}, "'mode' is one of 'fast', 'exact', not 'slow' (str)"),
        ({"limit": "1"}, "'limit' is a whole number or None, not '1' (str)"),
    ],
)
def test_refuses_what_does_not_fit(given: dict[str, Any], words: str) -> None:
    """A badly typed value is refused, naming what is expected and what came."""
    with pytest.raises(ParameterError) as error:
        check_parameters(notebook_of(CELL), given)

    assert words in str(error.value)


def test_refuses_unknown_names_with_the_nearest() -> None:
    """An unknown parameter is an error, with the nearest name; all problems are named at once."""
    with pytest.raises(ParameterError) as error:
        check_parameters(notebook_of(CELL), {"as_off": "2013-09-30", "x": "1"})

    assert "unknown parameter 'as_off'; parameter 'x' is a whole number" in error.value.message
    assert "Did you mean 'as_of'?" == error.value.hint


@pytest.mark.parametrize("line", ["x: int", "x: str = None"])
def test_refuses_missing(line: str) -> None:
    """A parameter without a usable default must be given."""
    with pytest.raises(ParameterError, match="missing parameter 'x'"):
        check_parameters(notebook_of(line), {})


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        ([], "has no code cells tagged"),
        (["x = 1", "y = 2"], "has 2 code cells tagged"),
        (["import os"], "line 1 of the parameters cell is not an assignment"),
        (["x = os.getcwd()"], "not a literal"),
        (["x: int = 'a'"], "its default is 'a' (str)"),
        (["x: date = None"], "annotated date"),
        (["x = 1\nx = 2"], "declared twice"),
        (["x ="], "is not Python"),
        (["x = (1, 2)"], "holds a tuple"),
    ],
)
def test_refuses_cells_that_are_wrong(sources: list[str], words: str) -> None:
    """A notebook has one parameters cell, with nothing but typed literals."""
    with pytest.raises(ParameterError) as error:
        read_parameters(notebook_of(*sources))

    assert words in str(error.value)


def test_refuses_files_that_are_no_notebooks(tmp_path: Path) -> None:
    """A missing file is an error with the nearest name, and so is a file of another kind."""
    (tmp_path / "01_make.ipynb").write_text("{}")

    with pytest.raises(ParameterError, match=r"Did you mean '01_make\.ipynb'"):
        check_parameters(tmp_path / "01_mke.ipynb", {})
    with pytest.raises(ParameterError, match="is not a notebook"):
        check_parameters(tmp_path / "01_make.ipynb", {})


@pytest.mark.parametrize("name", ["token", "api_token", "apiKey", "smtp_password", "client_secret", "auth", "key"])
def test_recognises_secret_names(name: str) -> None:
    """Names that say secret are secret."""
    assert looks_secret(name)


@pytest.mark.parametrize("name", ["as_of", "max_tokens", "primary_key", "keyboard", "author", "sort_key"])
def test_leaves_harmless_names(name: str) -> None:
    """Names that only look alike are not."""
    assert not looks_secret(name)


def test_masks_everywhere() -> None:
    """A secret is masked in the injected cell, the metadata and the outputs; the notebook itself is not changed."""
    secret = "it's\na secret"  # noqa: S105  made up
    notebook = notebook_of("token: str = ''\nn: int = 1")
    notebook.metadata["papermill"] = {"parameters": {"token": secret, "n": 7}}
    injected = new_code_cell(f"token = {secret!r}\nn = 7", metadata={"tags": ["injected-parameters"]})
    injected.outputs = [
        nbformat.v4.new_output("stream", text=f"with {secret}"),
        nbformat.v4.new_output("execute_result", data={"text/plain": repr(secret)}),
    ]
    notebook.cells.append(injected)
    before = nbformat.writes(notebook)

    masked = mask_secrets(notebook, {"token": secret, "n": 7})

    text = nbformat.writes(masked)
    assert "a secret" not in text
    assert {"token": MASK, "n": 7} == masked.metadata["papermill"]["parameters"]
    assert f'token = "{MASK}"\nn = 7' == masked.cells[-1].source
    assert before == nbformat.writes(notebook)


def test_masks_nothing_without_secrets() -> None:
    """Without a secret the notebook is passed on as it is."""
    notebook = notebook_of(CELL)

    assert notebook is mask_secrets(notebook, {"x": 3})
    assert {"x": 3, "api_key": MASK, "token": None} == mask_parameters({"x": 3, "api_key": "k", "token": None})
