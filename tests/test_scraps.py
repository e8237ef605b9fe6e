"""Scraps: scrapbook reads ours, we read scrapbook's, and one bad number spoils only itself."""

from __future__ import annotations

import math
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from sundial.errors import ScrapError
from sundial.scraps import LARGEST_BYTES, read_scraps, to_plain

CELLS = {
    "ours": """
from datetime import date
import numpy as np, pandas as pd
from sundial.scraps import glue
estimate = {"estimate": np.float64(0.73), "low": np.nan, "rows": np.int32(5)}
values = {
    "rows": np.int64(6_402), "auc": np.float32(0.5), "worst": float("nan"), "ratio": float("inf"),
    "done": np.bool_(True), "text": "late", "nothing": None, "day": date(2013, 9, 30),
    "moment": pd.Timestamp("2013-09-30 06:00"), "never": pd.NaT,
    "nested": {"last_week": {"roc_auc": estimate}, 7: (1, 2)},
}
for name, value in values.items():
    glue(name, value)
""",
    "twice": "glue('auc', 0.7); glue('auc', 0.8)",
    "large": "glue('fits', 'x' * (64 * 1024 - 2)); glue('large', 'x' * (64 * 1024 - 1))",
    "theirs": """
import scrapbook
scrapbook.glue("rows", 6_402)
scrapbook.glue("text", "late")
scrapbook.glue("shown", [1.5, None], display=True)
scrapbook.glue("table", pd.DataFrame({"a": [1]}), encoder="pandas")
""",
    "spoiled": "scrapbook.glue('bad', float('nan')); scrapbook.glue('good', 1)",
}


@pytest.fixture(scope="module")
def executed(tmp_path_factory) -> dict[str, Path]:
    """Run the cells above in a real kernel; each one's outputs become a notebook of its own."""
    book = new_notebook(cells=[new_code_cell(source) for source in CELLS.values()])
    NotebookClient(book, kernel_name="python3", timeout=120, allow_errors=True).execute()
    folder = tmp_path_factory.mktemp("scraps")
    paths = {name: folder / f"{name}.ipynb" for name in CELLS}
    for path, cell in zip(paths.values(), book.cells, strict=True):
        nbformat.write(new_notebook(cells=[cell]), path)
    return paths


def test_scrapbook_reads_ours(executed):
    """Scrapbook itself reads every scrap that we record, and undefined numbers do not make the file unreadable."""
    import scrapbook

    read = scrapbook.read_notebook(str(executed["ours"])).scraps.data_dict
    assert len(read) == 11
    assert read["rows"] == 6_402
    assert read["auc"] == 0.5
    assert read["worst"] == {"undefined": True}
    assert read["nested"]["last_week"]["roc_auc"]["rows"] == 5


def test_we_read_ours(executed):
    """Each value comes back as Python's own, undefined numbers as NaN, in the order recorded."""
    read = read_scraps(executed["ours"])

    assert all(math.isnan(read.pop(name)) for name in ("worst", "ratio", "nothing", "never"))
    assert math.isnan(read["nested"]["last_week"]["roc_auc"].pop("low"))
    assert [
        ("rows", 6_402),
        ("auc", 0.5),
        ("done", True),
        ("text", "late"),
        ("day", "2013-09-30"),
        ("moment", "2013-09-30T06:00:00"),
        ("nested", {"last_week": {"roc_auc": {"estimate": 0.73, "rows": 5}}, "7": [1, 2]}),
    ] == list(read.items())
    assert {type(value).__module__ for value in read.values()} == {"builtins"}


def test_we_read_scrapbooks(executed):
    """A notebook that calls scrapbook.glue is read: numbers, text, lists and what is shown as well as recorded."""
    read = read_scraps(executed["theirs"])

    assert math.isnan(read.pop("table"))  # no gate reads a table
    assert read == {"rows": 6_402, "text": "late", "shown": [1.5, None]}


def test_what_scrapbook_cannot_read_is_read(executed):
    """One NaN glued by scrapbook spoils all scraps for scrapbook; for us it is one undefined number."""
    import scrapbook
    from scrapbook.exceptions import ScrapbookException

    with pytest.raises(ScrapbookException):
        _ = scrapbook.read_notebook(str(executed["spoiled"])).scraps
    read = read_scraps(executed["spoiled"])
    assert math.isnan(read["bad"])
    assert read["good"] == 1


def test_a_broken_payload_fails_only_itself():
    """A scrap that is not what a scrap looks like is undefined, and the others are read."""
    mime = "application/scrapbook.scrap.json+json"
    outputs = [
        {"data": {mime: "not a dict"}, "metadata": {"scrapbook": {"name": "broken"}}},
        {"data": {mime: {"name": "odd", "data": 1, "encoder": "unheard of", "version": 1}}},
        {"data": {mime: {"name": "fine", "data": 1, "encoder": "json", "version": 1}}},
        {"data": {mime: "nameless"}},
        {"output_type": "stream", "text": "hello"},
    ]
    read = read_scraps({"cells": [{"cell_type": "markdown"}, {"outputs": outputs}]})

    assert list(read) == ["broken", "odd", "fine"]
    assert math.isnan(read["broken"])
    assert math.isnan(read["odd"])
    assert read["fine"] == 1


def test_a_name_stands_once(executed):
    """Two scraps of one name are refused when read; scrapbook would keep the last and say nothing."""
    with pytest.raises(ScrapError, match="'auc' was recorded twice"):
        read_scraps(executed["twice"])


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (pd.DataFrame({"a": [1]}), "DataFrame"),
        (np.arange(3), "ndarray"),
        (pd.Series([1]), "Series"),
        ({1, 2}, "set"),
        (b"x", "bytes"),
        (object(), "object"),
        (1j, "complex"),
    ],
)
def test_what_has_no_form_is_refused_by_name(value, kind):
    """What cannot be recorded is refused before it is written, with the place in it and its type."""
    with pytest.raises(ScrapError, match=rf"scrap 'a\.b\[0\]' is a {kind}"):
        to_plain({"b": [value]}, name="a")


def test_a_large_scrap_is_refused(executed):
    """A scrap over 64 KiB belongs in a table; one just as large is recorded."""
    (cell,) = nbformat.read(executed["large"], as_version=4).cells

    assert [len(text) + 2 for text in read_scraps(executed["large"]).values()] == [LARGEST_BYTES]
    assert cell.outputs[-1].ename == "ScrapError"
    assert "'large' is 65,537 bytes, more than 65,536" in cell.outputs[-1].evalue
