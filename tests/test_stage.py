"""The stage handle: only what is declared, from the right run, checked, and written down."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

import sundial
from sundial.errors import ArtifactCorruptError, ArtifactNotFoundError, PipelineError, RunNotFoundError, ScrapError
from sundial.formats import hash_file
from sundial.runs import Run, create_run, list_runs

pytestmark = pytest.mark.usefixtures("project")

FRAME = pd.DataFrame({"parcel_id": [1, 2, 3], "late": [0, 1, 0]})


def open_in(run: Run, name: str, as_of: str = "2013-09-30") -> sundial.Stage:
    """Open a stage of the tiny pipeline in a run, as a flow does."""
    return sundial.open_stage(name, pipeline="tiny", as_of=as_of, run=run.name)


def finish(stage: sundial.Stage) -> None:
    """Mark a stage as succeeded, as the runner does."""
    stage.run.update_stage(stage.name, status="succeeded")


@pytest.fixture
def release() -> Run:
    """Make a release that has its parcels and its training set."""
    run = create_run("tiny", "2013-09-30")
    stage = open_in(run, "01_query_data")
    stage.save("parcels", FRAME)
    stage.record(rows=3)
    finish(stage)
    stage = open_in(run, "04_build_training_set")
    stage.save("training_set", FRAME)
    stage.save("training_profile", {"rows": np.int64(3), "shares": [np.float32(0.5), math.nan]})
    finish(stage)
    return run


def test_what_is_saved_is_loaded_and_written_down(release):
    """A frame goes from one stage to the next; both records hold its path and hash, and the maker's its rows."""
    stage = open_in(release, "06_train_model")
    pd.testing.assert_frame_equal(FRAME, stage.load("training_set"))

    made = release.stage_record("04_build_training_set")["outputs"]["training_set"]
    assert made["rows"] == 3
    assert made["sha256"] == hash_file(release.folder / made["path"])
    assert release.stage_record("06_train_model")["inputs"] == {
        "04_build_training_set/training_set": {"path": made["path"], "sha256": made["sha256"]}
    }


def test_models_and_dicts_come_back(release):
    """A model is loaded as a model, a dict with numpy's numbers as Python's, and NaN in it as NaN."""
    stage = open_in(release, "06_train_model")
    stage.save("model", LogisticRegression().fit(FRAME[["parcel_id"]], FRAME["late"]))
    stage.save("model_card", {"rows": np.int64(3), "share": math.nan})
    lifecycle = open_in(release, "09_deploy_shadow")

    assert isinstance(open_in(release, "07_evaluate_model").load("model"), LogisticRegression)
    card = lifecycle.load("model_card")
    assert card["rows"] == 3
    assert math.isnan(card["share"])
    assert math.isnan(lifecycle.load("training_profile")["shares"][1])


def test_what_is_not_declared_is_refused(release):
    """Reading or saving a name that pipeline.yaml does not declare is an error with the nearest that it does."""
    stage = open_in(release, "06_train_model")

    with pytest.raises(
        ArtifactNotFoundError, match="declares no input 'trainingset'.*\nHint: Did you mean 'training_s"
    ):
        stage.load("trainingset")
    with pytest.raises(ArtifactNotFoundError, match="declares no input 'parcels'"):
        stage.load("parcels")
    with pytest.raises(ArtifactNotFoundError, match="declares no output 'modle'.*\nHint: Did you mean 'model'"):
        stage.save("modle", {})
    assert not (stage.folder / "outputs").exists()


def test_two_inputs_of_one_name_need_their_stage(project, release):
    """A name that two stages make is refused alone, and loads with its stage in front."""
    path = project / "notebooks" / "tiny" / "pipeline.yaml"
    text = path.read_text().replace("outputs: [training_set, ", "outputs: [parcels, training_set, ")
    both = "[01_query_data/parcels, 04_build_training_set/parcels]"
    path.write_text(text.replace("[04_build_training_set/training_set]", both))
    open_in(release, "04_build_training_set").save("parcels", FRAME.head(1))
    stage = open_in(release, "06_train_model")

    assert len(stage.load("01_query_data/parcels")) == 3
    assert len(stage.load("04_build_training_set/parcels")) == 1
    with pytest.raises(ArtifactNotFoundError, match="more than one input 'parcels'"):
        stage.load("parcels")


def test_unknown_names_give_the_nearest(release):
    """A wrong stage, pipeline or run is refused before anything is made."""
    with pytest.raises(PipelineError, match="Did you mean '06_train_model'"):
        open_in(release, "06_train_modle")
    with pytest.raises(PipelineError, match="Did you mean 'tiny'"):
        sundial.open_stage("06_train_model", pipeline="tinny", as_of="2013-09-30")
    with pytest.raises(RunNotFoundError, match="no run 'yesterday'"):
        sundial.open_stage("06_train_model", pipeline="tiny", as_of="2013-09-30", run="yesterday")
    assert [release] == list_runs()


def test_without_a_run_it_works_on_the_newest_release(release):
    """A notebook opened by hand reads the newest release of its date or earlier, and writes to a scratch run."""
    create_run("tiny", "2013-10-07")  # stopped before its first stage
    before = release.stages()
    stage = sundial.open_stage("06_train_model", pipeline="tiny", as_of="2013-10-07")
    stage.load("training_set")
    stage.save("model_card", {"rows": 3})

    assert not stage.is_release
    assert (stage.run.kind, stage.run.base) == ("scratch", release)
    assert before == release.stages()
    used = stage.run.stage_record("06_train_model")["inputs"]["04_build_training_set/training_set"]["path"]
    assert (stage.run.folder / used).samefile(release.verify_output("04_build_training_set", "training_set"))


def test_without_a_release_it_says_how_to_make_one():
    """A notebook that needs inputs says that there is no release yet; one that needs none just opens."""
    with pytest.raises(
        RunNotFoundError, match="tiny has no release as of 2013-09-30.*\nHint: make one with 'make demo'"
    ):
        sundial.open_stage("06_train_model", pipeline="tiny", as_of="2013-09-30")

    assert sundial.open_stage("01_query_data", pipeline="tiny", as_of="2013-09-30").run.base is None


def test_the_last_input_decides_which_release_fits(project, release):
    """Inputs can be declared in any order: a release that has only the earlier of them is passed over."""
    path = project / "notebooks" / "tiny" / "pipeline.yaml"
    both = "inputs: [04_build_training_set/training_set, 01_query_data/parcels]"
    path.write_text(path.read_text().replace("inputs: [04_build_training_set/training_set]", both))
    stopped = create_run("tiny", "2013-10-07")
    query = open_in(stopped, "01_query_data")
    query.save("parcels", FRAME)
    finish(query)

    stage = sundial.open_stage("06_train_model", pipeline="tiny", as_of="2013-10-07")
    assert stage.run.base == release
    assert len(stage.load("training_set")) == 3


def test_a_release_is_a_release(release):
    """Only a stage of a release may touch an alias."""
    assert open_in(release, "09_deploy_shadow").is_release
    for kind in ("experiment", "scratch"):
        assert not open_in(create_run("tiny", "2013-09-30", kind=kind), "09_deploy_shadow").is_release


def test_a_stage_has_its_own_date(release):
    """A comparison made a week later in the same run pretends it is that week, and the run keeps its own."""
    stage = open_in(release, "10_compare_shadow", as_of="2013-10-07")

    assert stage.as_of == pd.Timestamp("2013-10-07")
    assert release.as_of == pd.Timestamp("2013-09-30")
    assert release.stage_record("10_compare_shadow")["as_of"] == "2013-10-07T00:00:00"


def test_a_corrupt_input_is_not_used(release):
    """An input that was changed since it was made is refused."""
    path = release.verify_output("04_build_training_set", "training_set")
    path.write_bytes(path.read_bytes() + b" ")

    with pytest.raises(ArtifactCorruptError, match="training_set"):
        open_in(release, "06_train_model").load("training_set")


def test_scraps_are_read_by_later_stages(release):
    """What a stage records is read by a later one, also from a scratch run on top; a stage that never ran says so."""
    stage = open_in(release, "04_build_training_set")
    stage.record(rows=np.int64(3), auc=math.nan, nested={"a": {"b": 1}})
    stage.record(more="text")
    finish(stage)
    scratch = sundial.open_stage("06_train_model", pipeline="tiny", as_of="2013-09-30")

    scraps = scratch.scraps("04_build_training_set")
    assert math.isnan(scraps.pop("auc"))
    assert scraps == {"rows": 3, "nested": {"a": {"b": 1}}, "more": "text"}
    with pytest.raises(ArtifactNotFoundError, match="recorded no scraps.*\nHint: run 07_evaluate_model first"):
        scratch.scraps("07_evaluate_model")
    with pytest.raises(ArtifactNotFoundError, match="Did you mean '07_evaluate_model'"):
        scratch.scraps("07_evaluate_modle")


def test_a_release_records_a_name_once(release):
    """A scrap recorded twice is refused in a release; by hand a cell may run again."""
    stage = open_in(release, "06_train_model")
    stage.record(rows=3)
    with pytest.raises(ScrapError, match="'rows' was recorded twice"):
        stage.record(rows=4)
    assert stage.scraps("06_train_model") == {"rows": 3}

    by_hand = sundial.open_stage("06_train_model", pipeline="tiny", as_of="2013-09-30")
    by_hand.record(rows=3)
    by_hand.record(rows=4)
    assert by_hand.scraps("06_train_model") == {"rows": 4}


def test_opening_again_forgets_the_attempt_before(release):
    """A stage that runs again begins a new record, but not while its runner holds it as running."""
    release.update_stage("06_train_model", status="failed", outputs={"model": {}}, scraps={"rows": 1})
    open_in(release, "06_train_model")
    record = release.stage_record("06_train_model")
    assert (record["status"], record["outputs"]) == ("running", {})
    assert "scraps" not in record
    release.update_stage("06_train_model", notebook_sha256="abc")
    open_in(release, "06_train_model")

    assert release.stage_record("06_train_model")["notebook_sha256"] == "abc"


def review(as_of: str, reviewed: str, parcels: list[int], weight: float, status: str = "succeeded") -> Run:
    """Make a release whose production was reviewed on a date."""
    run = create_run("tiny", as_of)
    stage = open_in(run, "13_review_production", as_of=reviewed)
    frame = pd.DataFrame({"parcel_id": parcels, "late": 1, "weight": weight})
    stage.save("hard_examples", frame)
    run.update_stage("13_review_production", status=status)
    return run


def test_feedback_is_what_reviews_chose_by_then(release):
    """Examples of reviews dated later, or that did not succeed, are not known yet; those used are written down."""
    stage = open_in(release, "04_build_training_set", as_of="2013-10-23")
    assert stage.feedback() is None
    used = review("2013-10-07", "2013-10-23", [1, 2], 2.0)
    review("2013-10-14", "2013-10-24", [3], 2.0)
    review("2013-10-14", "2013-10-20", [4], 2.0, status="failed")
    frame = stage.feedback()

    assert [1, 2] == sorted(frame["parcel_id"])
    inputs = release.stage_record("04_build_training_set")["inputs"]
    assert list(inputs) == [f"{used.name}/13_review_production/hard_examples"]
    (entry,) = inputs.values()
    assert hash_file(release.folder / entry["path"]) == entry["sha256"]


def test_feedback_keeps_the_newest_choice(release):
    """An entity chosen twice keeps the later review's weight, whichever release was made last."""
    review("2013-10-14", "2013-10-30", [1, 2], 3.0)
    review("2013-10-07", "2013-10-23", [2, 3], 2.0)  # made again afterwards
    frame = open_in(release, "04_build_training_set", as_of="2013-10-30").feedback()

    assert {1: 3.0, 2: 3.0, 3: 2.0} == dict(zip(frame["parcel_id"], frame["weight"], strict=True))


def test_labels_are_those_known_then_with_the_entity_as_text(release):
    """A number is text in the prediction log, and labels are joined to it; a label known later is not there."""
    stage = open_in(release, "10_compare_shadow", as_of="2013-10-02")
    labels = stage.labels("2013-09-25", "2013-10-02")

    assert {"parcel_id", "late", "label_known_at"} == set(labels.columns)
    assert all(isinstance(parcel, str) for parcel in labels["parcel_id"])
    assert labels["label_known_at"].max() <= pd.Timestamp("2013-10-02")
    assert len(labels) > 200


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda frame: frame.drop(columns="label_known_at"), "gave no column label_known_at"),
        (lambda frame: pd.concat([frame, frame.head(2)]), "gave 2 labels of entities that have one already"),
        (
            lambda frame: frame.assign(label_known_at=pd.Timestamp("2014-01-01")),
            "labels that were not known yet at 2013-10-02",
        ),
    ],
)
def test_labels_that_cannot_be_right_are_refused(release, monkeypatch, change, said):
    """A missing column, an entity with two labels, and a label from the future are errors, not figures."""
    import tiny

    honest = tiny.labels
    monkeypatch.setattr(tiny, "labels", lambda *moments: change(honest(*moments)))
    with pytest.raises(PipelineError, match=said):
        open_in(release, "10_compare_shadow", as_of="2013-10-02").labels("2013-09-25", "2013-10-02")
