"""artifacts/ is lost, and what matters is there again: versions, decisions, predictions, and the same answers."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import httpx
import pytest
from logwriter import Writer

from sundial.cli import main
from sundial.errors import ArtifactCorruptError, BackupError, SettingsError
from sundial.formats import read_json, write_json_atomically
from sundial.recovery import backup
from sundial.recovery.backup import forget_backups, list_backups, make_backup
from sundial.recovery.restore import describe_restored, restore_backup
from sundial.release.decisions import Decision, decisions, record_decision
from sundial.release.models import build_model_folder
from sundial.release.registry import Registry
from sundial.runs import list_runs
from sundial.serving.compaction import compact_log
from sundial.serving.predictions import read_log
from sundial.settings import Settings
from tests.operations.conftest import find_ports, serving
from tests.release.conftest import toys

PLACE = "on another disk"
MADE_BY_RESTORING = ("backup.lock", "reports/index.html")


def ask(url: str, ids: list[str]) -> list[Any]:
    """Ask the model server about toys, each under an id of its own; give scores, ids and versions."""
    deadline = time.monotonic() + 60
    while httpx.get(f"{url}/ping", trust_env=False).status_code != 200:
        assert time.monotonic() < deadline, "the server has no model"
        time.sleep(0.05)
    rows = json.loads(toys(len(ids), seed=5).drop(columns="broken").to_json(orient="records", date_format="iso"))
    body = {"dataframe_records": [{**row, "request_id": name} for row, name in zip(rows, ids, strict=True)]}
    answer = httpx.post(f"{url}/invocations", json=body, trust_env=False)
    assert answer.status_code == 200, answer.text
    return [answer.json()[name] for name in ("predictions", "request_ids", "model_version")]


@pytest.fixture
def lived(toy: Settings, registry: Registry, make_run, pipeline, tmp_path: Path) -> Settings:
    """Give artifacts with two versions, of which the second is in production, and decisions about both."""
    for number, as_of in enumerate(("2013-10-07", "2013-10-14"), 1):
        run = make_run(as_of, seed=number)
        version = registry.register("toy", build_model_folder(run, tmp_path / "servable", pipeline=pipeline))
        decision = Decision("approval", "approve", "Ada", "its gates hold", f"e{number}", as_of, run.name)
        record_decision(run, decision)
        registry.set_alias(
            "toy", "production", version, by="Ada", reason="its gates hold", evidence=f"e{number}", as_of=as_of
        )
    for day in range(15, 18):  # nobody stands on these
        make_run(f"2013-10-{day}", seed=1)
    return toy


def test_all_of_artifacts_is_lost_and_the_system_goes_on(
    lived: Settings,
    registry: Registry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """Backed up beside a running server, lost, restored by command: versions, moves, decisions, rows, and answers."""
    monkeypatch.setenv("SUNDIAL_SERVE_PORT", str(find_ports()))
    place = str(tmp_path / PLACE)
    with serving(lived) as url:
        before = ask(url, ["a", "b", "c"])
        assert 0 == main(["backup", place, "--keep-runs", "1"])
        said = capsys.readouterr().out
        ask(url, ["after the backup"])
    versions = [asdict(item) for item in registry.versions("toy")]
    moves = registry.history("toy")
    signed = {run.name: decisions(run) for run in list_runs("toy", settings=lived) if decisions(run)}

    shutil.rmtree(lived.artifacts)
    assert 0 == main(["restore", place])
    back = capsys.readouterr().out

    assert "left out      2 runs" in said
    assert "2 versions (production 2), 3 runs, 2 decisions, 3 predictions" in back
    again = Registry(lived)
    assert versions == [asdict(item) for item in again.versions("toy")]
    assert moves == again.history("toy")
    assert signed == {run.name: decisions(run) for run in list_runs("toy", settings=lived) if decisions(run)}
    assert ["a", "b", "c"] == sorted(read_log("toy", settings=lived)["request_id"])
    with serving(lived) as url:
        assert before == ask(url, ["a", "b", "c"])  # from the log
        new = ask(url, ["d", "e", "f"])
    assert (before[0], before[2]) == (new[0], new[2])  # scored again, to the last bit


def test_artifacts_may_come_back_at_another_place(lived: Settings, tmp_path: Path):
    """The registry names the models where they are now, and they load while the old place is gone."""
    expected = Registry(lived).load("toy", "production").score(toys(20))
    standing = lived.artifacts / "serving" / "toy" / "standing.json"
    source = Registry(lived).version("toy", 1).source
    write_json_atomically(standing, {"production": {"source": source}})
    make_backup(lived, str(tmp_path / PLACE))
    shutil.rmtree(lived.artifacts)

    moved = lived.model_copy(update={"artifacts": tmp_path / "new place" / "artifacts"})
    restored = restore_backup(moved, str(tmp_path / PLACE))

    assert str(lived.artifacts) == restored.moved_from
    assert expected.tolist() == Registry(moved).load("toy", "production").score(toys(20)).tolist()
    told = read_json(moved.artifacts / "serving" / "toy" / "standing.json")["production"]["source"]
    assert Path(unquote(urlparse(told).path)).is_relative_to(moved.artifacts)
    assert {"production": 2} == describe_restored(moved)["toy"]["aliases"]


def test_a_damaged_backup_puts_nothing_in_its_place_and_a_mended_one_goes_on(lived: Settings, tmp_path: Path):
    """The file is named; when its bytes are whole again, the same command goes on where it was."""
    place = tmp_path / PLACE
    made = make_backup(lived, str(place))
    name, entry = next((name, entry) for name, entry in made.files.items() if name.endswith("model.skops"))
    damaged = place / "objects" / entry.sha256[:2] / entry.sha256
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1] + b"x")
    shutil.rmtree(lived.artifacts)

    with pytest.raises(ArtifactCorruptError, match="which is model.skops, is damaged"):
        restore_backup(lived, str(place))
    assert [".restoring"] == [path.name for path in lived.artifacts.iterdir() if path.is_dir()]
    damaged.write_bytes(whole)
    restore_backup(lived, str(place))
    assert whole == (lived.artifacts / name).read_bytes()
    assert not (lived.artifacts / ".restoring").exists()


def test_a_restore_that_was_killed_at_the_end_goes_on(lived: Settings, tmp_path: Path, monkeypatch):
    """Whatever was put in its place already stays, and the rest follows."""
    make_backup(lived, str(tmp_path / PLACE))
    files = {path.relative_to(lived.artifacts) for path in lived.runs.rglob("stage.json")}
    shutil.rmtree(lived.artifacts)
    rename = Path.rename

    def killed(path: Path, target: Path) -> Path:
        if target.name == "runs":
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        restore_backup(lived, str(tmp_path / PLACE))
    monkeypatch.setattr(Path, "rename", rename)
    assert lived.models.exists()
    assert not lived.runs.exists()
    restore_backup(lived, str(tmp_path / PLACE))

    assert files == {path.relative_to(lived.artifacts) for path in lived.runs.rglob("stage.json")}


def test_a_restore_overwrites_nothing(lived: Settings, tmp_path: Path):
    """What is there is named, and stays as it is."""
    make_backup(lived, str(tmp_path / PLACE))
    shutil.rmtree(lived.runs)

    with pytest.raises(BackupError, match="already holds mlflow.db, models"):
        restore_backup(lived, str(tmp_path / PLACE))
    assert not lived.runs.exists()
    with pytest.raises(BackupError, match="no backup 'never'"):
        restore_backup(lived, str(tmp_path / PLACE), "never")
    with pytest.raises(BackupError, match="no backup at"):
        restore_backup(lived, str(tmp_path / "nowhere"))
    with pytest.raises(BackupError, match="belongs on another disk"):
        make_backup(lived, str(lived.artifacts / "backup"))
    empty = lived.model_copy(update={"artifacts": tmp_path / "misspelt"})
    with pytest.raises(BackupError, match="holds nothing to keep"):
        make_backup(empty, str(tmp_path / PLACE))
    assert not empty.artifacts.exists()


def test_a_second_backup_sends_what_is_new_and_old_ones_are_forgotten(lived: Settings, bucket: str, make_run):
    """In a bucket: unchanged bytes are there once, and what only a forgotten backup held is gone."""
    first = make_backup(lived, bucket)
    gone = next(run for run in list_runs("toy", settings=lived) if not decisions(run))
    marker = gone.folder / "04_build_training_set" / "only here.json"
    marker.write_text("only in the first backup")
    middle = make_backup(lived, bucket)
    marker.unlink()
    last = make_backup(lived, bucket)

    assert [first.name, middle.name, last.name] == [item.name for item in list_backups(bucket)]
    same = {name for name, entry in first.files.items() if last.files[name] == entry}
    assert set(first.files) - same <= {"mlflow.db"}
    with pytest.raises(SettingsError, match="would leave no backup"):
        forget_backups(bucket, 0)
    names, files = forget_backups(bucket, 1)
    assert [first.name, middle.name] == names
    assert files >= 1
    shutil.rmtree(lived.artifacts)
    restore_backup(lived, bucket)
    assert len(last.files) == sum(path.is_file() for path in lived.artifacts.rglob("*")) - len(MADE_BY_RESTORING)


def test_a_log_that_is_written_and_compacted_meanwhile_is_whole(settings: Settings, tmp_path: Path, monkeypatch):
    """Rows that were logged before the backup began are there once each, whatever moves while it is made."""
    (settings.notebooks).mkdir(parents=True)
    writer = Writer(settings, segment_bytes=4_000)
    writer.write(300)
    compact_log("demo", settings)
    writer.write(300)
    keep = backup._keep

    def busy(shelf, paths, last):  # between listing and copying, as the worst of moments would have it
        writer.write(50)
        compact_log("demo", settings)
        return keep(shelf, paths, last)

    monkeypatch.setattr(backup, "_keep", busy)
    make_backup(settings, str(tmp_path / PLACE))
    monkeypatch.setattr(backup, "_keep", keep)
    writer.log.close()
    shutil.rmtree(settings.artifacts)
    restore_backup(settings, str(tmp_path / PLACE))
    rows = read_log("demo", settings=settings)

    assert rows["request_id"].is_unique
    assert {str(number) for number in range(600)} <= set(rows["request_id"])
