"""Pages open offline, say what failed first, and run nothing but our own script."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from sundial.errors import StageFailedError
from sundial.execution.forkserver import KernelServer
from sundial.execution.pages import flatten, show_number, show_value
from sundial.execution.report import render_index, render_notebook, render_run, render_stage
from sundial.execution.runner import finish_rendering, run_stage
from sundial.formats import write_json_atomically
from sundial.runs import Run, create_run
from sundial.settings import load_settings

OUTSIDE = re.compile(
    r"""(?:src|href|srcset|action|data|poster)\s*=\s*["']?\s*(?:[a-z]+:)?//|@import|url\(""", re.IGNORECASE
)
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
GATES = {
    "release": {
        "at": "2026-11-02T06:10:00+00:00",
        "results": [
            {
                "gate": "Ranks",
                "scrap": "a.b",
                "status": "passed",
                "observed": 0.73,
                "bound": "at least 0.65",
                "rows": 6402,
            },
            {"gate": "Calibrated", "scrap": "a.c", "status": "failed", "observed": None, "bound": "x", "rows": None},
        ],
    }
}
for _result in GATES["release"]["results"]:  # type: ignore[attr-defined]
    _result["sentence"] = f"{_result['status']}: {_result['gate']} <b>"
DECISION = {
    "kind": "approval",
    "decision": "reject",
    "name": "Ada <script>",
    "reason": "too early",
    "evidence": "ab" * 32,
    "at": "2026-11-03T09:12:44+00:00",
}


@pytest.fixture
def run(demo: Path, server: KernelServer, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Make a release of the demonstration."""
    monkeypatch.setenv("SUNDIAL_KERNEL_SOCKET", str(server.socket))
    return create_run("demo", "2013-10-07", started_by="test")


def read(path: Path) -> BeautifulSoup:
    """Parse a page, which must hold together by itself."""
    text = path.read_text(encoding="utf-8")
    assert not OUTSIDE.search(text)
    page = BeautifulSoup(text, "html.parser")
    assert "default-src 'none'" in page.find("meta", {"http-equiv": True})["content"]
    return page


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    """Make an executed notebook with everything that could lead outside."""
    injected = new_code_cell("x = 2", metadata={"tags": ["injected-parameters"]})
    shown = new_code_cell("table\nshow(1 < 2)", execution_count=2)
    shown.outputs = [
        new_output(
            "execute_result",
            data={
                "text/html": "<script src='https://cdn.example/x.js'></script><link href='//cdn.example/x.css'>"
                "<style>@import 'https://x'; .a{background:url(https://x/y.png)}</style>"
                "<table><thead><tr><th>name</th><th>rows</th></tr></thead><tbody>"
                "<tr><td onclick='go()'>a</td><td>6,402</td></tr><tr><td>b</td><td>−3.5</td></tr></tbody></table>"
                "<img src='https://x/y.png'><iframe src='https://x'></iframe>"
            },
        ),
        new_output("display_data", data={"image/png": PIXEL}),
        new_output("stream", name="stderr", text="careful <now>\n"),
        new_output("display_data", data={"application/scrapbook.scrap.json+json": {"name": "hidden", "data": 1}}),
    ]
    cells = [
        new_markdown_cell("# The title\n\nSee [a paper](https://arxiv.org/abs/1706.04599) and [below](#Second)."),
        new_code_cell("x: int = 1", metadata={"tags": ["parameters"]}),
        injected,
        new_markdown_cell("## First\n\ntext"),
        shown,
        new_markdown_cell("## Second & last\n\n![plot](http://x/y.png)"),
    ]
    path = tmp_path / "notebook.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    return path


def test_nothing_leads_outside(notebook: Path, tmp_path: Path) -> None:
    """No script, style, picture or link of a notebook reaches beyond the page; addresses stay readable."""
    page = read(render_notebook(notebook, tmp_path / "page.html", {}))

    assert 1 == len(page.find_all("script"))
    assert not page.find_all(["link", "iframe"])
    assert not page.find_all(onclick=True)
    assert "https://arxiv.org/abs/1706.04599" == page.find("span", class_="outside")["title"]
    assert page.find("a", href="#Second")


def test_title_contents_and_numbers(notebook: Path, tmp_path: Path) -> None:
    """The H1 becomes the title, the H2 the contents; cells are numbered as in the source notebook."""
    page = read(render_notebook(notebook, tmp_path / "page.html", {}))

    assert ["The title"] == [heading.get_text() for heading in page.find_all("h1")]
    assert ["First", "Second & last"] == [link.get_text() for link in page.select(".toc a")]
    assert all(page.find(id=link["href"][1:]) for link in page.select(".toc a"))
    assert ["2", "given", "4"] == [number.get_text() for number in page.select("details.code .number")]
    assert "show(1 < 2)" in page.find(id="cell-4").get_text()
    assert not page.find("details", open=True)


def test_outputs_are_shown(notebook: Path, tmp_path: Path) -> None:
    """Tables, plots and streams are shown; numbers are flush right; scraps are not outputs."""
    page = read(render_notebook(notebook, tmp_path / "page.html", {}))

    assert f"data:image/png;base64,{PIXEL}" == page.select_one("figure img")["src"]
    assert "careful <now>\n" == page.select_one("pre.stderr").get_text()
    assert ["rows", "6,402", "−3.5"] == [cell.get_text() for cell in page.select("table .n")]
    assert "hidden" not in page.get_text()


def test_a_failing_stage_says_so_first(run: Run, demo: Path) -> None:
    """The failing cell stands above all else, with a link to it; its code is open, later cells say not run."""
    content = nbformat.read(demo / "01_make.ipynb", as_version=4)
    content.cells[-1].source = "# <here>\nraise ValueError('out of <flights>')"
    content.cells.append(new_code_cell("print('never')"))
    nbformat.write(content, demo / "01_make.ipynb")
    with pytest.raises(StageFailedError):
        run_stage(run, "01_make")

    page = read(run.stage_folder("01_make") / "report.html")

    failure = page.select_one("main > *")
    assert "failure" == failure["id"]
    assert "ValueError: out of <flights>" in failure.get_text()
    target = page.find(id=failure.find("a")["href"][1:])
    assert "failed" in target["class"]
    assert target.find("details").has_attr("open")
    assert "Traceback" in target.get_text()
    assert "not run" in page.find(id="cell-5").get_text()
    overview = read(run.folder / "index.html").select_one("main > *")
    assert "01_make/report.html#cell-4" == overview.find("a")["href"]
    assert "failed" == read(load_settings().reports / "index.html").select_one("td .pill").get_text()


def test_a_stage_shows_its_record(run: Run) -> None:
    """Facts, parameters, scraps and files with their hashes are on the page, and it links to the run and the index."""
    record = run_stage(run, "01_make")
    record = run_stage(run, "02_use", parameters={"factor": 7})
    finish_rendering()

    path = run.stage_folder("02_use") / "report.html"
    page = read(path)

    facts = {item.dt.get_text(): item.dd.get_text() for item in page.select(".facts > div")}
    assert ("succeeded", "2013-10-07", run.name) == (facts["Status"], facts["As of"], facts["Run"])
    assert {"Commit", "Started", "Took", "Kernel"} <= set(facts)
    given = {row.code.get_text(): row.find_all("td")[1].get_text() for row in page.select(".given tbody tr")}
    assert "7" == given["factor"]
    recorded = {row.code.get_text(): row.find_all("td")[1].get_text() for row in page.select("#recorded tbody tr")}
    assert {"rows": "3", "auc": "undefined"} == recorded
    assert record["outputs"]["result"]["sha256"] == page.select("#outputs code[title]")[-1]["title"]
    for link in page.select("nav a"):
        assert (path.parent / link["href"]).resolve().is_file()


def test_a_run_shows_gates_and_decisions(run: Run) -> None:
    """Gates, failed ones first, and every decision with who, why and when; what people wrote stays text."""
    run_stage(run, "01_make")
    finish_rendering()
    write_json_atomically(run.folder / "gates.json", GATES)
    write_json_atomically(run.folder / "decisions.json", [DECISION])

    page = read(render_run(run))

    assert ["failed", "passed"] == [row["class"][0] for row in page.select(".gates tbody tr")]
    assert "failed: Calibrated <b>" == page.select_one("#failure .cause").get_text()
    text = page.select_one("#decisions").get_text()
    for words in ("reject", "too early", "Ada <script>", "2026-11-03 09:12 UTC", "abababababababab"):
        assert words in text
    assert "failed" == page.select_one(".facts .pill").get_text()
    assert ["01_make"] == [link.get_text() for link in page.select(".stages a")]


def test_a_run_of_which_nothing_ran(run: Run) -> None:
    """A run has a page before it has a stage."""
    assert "waiting" == read(render_run(run)).select_one(".facts .pill").get_text()


def test_the_index_lists_runs_newest_first(run: Run) -> None:
    """Every run is there, by kind, with a link that leads to it."""
    later = create_run("demo", "2013-10-14", started_by="test")
    experiment = create_run("demo", "2013-10-07", kind="experiment", base=run.name)
    for item in (run, later, experiment):
        render_run(item)

    path = render_index()
    page = read(path)

    headings = [heading.get_text() for heading in page.select("main h2")]
    assert ["Weeks of demo", "Releases of demo", "Experiments of demo"] == headings
    assert {later.name, run.name, experiment.name} == {link.get_text() for link in page.select(".runs td a")}
    assert all((path.parent / link["href"]).resolve().is_file() for link in page.select("td a"))


def test_an_index_of_nothing(demo: Path) -> None:
    """Without runs the index says how to make one."""
    assert "There are no runs yet" in read(render_index()).get_text()


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.731234, "0.7312"),
        (-1234.56, "−1,234.6"),
        (123456.7, "123,457"),
        (-6402, "−6,402"),
        (True, "yes"),
        (None, "–"),
        (float("nan"), "undefined"),
        ("text", "text"),
    ],
)
def test_numbers_are_readable(value: object, shown: str) -> None:
    """Numbers have thousands, and the digits that matter."""
    assert shown == show_number(value)


def test_values_are_readable() -> None:
    """Estimates show their interval and rows, nested scraps the dotted names that gates use."""
    estimate = {"estimate": 0.02, "low": -0.01, "high": 0.05, "confidence": 0.9, "rows": 100, "method": "bootstrap"}

    assert "0.02 (90 % interval −0.01 to 0.05; 100 rows)" == show_value(estimate)
    assert [("a.b", "1"), ("a.c", "undefined"), ("d", "x, y")] == flatten(
        {"a": {"b": 1, "c": {"undefined": True}}, "d": ["x", "y"]}
    )


@pytest.mark.browser
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on this machine")
def test_opens_in_a_browser(run: Run, tmp_path: Path) -> None:
    """Opened from disk, the page's script runs (the policy lets it) and marks where the reader is."""
    run_stage(run, "01_make")
    run_stage(run, "02_use")
    finish_rendering()
    page = render_stage(run, "02_use")

    shown = subprocess.run(
        [
            "chromium",
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom",
            f"file://{page}",
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout

    assert ["Compute"] == [link.get_text() for link in BeautifulSoup(shown, "html.parser").select(".toc a.here")]
