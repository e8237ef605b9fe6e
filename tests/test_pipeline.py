"""pipeline.yaml: every kind of mistake is an error with file, line and nearest name, before anything runs."""

from __future__ import annotations

from datetime import date, datetime, timedelta

import pytest
import yaml
from pydantic import ValidationError

from sundial.declarations import LIFECYCLE
from sundial.errors import PipelineError
from sundial.pipeline import list_pipelines, load_pipeline, parse_pipeline
from sundial.settings import load_settings


@pytest.fixture
def path(project):
    """Give the tiny pipeline's own file."""
    return project / "notebooks" / "tiny" / "pipeline.yaml"


@pytest.fixture
def text(path):
    """Give the text of the tiny pipeline."""
    return path.read_text()


def test_a_pipeline_reads_as_declared(project):
    """Names, durations, stages and gates are what the file says, and the lifecycle comes after the own stages."""
    tiny = load_pipeline("tiny")

    assert (tiny.name, tiny.entity, tiny.event_time) == ("tiny", "parcel_id", "posted_at")
    assert tiny.label.maturity == timedelta(days=2)
    assert tiny.stage("06_train_model").timeout == timedelta(minutes=2)
    assert tiny.stage("07_evaluate_model").timeout == timedelta(minutes=10)
    assert tiny.gates.release[0].at_least == 500
    assert list(tiny.stages)[-5:] == list(LIFECYCLE)
    assert tiny.release_stages == tuple(tiny.stages)[:-5]
    assert list_pipelines() == ["tiny"]


def test_the_pipeline_that_ships_reads():
    """The flights' own file is right."""
    assert load_pipeline("flights").release_stages[0] == "01_query_data"


def test_notebooks_are_where_they_belong(project, path, text):
    """A stage's notebook bears its name, in the pipeline's folder or the lifecycle's, unless it says otherwise."""
    folder = project / "notebooks"
    tiny = parse_pipeline(text.replace("    timeout: 2 minutes", "    notebook: shared/fit.ipynb"), path)

    assert folder / "tiny" / "01_query_data.ipynb" == tiny.notebook("01_query_data")
    assert folder / "lifecycle" / "09_deploy_shadow.ipynb" == tiny.notebook("09_deploy_shadow")
    assert folder / "shared" / "fit.ipynb" == tiny.notebook("06_train_model")


@pytest.mark.parametrize(
    ("old", "new", "where", "hint"),
    [
        ("entity: parcel_id", "entiti: parcel_id", "unknown key 'entiti'", "Did you mean 'entity'?"),
        ("  delay: 1 day", "  dellay: 1 day", "unknown key 'label.dellay'", "Did you mean 'delay'?"),
        ("    timeout: 2", "    timeuot: 2", "unknown key 'stages.06_train_model.timeuot'", "Did you mean 'timeout'?"),
        (
            "      at_least: 500",
            "      at_leest: 500",
            "unknown key 'gates.release.0.at_leest'",
            "Did you mean 'at_lea",
        ),
        ("  release:", "  releases:", "unknown key 'gates.releases'", "Did you mean 'release'?"),
        ("  value: tiny", "  valeu: tiny", "unknown key 'hooks.valeu'", "Did you mean 'value'?"),
        ("  first: 2013", "  frist: 2013", "unknown key 'calendar.frist'", "Did you mean 'first'?"),
        ("  cron: ", "  corn: ", "unknown key 'schedule.corn'", "Did you mean 'cron'?"),
        ("question:", "folder: /tmp\nquestion:", "unknown key 'folder'", ""),
    ],
)
def test_an_unknown_key_names_line_and_nearest(path, text, old, new, where, hint):
    """Wherever it stands, an unknown key is an error with its whole path, its line and the nearest known name."""
    wrong = text.replace(old, new, 1)
    key = new.split(":")[0]
    line = next(number for number, row in enumerate(wrong.splitlines(), 1) if row.startswith(key))

    with pytest.raises(PipelineError) as caught:
        parse_pipeline(wrong, path)
    assert f"{path}, line {line}: {where}" == caught.value.message
    assert caught.value.hint.startswith(hint)


@pytest.mark.parametrize(
    ("old", "new", "where", "reason"),
    [
        ("name: tiny", "name: Tiny Model", "name: Tiny", "should match pattern"),
        ("title: Late parcels", "title: 7", "title: 7", "valid string"),
        ("  maturity: 2 days", "  maturity: 2 parsecs", "  maturity", "'2 parsecs' is not a duration"),
        ("  maturity: 2 days", "  maturity: 2", "  maturity", "2 is not a duration"),
        ("segments: [shop]", "segments: shop", "segments", "valid tuple"),
        ("segments: [shop]", "segments: [7]", "segments", "a segment is a column, or a name with its columns"),
        ("segments: [shop]", "segments: [{a: [b], c: [d]}]", "segments", "a segment is a column, or a name with its"),
        ("segments: [shop]", "segments: [route: shop]", "segments", "valid tuple"),
        ("segments: [shop]", "segments: [route: []]", "segments", "at least 1 item"),
        ("segments: [shop]", "segments: [shop, shop: [size]]", "segments", "segment 'shop' stands twice"),
        ("      at_least: 500", "      allowed_harm: -1", "      allowed_harm", "greater than or equal to 0"),
        (
            "      at_least: 500",
            "      allowed_harm: 0\n      allowed_drop: 0",
            "    - gate: enough",
            "allowed_drop judges a difference and stands alone",
        ),
        ("approvers: [reviewer, Ada Lovelace]", "approvers: [1]", "approvers", "valid string"),
        ("      at_least: 500", "      at_least: .nan", "      at_least: .nan", "finite number"),
        ("      at_least: 500", "      at_least: many", "      at_least: many", "valid number"),
        (
            "      at_least: 500",
            "      min_rows: 5",
            "    - gate: enough",
            "a gate needs at_least, at_most, equals, allowed_drop or",
        ),
        ("      at_least: 500", "      min_rows: 0", "      min_rows", "greater than or equal to 1"),
        ("      at_least: 500", "      allowed_drop: -1", "      allowed_drop", "greater than or equal to 0"),
        (
            "at_least: 500",
            "at_least: 5\n      allowed_drop: 1",
            "    - gate: enough",
            "allowed_drop judges a difference",
        ),
        ("04_build_training_set.rows", "rows", "    - gate: enough", "scrap must be 'stage.scrap'"),
        ("  weeks: 12", "  weeks: 0", "  weeks", "greater than or equal to 1"),
        ("  first: 2013-09-30", "  first: Monday", "  first", "valid date"),
        ("    outputs: [parcels]", "    outputs: parcels", "    outputs", "valid tuple"),
        ("entity: parcel_id\n", "", "name: tiny", "Field required"),
        ("  delay: 1 day\n", "", "label:", "Field required"),
    ],
)
def test_a_bad_value_names_its_line(path, text, old, new, where, reason):
    """A value of the wrong type or out of bounds, or a missing one, is an error with its line and the reason."""
    wrong = text.replace(old, new, 1)
    line = next(number for number, row in enumerate(wrong.splitlines(), 1) if row.startswith(where))

    with pytest.raises(PipelineError) as caught:
        parse_pipeline(wrong, path)
    assert caught.value.message.startswith(f"{path}, line {line}: ")
    assert reason in caught.value.message


@pytest.mark.parametrize(
    ("old", "new", "where", "reason", "hint"),
    [
        (
            ", 06_train_model/model]",
            ", 06_train_model/modle]",
            "    inputs: [05_build_evaluation_sets/evaluation_set, 06_train_model/modle",
            "stage 07_evaluate_model reads '06_train_model/modle', which no earlier stage makes",
            "Did you mean '06_train_model/model'?",
        ),
        (
            "inputs: [04_build_training_set/training_set]",
            "inputs: [08_evaluate_business/policy]",
            "    inputs: [08",
            "stage 06_train_model reads '08_evaluate_business/policy', which no earlier stage makes",
            "Known: ",
        ),
        (
            "scrap: 07_evaluate_model.roc_auc",
            "scrap: 07_evaluate_modle.roc_auc",
            "      scrap: 07",
            "a gate reads '07_evaluate_modle.roc_auc', and there is no stage '07_evaluate_modle'",
            "Did you mean '07_evaluate_model'?",
        ),
    ],
)
def test_what_no_stage_makes_cannot_be_read(path, text, old, new, where, reason, hint):
    """An input or gate on a stage that does not exist, or comes later, is found before anything runs."""
    wrong = text.replace(old, new, 1)
    line = next(number for number, row in enumerate(wrong.splitlines(), 1) if row.startswith(where))

    with pytest.raises(PipelineError) as caught:
        parse_pipeline(wrong, path)
    assert f"{path}, line {line}: {reason}" == caught.value.message
    assert caught.value.hint.startswith(hint)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "holds no keys"),
        ("- a\n- b", "holds no keys"),
        ("name: [", "is not YAML"),
        ("name: a\nname: b", "key 'name' stands twice"),
        ("label:\n  delay: 1 day\n  delay: 2 days", "key 'delay' stands twice"),
        ("? [a, b]\n: c", "is not YAML"),
        ("name: !!python/object/apply:os.getcwd []", "is not YAML"),
    ],
)
def test_what_is_no_mapping_is_refused(path, text, reason):
    """Broken, repeated or unsafe YAML is an error of ours that names the file."""
    with pytest.raises(PipelineError, match="pipeline.yaml") as caught:
        parse_pipeline(text, path)
    assert reason in caught.value.message


def test_bytes_that_are_no_text_are_refused(project, path):
    """A file in another encoding is an error of ours."""
    path.write_bytes(b"title: Versp\xe4tung")

    with pytest.raises(PipelineError, match="is not UTF-8"):
        load_pipeline("tiny")


def test_the_name_is_the_folders(project, path, text):
    """A copied pipeline that kept its old name would release under it, so it is refused."""
    path.write_text(text.replace("name: tiny", "name: large"))

    with pytest.raises(PipelineError, match="name is 'large', and the folder is 'tiny'"):
        load_pipeline("tiny")


def test_an_unknown_pipeline_or_stage_gives_the_nearest(project):
    """A name that nobody has is answered with the nearest that somebody has."""
    with pytest.raises(PipelineError, match="no pipeline 'tinny'.*\nHint: Did you mean 'tiny'"):
        load_pipeline("tinny", load_settings())
    with pytest.raises(PipelineError, match="tiny has no stage '06_train'\nHint: Did you mean '06_train_model'"):
        load_pipeline("tiny").stage("06_train")


def test_hooks_are_the_packages_functions(project, path, text):
    """A hook is imported by its name; one that is not there says which, and where it was written."""
    assert load_pipeline("tiny").hook("value")([1], [True]).tolist() == [6.0]
    for wrong in ("tiny:valeu", "tinny:value", "tiny"):
        pipeline = parse_pipeline(text.replace("value: tiny:value", f"value: {wrong}"), path)
        with pytest.raises(PipelineError, match=f"hooks.value is '{wrong}', which cannot be imported"):
            pipeline.hook("value")


def test_a_lifecycle_stage_can_be_changed_in_part(path, text):
    """Declaring a longer deadline for the comparison keeps its inputs, its outputs and its place."""
    changed = text.replace("\ngates:", "\n  10_compare_shadow:\n    timeout: 1 hour\n\ngates:")
    tiny = parse_pipeline(changed, path)

    assert tiny.stage("10_compare_shadow") == LIFECYCLE["10_compare_shadow"].model_copy(
        update={"timeout": timedelta(hours=1)}
    )
    assert list(tiny.stages)[-5:] == list(LIFECYCLE)


def test_a_segment_may_have_several_columns(path, text):
    """A column is a segment of its own name; a name with columns is one for each combination of their values."""
    tiny = parse_pipeline(text.replace("segments: [shop]", "segments: [shop, route: [shop, size]]"), path)

    assert [(segment.name, segment.columns) for segment in tiny.segments] == [
        ("shop", ("shop",)),
        ("route", ("shop", "size")),
    ]


def test_a_scheduled_week_stands_for_a_week_of_the_data(project, path, text):
    """With a calendar the weeks of the data go round; without one the release is as of that week's Monday."""
    tiny = load_pipeline("tiny")
    assert tiny.as_of(datetime(2013, 10, 9, 6)) == date(2013, 10, 7)
    assert tiny.as_of(datetime(2013, 9, 30) + timedelta(weeks=12)) == date(2013, 9, 30)
    assert tiny.as_of(datetime(2026, 11, 23, 6)).weekday() == 0
    keys = yaml.safe_load(text)
    del keys["calendar"]

    assert parse_pipeline(yaml.safe_dump(keys), path).as_of(datetime(2026, 11, 25, 6)) == date(2026, 11, 23)


def test_a_pipeline_cannot_be_changed(project):
    """What was read is frozen, so that a run's gates are those of its file."""
    with pytest.raises(ValidationError, match="frozen"):
        load_pipeline("tiny").title = "another"
