"""Run folders: two processes lose nothing, the newest is found, and a changed file is noticed."""

from __future__ import annotations

import re
import subprocess
import sys

import pandas as pd
import pytest

from sundial.errors import ArtifactCorruptError, ArtifactNotFoundError, RunNotFoundError
from sundial.formats import hash_file, read_json, write_value
from sundial.runs import Run, commit_of, create_run, latest_run, list_runs, open_run
from sundial.settings import load_settings

pytestmark = pytest.mark.usefixtures("project")


def save(run: Run, stage: str, name: str, value: object) -> None:
    """Save an output as a stage does."""
    path = write_value(run.stage_folder(stage) / "outputs", name, value)
    entry = {"path": str(path.relative_to(run.folder)), "sha256": hash_file(path)}
    run.update_stage(stage, outputs={name: entry}, status="succeeded")


def test_a_run_says_who_it_is(project):
    """The manifest holds identity, and the name sorts by pipeline, date and time."""
    run = create_run("tiny", "2013-09-30", started_by="a test")

    assert re.fullmatch(r"tiny-2013-09-30-\d{8}T\d{6}Z-[0-9a-f]{5}", run.name)
    assert project / "artifacts" / "runs" / run.name == run.folder
    assert (run.pipeline, run.kind, run.as_of, run.base) == ("tiny", "release", pd.Timestamp("2013-09-30"), None)
    manifest = run.manifest()
    assert (manifest["schema"], manifest["started_by"]) == (1, "a test")
    assert manifest["created"].endswith("+00:00")


def test_runs_made_in_one_moment_differ():
    """Twenty runs made at once have twenty folders, and other kinds say so in their name."""
    assert len({create_run("tiny", "2013-09-30").name for _ in range(20)}) == 20
    assert create_run("tiny", "2013-09-30", kind="scratch").name.startswith("scratch-tiny-2013-09-30-")


def test_the_commit_is_recorded(tmp_path):
    """A commit and whether tracked files differ from it; nothing outside of git."""
    folder = tmp_path / "repository"
    folder.mkdir()
    assert commit_of(folder) == ("", False)
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    (folder / "file").write_text("one")
    for command in (["init", "-q"], ["add", "file"], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *command], check=True)
    commit, dirty = commit_of(folder)
    assert re.fullmatch("[0-9a-f]{40}", commit)
    assert not dirty
    (folder / "file").write_text("two")

    assert commit_of(folder) == (commit, True)


def test_two_processes_lose_nothing():
    """A notebook and its runner write one record at the same time, and every field of both is there."""
    run = create_run("tiny", "2013-09-30")
    code = (
        "import sys; from pathlib import Path; from sundial.runs import Run\n"
        "run, who = Run(Path(sys.argv[1])), sys.argv[2]\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "for number in range(40):\n"
        "    run.update_stage('06_train_model', outputs={f'{who}{number}': {}}, **{who: number})\n"
    )
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", code, run.folder, who], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for who in ("notebook", "runner")
    ]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    record = run.stage_record("06_train_model")

    assert {f"{who}{number}" for who in ("notebook", "runner") for number in range(40)} == set(record["outputs"])
    assert (record["notebook"], record["runner"]) == (39, 39)
    assert sorted(path.name for path in run.stage_folder("06_train_model").iterdir()) == ["stage.json"]


def test_a_record_is_merged_one_level_deep():
    """An output more keeps the others, another field is replaced, and a restart forgets the attempt before."""
    run = create_run("tiny", "2013-09-30")
    assert run.stage_record("06_train_model") == {}
    run.update_stage("06_train_model", status="running", outputs={"a": 1}, parameters={"x": 1})
    run.update_stage("06_train_model", status="failed", outputs={"b": 2}, parameters={"y": 2})

    assert run.stage_record("06_train_model") == {
        "stage": "06_train_model",
        "inputs": {},
        "outputs": {"a": 1, "b": 2},
        "status": "failed",
        "parameters": {"y": 2},
    }
    assert not run.succeeded("06_train_model")
    run.restart_stage("06_train_model", status="running")
    assert run.stage_record("06_train_model")["outputs"] == {}


def test_the_manifest_can_grow():
    """A field more keeps the others."""
    run = create_run("tiny", "2013-09-30")
    run.update(version=3)

    assert (run.manifest()["version"], run.manifest()["run"]) == (3, run.name)


def test_the_newest_is_the_latest_date_then_the_last_made():
    """A release made again replaces the first of its date; a later date wins over both; other kinds never count."""
    first = create_run("tiny", "2013-10-07")
    create_run("tiny", "2013-09-30")
    create_run("tiny", "2013-10-14", kind="experiment")
    create_run("other", "2013-10-14")
    assert latest_run("tiny") == first
    again = create_run("tiny", "2013-10-07")

    assert latest_run("tiny") == again
    assert latest_run("tiny", as_of="2013-10-06").as_of == pd.Timestamp("2013-09-30")
    assert latest_run("tiny", kind="experiment").kind == "experiment"
    assert len(list_runs("tiny")) == 4
    assert len(list_runs()) == 5


def test_the_newest_having_a_stage():
    """A release that stopped before the stage asked for is passed over."""
    older = create_run("tiny", "2013-09-30")
    older.update_stage("06_train_model", status="succeeded")
    create_run("tiny", "2013-10-07").update_stage("06_train_model", status="failed")

    assert latest_run("tiny", having="06_train_model") == older


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"as_of": "2013-09-29"}, "as of 2013-09-29 or earlier; there are releases as of 2013-09-30"),
        ({"having": "06_train_model"}, "in which 06_train_model succeeded; there are"),
        ({"kind": "experiment"}, "tiny has no experiment\n"),
    ],
)
def test_no_such_release_says_what_there_is(arguments, reason):
    """Where no run fits, the error says what was asked, what there is, and how to make one."""
    create_run("tiny", "2013-09-30")

    with pytest.raises(RunNotFoundError, match=reason) as caught:
        latest_run("tiny", **arguments)
    assert "make demo" in caught.value.hint


def test_a_run_is_opened_by_name_or_folder(project):
    """Name and path give the same run; a wrong name gives the nearest; a folder without a manifest is none."""
    run = create_run("tiny", "2013-09-30")
    (project / "artifacts" / "runs" / "empty").mkdir()

    assert open_run(run.name) == run == open_run(run.folder)
    with pytest.raises(RunNotFoundError, match=f"Did you mean '{run.name}'"):
        open_run(run.name[:-1])
    with pytest.raises(RunNotFoundError, match="no run 'empty'"):
        open_run("empty")
    with pytest.raises(RunNotFoundError, match="is not a run"):
        Run(project).manifest()
    assert list_runs() == [run]


def test_an_output_is_found_in_the_run_below():
    """A scratch run reads its own output first, then the release below it."""
    release = create_run("tiny", "2013-09-30")
    save(release, "06_train_model", "model_card", {"rows": 1})
    scratch = create_run("tiny", "2013-09-30", kind="scratch", base=release.name)
    assert scratch.verify_output("06_train_model", "model_card").is_relative_to(release.folder)
    save(scratch, "06_train_model", "model_card", {"rows": 2})

    assert read_json(scratch.verify_output("06_train_model", "model_card")) == {"rows": 2}
    assert read_json(release.verify_output("06_train_model", "model_card")) == {"rows": 1}


def test_a_changed_output_is_corrupt():
    """A file that somebody edited is noticed before it is used; one that is gone, or never was, is not found."""
    run = create_run("tiny", "2013-09-30")
    save(run, "06_train_model", "model_card", {"rows": 1})
    path = run.verify_output("06_train_model", "model_card")
    path.write_text(path.read_text().replace("1", "2"))
    with pytest.raises(ArtifactCorruptError, match="model_card.json is not what 06_train_model wrote"):
        run.verify_output("06_train_model", "model_card")
    path.unlink()
    with pytest.raises(ArtifactNotFoundError, match=r"model_card.json is gone\nHint: run 06_train_model again"):
        run.verify_output("06_train_model", "model_card")

    with pytest.raises(ArtifactNotFoundError, match=f"holds no output 06_train_model/model\nHint: .* --run {run.name}"):
        run.verify_output("06_train_model", "model")


def test_a_broken_record_is_corrupt():
    """Half a record is an error that names the file, not a stage that never ran."""
    run = create_run("tiny", "2013-09-30")
    run.update_stage("06_train_model", status="succeeded")
    path = run.stage_folder("06_train_model") / "stage.json"
    path.write_text(path.read_text()[:20])

    with pytest.raises(ArtifactCorruptError, match=r"stage.json is not JSON"):
        run.succeeded("06_train_model")


def test_scraps_are_collected_by_stage():
    """The scraps of all stages, undefined ones as NaN."""
    run = create_run("tiny", "2013-09-30")
    run.update_stage("06_train_model", scraps={"rows": 5, "auc": {"undefined": True}})
    run.update_stage("01_query_data", status="succeeded")
    scraps = run.scraps()

    assert list(scraps) == ["01_query_data", "06_train_model"]
    assert scraps["06_train_model"]["rows"] == 5
    assert pd.isna(scraps["06_train_model"]["auc"])


def test_artifacts_can_be_moved(project, monkeypatch):
    """Paths in records are relative, so a moved artifacts folder is whole."""
    run = create_run("tiny", "2013-09-30")
    save(run, "06_train_model", "model_card", {"rows": 1})
    (project / "artifacts").rename(project / "elsewhere")
    monkeypatch.setenv("SUNDIAL_ARTIFACTS", str(project / "elsewhere"))

    moved = open_run(run.name, load_settings())
    assert read_json(moved.verify_output("06_train_model", "model_card")) == {"rows": 1}
