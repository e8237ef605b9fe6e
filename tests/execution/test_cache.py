"""A stage is reused only if nothing that it depends on has changed: each ingredient in turn, one at a time."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_markdown_cell

import sundial
from sundial.execution import cache, ingredients
from sundial.execution.forkserver import KernelServer
from sundial.execution.ingredients import Key, compare_ingredients, find_key
from sundial.execution.runner import finish_rendering, run_stage
from sundial.formats import hash_file, read_json
from sundial.pipeline import load_pipeline
from sundial.runs import Run, create_run
from sundial.settings import load_settings

STAGE = "02_use"
CODE = {
    "shop/__init__.py": "",
    "shop/features.py": "from shop import prices\n\ndef build(frame):\n    return frame * prices.FACTOR\n",
    "shop/prices.py": "from .rates.euro import RATE\n\nFACTOR = 2 * RATE\n",
    "shop/rates/__init__.py": "",
    "shop/rates/euro.py": "import numpy as np\n\nRATE = np.int64(1)\n",
    "shop/unused.py": "ANSWER = 42\n",
    "shop/notes/guide.txt": "not beside any module that is imported",
    "demo.py": "def labels():\n    return 1\n",
    "pricing.py": "def value():\n    return 2\n",
    "other.py": "HERE = True\n",
}
IMPORT = "from shop.features import build"


@pytest.fixture
def project(demo: Path, server: KernelServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a project whose second stage imports code that imports code; give the folder of its notebooks."""
    lib = demo.parents[1] / "lib"
    for name, text in CODE.items():
        path = lib / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(lib))
    monkeypatch.setenv("SUNDIAL_KERNEL_SOCKET", str(server.socket))
    replace(yaml(demo), "demo:value", "pricing:value")
    edit(demo, lambda cells: cells[3].update(source=f"{IMPORT}\n{cells[3].source}"))
    return demo


def begin(*numbers: int) -> Run:
    """Make a release whose first stage has run: its table holds these numbers."""
    made = create_run("demo", "2013-10-07")
    stage = sundial.open_stage("01_make", pipeline="demo", as_of="2013-10-07", run=made.name)
    stage.save("table", pd.DataFrame({"x": numbers or (1, 2, 3)}))
    stage.record(rows=len(numbers))
    made.update_stage("01_make", status="succeeded")
    return made


@pytest.fixture
def run(project: Path) -> Run:
    """Make a release whose first stage has run."""
    return begin()


def edit(folder: Path, change: Callable[[list[Any]], Any], stage: str = STAGE) -> None:
    """Change the cells of a notebook."""
    path = folder / f"{stage}.ipynb"
    content = nbformat.read(path, as_version=4)
    change(content.cells)
    nbformat.write(content, path)


def key_of(run: Run, folder: Path, as_of: str = "2013-10-07", **parameters: Any) -> Key:
    """Compute the key of the second stage."""
    settings = load_settings()
    given = {"as_of": as_of, "run": run.name, "factor": 3, **parameters}
    return find_key(run, STAGE, folder / f"{STAGE}.ipynb", given, as_of, load_pipeline("demo", settings), settings)


def replace(path: Path, before: str, after: str) -> None:
    """Change a file, and its time even where the disk's clock is coarse."""
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))
    state = path.stat()
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1_000_000))


def lib(folder: Path) -> Path:
    """Give the project's lib/."""
    return folder.parents[1] / "lib"


def yaml(folder: Path) -> Path:
    """Give its pipeline.yaml."""
    return folder / "pipeline.yaml"


def upgrade(monkeypatch: pytest.MonkeyPatch, **changed: Any) -> None:
    """Pretend that the environment is another."""
    before = ingredients.describe_environment()
    monkeypatch.setattr(ingredients, "describe_environment", lambda: {**before, **changed})


CHANGES: dict[str, Callable[[Path, pytest.MonkeyPatch], Any]] = {
    "code of a cell": lambda folder, _: edit(folder, lambda cells: cells[-1].update(source="pass")),
    "a space in a cell": lambda folder, _: edit(folder, lambda cells: cells[-1].update(source=cells[-1].source + " ")),
    "order of the cells": lambda folder, _: edit(folder, lambda cells: cells.append(cells.pop(-2))),
    "tag of a cell": lambda folder, _: edit(folder, lambda cells: cells[-1].metadata.update(tags=["raises-exception"])),
    "default of a parameter": lambda folder, _: replace(
        folder / f"{STAGE}.ipynb", "factor: int = 2", "factor: int = 4"
    ),
    "an imported module": lambda folder, _: replace(lib(folder) / "shop/features.py", "frame *", "frame +"),
    "a helper one import away": lambda folder, _: replace(lib(folder) / "shop/prices.py", "2 *", "3 *"),
    "a helper two imports away": lambda folder, _: replace(lib(folder) / "shop/rates/euro.py", "(1)", "(2)"),
    "the package of a helper": lambda folder, _: (lib(folder) / "shop/rates/__init__.py").write_text("X = 1\n"),
    "a table beside a module": lambda folder, _: (lib(folder) / "shop/rates.csv").write_text("a,b\n"),
    "a module that hides another": lambda folder, _: (folder / "shop.py").write_text("features = None\n"),
    "the label delay": lambda folder, _: replace(yaml(folder), "delay: 1 day", "delay: 2 days"),
    "the label's maturity": lambda folder, _: replace(yaml(folder), "maturity: 2 days", "maturity: 3 days"),
    "the entity": lambda folder, _: replace(yaml(folder), "entity: flight_id", "entity: parcel_id"),
    "the soak": lambda folder, _: replace(yaml(folder), '* * 1"}', '* * 1", soak: 8 days}'),
    "the outputs": lambda folder, _: replace(yaml(folder), "outputs: [result]", "outputs: [result, more]"),
    "which function a hook is": lambda folder, _: replace(yaml(folder), "pricing:value", "demo:labels"),
    "version of a package": lambda _, monkeypatch: upgrade(monkeypatch, packages=["numpy==1.0"]),
    "version of Python": lambda _, monkeypatch: upgrade(monkeypatch, python="3.99"),
    "the machine's kind": lambda _, monkeypatch: upgrade(monkeypatch, platform=["Linux", "abacus"]),
    "the key itself": lambda _, monkeypatch: monkeypatch.setattr(ingredients, "SCHEMA", 99),
}
IRRELEVANT: dict[str, Callable[[Path, pytest.MonkeyPatch], Any]] = {
    "prose": lambda folder, _: edit(folder, lambda cells: cells[0].update(source="# Other words")),
    "prose more": lambda folder, _: edit(folder, lambda cells: cells.append(new_markdown_cell("The end."))),
    "a module that is not imported": lambda folder, _: replace(lib(folder) / "shop/unused.py", "42", "43"),
    "a file elsewhere in the package": lambda folder, _: replace(lib(folder) / "shop/notes/guide.txt", "not", "NOT"),
    "another top-level module": lambda folder, _: replace(lib(folder) / "other.py", "True", "False"),
    "a hook that is not asked for": lambda folder, _: replace(lib(folder) / "pricing.py", "return 2", "return 3"),
    "another stage's notebook": lambda folder, _: edit(folder, lambda cells: cells.pop(), stage="01_make"),
    "another stage's parameters": lambda folder, _: replace(
        yaml(folder), "{outputs: [table]}", "{outputs: [table], timeout: 9 s}"
    ),
    "the deadline": lambda folder, _: replace(yaml(folder), "timeout: 60 s", "timeout: 61 s"),
    "the schedule": lambda folder, _: replace(yaml(folder), "0 6 * * 1", "0 7 * * 1"),
    "the approvers": lambda folder, _: yaml(folder).write_text(yaml(folder).read_text() + "approvers: [ada]\n"),
    "a touch": lambda folder, _: os.utime(lib(folder) / "shop/prices.py"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_each_ingredient_counts(name: str, run: Run, project: Path, monkeypatch: pytest.MonkeyPatch):
    """One change of anything that the stage depends on makes another key."""
    before = key_of(run, project)

    CHANGES[name](project, monkeypatch)
    after = key_of(run, project)

    assert "" not in (before.digest, after.digest)
    assert before.digest != after.digest
    assert 1 <= len(compare_ingredients(before.short, after.short))


@pytest.mark.parametrize("name", IRRELEVANT)
def test_nothing_else_counts(name: str, run: Run, project: Path, monkeypatch: pytest.MonkeyPatch):
    """What the stage does not depend on leaves its key as it is."""
    before = key_of(run, project)

    IRRELEVANT[name](project, monkeypatch)

    assert before.digest == key_of(run, project).digest


def test_parameters_and_dates_count(run: Run, project: Path):
    """Another value, another date: another key; another run with the same input: the same."""
    key = key_of(run, project)

    assert key.digest == key_of(begin(), project).digest
    assert key.digest != key_of(run, project, factor=4).digest
    assert key.digest != key_of(run, project, as_of="2013-10-14").digest


def test_an_input_counts_by_its_bytes(run: Run, project: Path):
    """Another table above makes another key; one that was tampered with makes none."""
    other = begin(1, 2, 4)
    assert key_of(run, project).digest != key_of(other, project).digest

    (other.folder / "01_make" / "outputs" / "table.parquet").write_bytes(b"else")

    assert "" == key_of(other, project).digest
    assert "SHA-256 differs" in key_of(other, project).reason


def test_a_hook_counts_when_it_is_asked_for(run: Run, project: Path):
    """The module of a hook belongs to the code of a notebook, or helper, that asks for it."""
    edit(project, lambda cells: cells[-1].update(source=cells[-1].source + "\nstage.pipeline.hook('value')"))
    before = key_of(run, project)

    replace(lib(project) / "pricing.py", "return 2", "return 3")

    assert ["code: pricing.py"] == compare_ingredients(before.short, key_of(run, project).short)


def test_what_is_imported_by_name_could_be_anything(run: Run, project: Path):
    """A module name that is not written out makes all of lib/ count."""
    replace(
        lib(project) / "shop/prices.py", "FACTOR", "import importlib\nimportlib.import_module('o' + 'ther')\nFACTOR"
    )
    before = key_of(run, project)

    replace(lib(project) / "other.py", "True", "False")

    assert ["code: other.py"] == compare_ingredients(before.short, key_of(run, project).short)


def test_what_code_names_of_the_pipeline_counts(run: Run, project: Path):
    """A notebook that mentions the approvers depends on them."""
    edit(project, lambda cells: cells[-1].update(source=cells[-1].source + "\nprint(stage.pipeline.approvers)"))
    before = key_of(run, project)

    yaml(project).write_text(yaml(project).read_text() + "approvers: [ada]\n")

    assert ["pipeline"] == compare_ingredients(before.short, key_of(run, project).short)


def test_some_stages_have_no_key(run: Run, project: Path):
    """Not one that acts on the outside, none that is given a secret, none whose code cannot be read."""
    assert "secret" in key_of(run, project, api_key="hunter22").reason
    pipeline, settings = load_pipeline("demo"), load_settings()
    acting = find_key(run, "09_deploy_shadow", project / f"{STAGE}.ipynb", {}, "2013-10-07", pipeline, settings)
    assert "outside" in acting.reason
    edit(project, lambda cells: cells[-1].update(source="else:"))
    assert "cannot be read" in key_of(run, project).reason


def test_magic_is_read_too(run: Run, project: Path):
    """IPython's commands in a cell hide no import."""
    edit(project, lambda cells: cells[-1].update(source="%matplotlib inline\nimport other\n" + cells[-1].source))
    before = key_of(run, project)

    replace(lib(project) / "other.py", "True", "False")

    assert before.digest
    assert before.digest != key_of(run, project).digest


def again(run: Run, **given: Any) -> tuple[Run, dict[str, Any]]:
    """Run the second stage in a new release on the same first stage."""
    other = begin()
    return other, run_stage(other, STAGE, reuse=True, **given)


def test_a_reused_stage_is_the_original(run: Run, project: Path):
    """Same outputs, scraps and executed notebook; record and pages say where it is from, and nothing was run."""
    first = run_stage(run, STAGE, reuse=True)
    other, second = again(run)
    finish_rendering()

    assert "reused" not in first
    assert run.name == second["reused"]["run"]
    assert ("succeeded", first["outputs"], first["scraps"]) == (second["status"], second["outputs"], second["scraps"])
    assert second["executed_sha256"] == hash_file(other.stage_folder(STAGE) / "notebook.ipynb")
    assert other.verify_output(STAGE, "result").samefile(run.verify_output(STAGE, "result"))
    assert first["inputs"] == second["inputs"]
    assert "Reused from" in (other.stage_folder(STAGE) / "report.html").read_text()
    assert f'reused from <a href="../{run.name}/index.html">' in (other.folder / "index.html").read_text()


def test_the_origin_may_be_removed(run: Run, project: Path):
    """The files of a reused stage stay when the run that made them goes, and others may take them from there."""
    run_stage(run, STAGE)
    other, _ = again(run)
    finish_rendering()  # of a page made beside, which would write into what is removed
    shutil.rmtree(run.folder)

    _, third = again(run)

    assert other.verify_output(STAGE, "result").is_file()
    assert run.name == third["reused"]["run"]


def test_refreshing_runs_it(run: Run, project: Path):
    """Without reuse a stage is run, however much is there."""
    run_stage(run, STAGE)

    assert "reused" not in run_stage(begin(), STAGE)


DAMAGES: dict[str, Callable[[Run], Any]] = {
    "an output is gone": lambda run: run.verify_output(STAGE, "result").unlink(),
    "an output is another": lambda run: run.verify_output(STAGE, "result").write_text("{}"),
    "the executed notebook is gone": lambda run: (run.stage_folder(STAGE) / "notebook.ipynb").unlink(),
    "the executed notebook is another": lambda run: (run.stage_folder(STAGE) / "notebook.ipynb").write_text("{}"),
    "it failed since": lambda run: run.update_stage(STAGE, status="failed"),
    "its record has another key": lambda run: run.update_stage(STAGE, key="else"),
}


def test_only_what_is_whole_is_reused(run: Run, project: Path):
    """A file that is missing or changed, a record that says otherwise: the stage is run, and its result is right."""
    run_stage(run, STAGE)
    for name, damage in DAMAGES.items():
        damage(run)

        run, record = again(run)

        assert "reused" not in record, name
        assert {"total": 18} == read_json(run.verify_output(STAGE, "result"))


def test_a_failed_stage_is_not_reused(run: Run, project: Path):
    """What failed is run again, from itself."""
    edit(project, lambda cells: cells[-1].update(source="raise ValueError('no')"))
    with pytest.raises(Exception, match="no"):
        run_stage(run, STAGE)

    with pytest.raises(Exception, match="no"):
        again(run)


def test_what_a_notebook_reads_outside_counts(run: Run, project: Path, tmp_path: Path):
    """Files and folders that a notebook opens by itself are asked for again: the same is a hit, another is none."""
    data = tmp_path / "data"
    (data / "folder").mkdir(parents=True)
    for name in ("text", "table.csv", "named"):
        (data / name).write_text("1")
    source = f"""
import os
from pathlib import Path
import pandas as pd
from sundial.reads import observe_file
data = Path({str(data)!r})
open(data / "text").read(), pd.read_csv(data / "table.csv"), os.listdir(data / "folder")
observe_file(data / "named")
"""
    edit(project, lambda cells: cells[-1].update(source=cells[-1].source + source))
    run_stage(run, STAGE)
    for name in ("text", "table.csv", "named", "folder/new"):
        assert "reused" in again(run)[1], name

        (data / name).write_text("2")

        assert "reused" not in again(run)[1], name


UNSEEN = {
    "a connection": "import socket\nwith socket.socket() as s: s.connect_ex(('127.0.0.1', 9))",
    "a database": "import sqlite3\nsqlite3.connect('{data}')",
    "the registry": "from sundial.release.registry import Registry\nRegistry().versions('demo')",
    "another stage's record": "stage.run.stages()",
    "its own manifest": "stage.run.manifest()",
    "said by hand": "from sundial.reads import observe_unrepeatable\nobserve_unrepeatable('the moon')",
}


@pytest.mark.parametrize("name", UNSEEN)
def test_what_nobody_can_ask_again_is_never_reused(name: str, run: Run, project: Path, tmp_path: Path):
    """A stage that read from where no question leads is run each time."""
    with sqlite3.connect(tmp_path / "data.db"):
        source = UNSEEN[name].replace("{data}", str(tmp_path / "data.db"))
    edit(project, lambda cells: cells[-1].update(source=f"{cells[-1].source}\n{source}"))
    record = run_stage(run, STAGE)

    assert not cache.is_repeatable(record)
    assert not (cache.cache_folder(load_settings()) / record["key"] / run.name).exists()


def test_a_source_that_says_nothing_is_never_reused(run: Run, project: Path):
    """A stage without inputs that asked nothing has its data from somewhere; what it makes alike still serves."""
    run_stage(run, STAGE)
    other = create_run("demo", "2013-10-07")

    assert "reused" not in run_stage(other, "01_make", reuse=True)
    assert "reused" in run_stage(other, STAGE, reuse=True)


def test_the_scraps_of_another_stage_count(run: Run, project: Path):
    """Scraps are no declared input, and are asked for again."""
    edit(project, lambda cells: cells[-1].update(source=cells[-1].source + "\nstage.scraps('01_make')"))
    run_stage(run, STAGE)
    assert "reused" in again(run)[1]

    other = begin()
    other.update_stage("01_make", scraps={"rows": 4})

    assert "reused" not in run_stage(other, STAGE, reuse=True)


def test_what_reviews_chose_counts(run: Run, project: Path):
    """A review that chose examples since makes the stage that reads them run again."""
    edit(project, lambda cells: cells[-1].update(source=cells[-1].source + "\nstage.feedback()"))
    run_stage(run, STAGE)
    assert "reused" in again(run)[1]

    review = create_run("demo", "2013-09-30")
    path = review.folder / "13_review_production" / "outputs" / "hard_examples.parquet"
    path.parent.mkdir(parents=True)
    path.write_bytes((run.folder / "01_make" / "outputs" / "table.parquet").read_bytes())
    made = {"path": f"{path.relative_to(review.folder)}", "sha256": hash_file(path)}
    review.update_stage("13_review_production", status="succeeded", as_of="2013-09-30", outputs={"hard_examples": made})

    with pytest.raises(Exception, match="flight_id"):  # it ran: the table has no such column
        again(run)


def test_the_kind_of_run_counts_when_asked(run: Run, project: Path):
    """A stage that does something else in a release is not taken over by an experiment."""
    run_stage(run, STAGE)
    experiment = create_run("demo", "2013-10-07", kind="experiment", base=run.name)
    assert "reused" in run_stage(experiment, STAGE, reuse=True)
    edit(project, lambda cells: cells[-1].update(source=cells[-1].source + "\nprint(stage.is_release)"))
    run_stage(run, STAGE)

    assert "reused" not in run_stage(experiment, STAGE, reuse=True)


def test_an_edit_while_it_runs_is_not_remembered(run: Run, project: Path):
    """Nobody can say which code ran: the stage counts for this run, and for no other."""
    path = lib(project) / "shop" / "prices.py"
    source = f"\npath = '{path}'\ntext = open(path).read()\nopen(path, 'w').write(text + '# more')"
    edit(project, lambda cells: cells[-1].update(source=cells[-1].source + source))
    record = run_stage(run, STAGE)

    assert "succeeded" == record["status"]
    assert not (cache.cache_folder(load_settings()) / record["key"] / run.name).exists()
