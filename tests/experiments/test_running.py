"""An experiment runs what is below its change, on production's rows, and says how it compares; no alias moves."""

from __future__ import annotations

from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell

from sundial.cli import main
from sundial.declarations import SegmentSpec
from sundial.errors import ParityError, RunError
from sundial.execution.runner import run_stage
from sundial.experiments import keeping, shipping
from sundial.experiments.changes import plan_arms
from sundial.experiments.comparing import compare_runs, judge_segments
from sundial.experiments.running import Result, run_experiments
from sundial.experiments.showing import PAGE, diff_stage, render_experiment
from sundial.experiments.tracking import track_run
from sundial.formats import read_json
from sundial.pipeline import load_pipeline
from sundial.release.registry import Registry
from sundial.runs import Run, create_run, list_runs
from sundial.settings import Settings, load_settings
from tests.experiments.conftest import git

WEAK = "06_train_model.regularization=0.0001"


@pytest.fixture(scope="module")
def settings(root: Path) -> Settings:
    """Read the project's settings."""
    return load_settings()


def experiment(settings: Settings, **given) -> list[Result]:
    """Run what a command would."""
    pipeline = load_pipeline("tiny", settings)
    return run_experiments(plan_arms(pipeline, settings, **given), pipeline, settings, say=lambda _: None)


@pytest.fixture(scope="module")
def weak(released: Run, settings: Settings) -> Result:
    """Run one experiment: the same model, held back by its penalty."""
    before = Registry(settings).history("tiny", None)
    (result,) = experiment(settings, sets=[WEAK], name="weak")

    assert before == Registry(settings).history("tiny", None)
    assert "" == result.error
    return result


def test_only_what_is_below_the_change_runs(weak: Result, released: Run):
    """The stages above are the release's own; the run is an experiment that says who started it and what it changes."""
    reused = {stage: (record.get("reused") or {}).get("run") for stage, record in weak.run.stages().items()}
    manifest = weak.run.manifest()

    assert {"01_query_data", "04_build_training_set", "05_build_evaluation_sets"} == {
        stage for stage, origin in reused.items() if origin == released.name
    }
    assert {None, released.name} == set(reused.values())
    assert ("experiment", released.name, "Ada", "weak") == tuple(
        manifest[key] for key in ("kind", "base", "started_by", "name")
    )
    assert {"06_train_model": {"regularization": 0.0001}} == manifest["parameters"]


def test_it_is_compared_with_production_on_the_same_rows(weak: Result, released: Run):
    """Both models' figures, their paired difference with its interval, money, sets and thresholds."""
    found = weak.comparison
    auc = found["metrics"]["roc_auc"]

    assert found == read_json(weak.run.folder / "comparison.json")
    assert "production, version 1" == found["against"]
    assert (280, 0) == (found["rows"], found["left_out"])
    assert auc["production"]["estimate"] == pytest.approx(released.scraps()["07_evaluate_model"]["roc_auc"])
    assert auc["experiment"]["estimate"] == pytest.approx(weak.run.scraps()["07_evaluate_model"]["roc_auc"])
    difference = auc["experiment"]["estimate"] - auc["production"]["estimate"]
    assert auc["difference"]["estimate"] == pytest.approx(difference)
    assert auc["difference"]["low"] <= difference <= auc["difference"]["high"]
    assert {"value", "log_loss", "recall"} <= set(found["metrics"])
    assert {"last_week"} == set(found["sets"])
    assert 0 < found["segments"]["judged"]


def test_the_page_holds_the_same_and_the_diff(weak: Result):
    """One page, offline: the figures, the stages, and what was changed."""
    html = render_experiment(weak).read_text()

    assert "production, version 1" in html
    assert "regularization = 0.0001" in html
    assert "reused from" in html
    assert "http://" not in html


def test_nothing_in_it_can_move_an_alias(weak: Result, released: Run, root: Path, settings: Settings):
    """Not even a notebook that tries: only a release may register a version or move an alias."""
    path = root / "mine.ipynb"
    content = nbformat.read(root / "notebooks" / "tiny" / "08_evaluate_business.ipynb", as_version=4)
    source = "from sundial.release.registry import Registry\nRegistry().set_alias('tiny', 'shadow', 1, by='me')"
    content.cells.append(new_code_cell(source))
    nbformat.write(content, path)
    before = Registry(settings).history("tiny", None)

    (result,) = experiment(settings, notebooks=[f"08_evaluate_business={path}"])
    path.unlink()

    assert "an experiment moves no alias" in result.error
    assert before == Registry(settings).history("tiny", None)


def test_a_grid_runs_side_by_side(released: Run, settings: Settings, capsys: pytest.CaptureFixture[str]):
    """Each value is an experiment of its own; the command prints all of them and ends well."""
    capsys.readouterr()
    assert 0 == main(["experiment", "--grid", "06_train_model.regularization=0.01,1", "--name", "pair"])

    shown = capsys.readouterr().out
    runs = [run for run in list_runs("tiny", kind="experiment") if str(run.manifest()["name"]).startswith("pair")]
    assert {"pair regularization=0.01", "pair regularization=1"} == {run.manifest()["name"] for run in runs}
    for run in runs:
        assert run.name in shown
        assert (run.folder / PAGE).is_file()
        assert run.manifest()["mlflow_run"]
    assert "ROC AUC" in shown
    assert "money per 1,000" in shown


def test_a_date_without_a_release_runs_all_of_it(settings: Settings, released: Run):
    """There is nothing to reuse and nothing to compare with, and that is said by an empty comparison."""
    (result,) = experiment(settings, sets=[WEAK], dates=["2013-10-14"])

    assert ("", {}, None) == (result.error, result.comparison, result.base)
    assert all("reused" not in record for record in result.run.stages().values())


def test_the_same_twice_is_no_difference(released: Run, settings: Settings):
    """A release compared with itself differs by nothing, and no set is hurt."""
    found = compare_runs(released, released, load_pipeline("tiny", settings), settings)

    assert 0 == found["metrics"]["roc_auc"]["difference"]["estimate"]
    assert [] == found["hurt"]
    assert [] == diff_stage(released, released, "06_train_model")


def test_who_is_hurt_is_asked_as_the_gates_ask_it():
    """Of twenty shops the one that loses its right alerts is named, with money; where nobody loses, nobody is."""
    random = np.random.default_rng(3)
    rows = pd.DataFrame(
        {
            "shop": [f"s{number:02}" for number in random.integers(0, 20, 40_000)],
            "at": pd.Timestamp("2026-01-01") + pd.to_timedelta(random.integers(0, 28 * 24, 40_000), unit="h"),
            "late": (random.random(40_000) < 0.2).astype(int),
        }
    )
    right = random.random(len(rows)) < 0.8
    before = np.where(right, rows["late"], 1 - rows["late"]).astype(bool)
    after = before & ~((rows["shop"] == "s07") & (random.random(len(rows)) < 0.7))
    segments = [SegmentSpec(name="shop", columns=("shop",)), SegmentSpec(name="not there", columns=("x",))]
    given = {"label": "late", "event_time": "at", "value": lambda label, alert: np.where(alert, 30 * label - 5, 0)}

    def judge(decision):
        decided = rows.assign(production_score=0.5, shadow_score=0.5, production_decision=before)
        return judge_segments(decided.assign(shadow_decision=decision), segments, **given)

    found, same = judge(after), judge(before)

    assert (20, 0) == (found["judged"], found["too_small"])
    assert [("shop s07", "hurt")] == [(item["name"], item["verdict"]) for item in found["groups"]]
    assert found["groups"][0]["value"]["high"] < 0
    assert {"no difference shown"} == {item["verdict"] for item in same["groups"]}


def test_mlflow_shows_it(weak: Result, settings: Settings):
    """A parent run with a child for each stage: parameters, scraps as metrics, reports as artifacts; once."""
    parent = track_run(weak.run, settings)
    client = Registry(settings).client
    experiment_id = client.get_run(parent).info.experiment_id
    children = client.search_runs([experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'")
    by_name = {child.info.run_name: child for child in children}

    assert parent == track_run(weak.run, settings)
    assert set(weak.run.stages()) == set(by_name)
    assert "0.0001" == client.get_run(parent).data.params["06_train_model.regularization"]
    assert by_name["07_evaluate_model"].data.metrics["rows"] == 280
    assert by_name["04_build_training_set"].data.tags["reused_from"]
    assert "report.html" in [item.path for item in client.list_artifacts(by_name["06_train_model"].info.run_id)]


def test_diff_says_what_differs(weak: Result, released: Run, capsys: pytest.CaptureFixture[str]):
    """The command names the changed parameter and the scraps that came out otherwise; of equal runs it says so."""
    assert 0 == main(["diff", released.name, weak.run.name])
    shown = capsys.readouterr().out
    assert "06_train_model\n  other parameters" in shown
    assert "07_evaluate_model" in shown
    assert "roc_auc: " in shown
    assert "01_query_data" not in shown

    assert 0 == main(["diff", released.name, released.name])
    assert "Nothing differs." in capsys.readouterr().out


def test_ls_finds_runs(weak: Result, released: Run, capsys: pytest.CaptureFixture[str]):
    """All runs of a pipeline with their names and states; a kind that is none is refused."""
    assert 0 == main(["ls"])
    shown = capsys.readouterr().out
    assert released.name in shown
    assert weak.run.name in shown

    assert 1 == main(["ls", "--kind", "experimnt"])
    assert "Did you mean 'experiment'" in capsys.readouterr().err


def test_a_notebook_compares_itself(released: Run, root: Path, settings: Settings):
    """In a scratch run the handle gets a comparison, printed in the notebook; in any other run it does nothing."""
    notebook = root / "mine.ipynb"
    content = nbformat.read(root / "notebooks" / "tiny" / "06_train_model.ipynb", as_version=4)
    content.cells.append(new_code_cell("%load_ext sundial.experiments.inline\nfound = stage.compare(name='inline')"))
    nbformat.write(content, notebook)
    scratch = create_run("tiny", "2013-10-07", kind="scratch", base=released.name, started_by="test")
    scratch.update(notebooks={"06_train_model": "mine.ipynb"})
    run_stage(scratch, "06_train_model", parameters={"regularization": 0.5})
    other = create_run("tiny", "2013-10-07", kind="experiment", base=released.name, started_by="test")
    other.update(notebooks={"06_train_model": "mine.ipynb"})
    run_stage(other, "06_train_model")
    notebook.unlink()

    def shown(run):
        cell = nbformat.read(run.stage_folder("06_train_model") / "notebook.ipynb", as_version=4).cells[-1]
        return "".join(str(output.get("text") or output["data"]) for output in cell.outputs)

    run = next(run for run in list_runs("tiny", kind="experiment") if run.manifest().get("name") == "inline")
    assert "Against production, version 1" in shown(scratch)
    assert 0.5 == run.stage_record("06_train_model")["parameters"]["regularization"]
    assert "nothing is compared" in shown(other)


def test_rm_spares_what_others_stand_on(weak: Result, released: Run, capsys: pytest.CaptureFixture[str]):
    """First it only says what would go; what made a version, or what was reused elsewhere, never does."""
    loose = create_run("tiny", "2013-10-07", kind="scratch", started_by="test")
    assert 0 == main(["rm", "--keep", "0"])
    assert f"goes    {loose.name}" in capsys.readouterr().out
    assert loose.folder.is_dir()

    removable, staying = keeping.choose_removable("tiny", 0, load_settings())
    assert "made version 1" == staying[released.name]
    assert loose.name in [run.name for run in removable]
    keeping.remove_runs([loose], load_settings())
    assert not loose.folder.exists()

    _, staying = keeping.choose_removable("tiny", 1, load_settings())
    assert released.name in staying


@pytest.fixture(scope="module")
def shipped(weak: Result, settings: Settings) -> Run:
    """Do what the release flow does with an experiment, up to its certificate."""
    pipeline = load_pipeline("tiny", settings)
    run = create_run("tiny", weak.run.as_of, started_by="flow run")
    shipping.carry(run, weak.run.name, settings)
    for stage in pipeline.release_stages:
        run_stage(run, stage)
    return run


def test_what_is_shipped_is_proven_equal(weak: Result, shipped: Run, settings: Settings):
    """The release runs all stages with the experiment's parameters, and its certificate says equal, file by file."""
    certificate = shipping.certify(shipped, load_pipeline("tiny", settings), settings)

    assert "equal" == certificate["verdict"], certificate["sentence"]
    assert certificate == read_json(shipped.folder / "parity.json")
    assert {"06_train_model", "07_evaluate_model"} <= {item["stage"] for item in certificate["items"]}
    assert all("reused" not in record for record in shipped.stages().values())
    assert 0.0001 == shipped.stage_record("06_train_model")["parameters"]["regularization"]
    assert (weak.run.name, "Ada") == tuple(shipped.manifest()[key] for key in ("experiment", "experimenter"))


def test_a_difference_is_explained_or_refused(shipped: Run, settings: Settings):
    """Another environment explains another model; the same of everything explains nothing."""
    pipeline = load_pipeline("tiny", settings)
    record = shipped.stage_record("06_train_model")
    other_model = {"model": {**record["outputs"]["model"], "sha256": "0" * 64}}
    shipped.update_stage("06_train_model", outputs=other_model)

    with pytest.raises(ParityError, match="06_train_model gives another model"):
        shipping.certify(shipped, pipeline, settings)
    assert "unexplained" == read_json(shipped.folder / "parity.json")["verdict"]

    shipped.update_stage("06_train_model", ingredients={**record["ingredients"], "environment": "another"})
    certificate = shipping.certify(shipped, pipeline, settings)
    assert "explained" == certificate["verdict"]
    assert "06_train_model: environment" in certificate["sentence"]


def test_only_what_is_committed_is_shipped(weak: Result, root: Path, settings: Settings):
    """An edited notebook, or a new module, is named and refused; so is what has changed since, committed or not."""
    pipeline = load_pipeline("tiny", settings)
    notebook = root / "notebooks" / "tiny" / "06_train_model.ipynb"
    original = notebook.read_text()
    notebook.write_text(original.replace("LogisticRegression(C=", "LogisticRegression(max_iter=200, C="))
    with pytest.raises(RunError, match=r"not committed: .*06_train_model.ipynb"):
        shipping.check_shippable(weak.run, pipeline, settings)

    git(root, "commit", "--all", "--quiet", "--message", "Longer")
    with pytest.raises(RunError, match="06_train_model is no longer what .* ran: cells"):
        shipping.check_shippable(weak.run, pipeline, settings)

    notebook.write_text(original)
    git(root, "commit", "--all", "--quiet", "--message", "Back")
    (root / "lib" / "helper.py").write_text("")
    with pytest.raises(RunError, match="helper.py"):
        shipping.check_shippable(weak.run, pipeline, settings)
    (root / "lib" / "helper.py").unlink()
    shipping.check_shippable(weak.run, pipeline, settings)
