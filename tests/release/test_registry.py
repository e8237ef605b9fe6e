"""The registry on real SQLite: versions, aliases, their history, and processes that meet in it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sundial.errors import ArtifactCorruptError, RegistryError, VersionNotFoundError
from sundial.pipeline import Pipeline
from sundial.release.models import build_model_folder
from sundial.release.registry import Registry, load_production, release_tags
from sundial.runs import Run
from sundial.settings import Settings

Make = Callable[..., int]


@pytest.fixture
def make_version(make_run: Callable[..., Run], registry: Registry, pipeline: Pipeline, tmp_path: Path) -> Make:
    """Register a model of a run of its own."""

    def make(as_of: str = "2013-09-30", *, seed: int = 0) -> int:
        run = make_run(as_of, seed=seed)
        folder = build_model_folder(run, tmp_path / "built", pipeline=pipeline)
        return registry.register("toy", folder, release_tags(run))

    return make


def utc() -> datetime:
    """Give the present moment, and let a little time pass after it."""
    moment = datetime.now(UTC)
    time.sleep(0.002)
    return moment


def test_empty_registry_answers(registry: Registry) -> None:
    """Before the first release every question has an answer, and none is an error."""
    assert registry.alias("toy", "production") is None
    assert [] == registry.versions("toy") == registry.history("toy")
    assert registry.production_at("toy", "2026-01-01") is None
    assert registry.previous_production("toy") is None
    assert load_production("toy", registry.settings) is None
    registry.delete_alias("toy", "shadow")


def test_register_keeps_origin(run: Run, registry: Registry, pipeline: Pipeline, tmp_path: Path) -> None:
    """A version carries run, as_of, commit, the hashes of its notebooks, data and model, and where its files are."""
    folder = build_model_folder(run, tmp_path, pipeline=pipeline)
    assert 1 == registry.register("toy", folder, release_tags(run))
    info = registry.version("toy", 1)
    assert (run.name, "2013-09-30T00:00:00") == (info.run, info.as_of)
    assert run.stage_record("06_train_model")["outputs"]["model"]["sha256"] == info.sha256
    assert run.stage_record("04_build_training_set")["outputs"]["training_set"]["sha256"] in info.tags["data"]
    assert '"06_train_model": "06_train' in info.tags["notebooks"]
    assert {"commit", "dirty", "card_sha256"} <= info.tags.keys()
    assert (registry.settings.models / "toy").as_uri() in info.source


def test_register_twice_is_one_version(run: Run, registry: Registry, pipeline: Pipeline, tmp_path: Path) -> None:
    """The same model of the same run is the same version; of another run it is another."""
    folder = build_model_folder(run, tmp_path, pipeline=pipeline)
    assert 1 == registry.register("toy", folder) == registry.register("toy", folder)
    assert [1] == [info.version for info in registry.versions("toy")]


def test_another_run_is_another_version(make_version: Make) -> None:
    """Two releases that trained the same model are two versions: their evidence differs."""
    assert [1, 2] == [make_version(), make_version("2013-10-07")]


def test_load_by_alias_and_version(registry: Registry, make_version: Make) -> None:
    """What is loaded knows its version, by alias or number, and answers like the other."""
    make_version()
    make_version("2013-10-07", seed=1)
    registry.set_alias("toy", "production", 2)
    model = registry.load("toy", "production")
    assert 2 == model.version == registry.load("toy", "2").version
    rows, scores = registry.load("toy", 1).check_rows()
    assert not (model.score(rows) == scores).all(), "version 1 should be another model"
    assert 2 == getattr(load_production("toy", registry.settings), "version", None)


def test_unknown_names_are_refused(registry: Registry, make_version: Make) -> None:
    """A version or alias that is not there is an error that says what is."""
    make_version()
    with pytest.raises(VersionNotFoundError, match=r"toy has no version 7\nHint: there are versions 1"):
        registry.load("toy", 7)
    with pytest.raises(VersionNotFoundError, match="toy has no version 'shadow'"):
        registry.load("toy", "shadow")
    with pytest.raises(VersionNotFoundError):
        registry.set_alias("toy", "production", 7)
    with pytest.raises(RegistryError, match="Did you mean 'production'"):
        registry.alias("toy", "producton")


def test_changed_file_is_refused(registry: Registry, make_version: Make) -> None:
    """A model or card changed in the registry's own files is not loaded."""
    make_version()
    card = next(registry.settings.models.glob("toy/*/artifacts/model/model.json"))
    card.write_text(card.read_text().replace('"threshold": 0.4', '"threshold": 0.9'))
    with pytest.raises(ArtifactCorruptError, match=r"model\.json is not the file that was registered"):
        registry.load("toy", 1)


def test_version_made_by_hand_is_refused(registry: Registry, make_version: Make) -> None:
    """A version without our hashes was not registered by us and is not loaded."""
    make_version()
    registry.client.create_model_version("toy", registry.version("toy", 1).source)
    with pytest.raises(RegistryError, match="toy 2 has no sha256 tags"):
        registry.load("toy", 2)


def test_moves_are_remembered(registry: Registry, make_version: Make) -> None:
    """Which version was in production at a moment has an answer, also after rollback and removal."""
    make_version()
    make_version("2013-10-07")
    moments = [utc()]
    for version, by in ((1, "ada"), (2, "grace"), (1, "ada")):
        registry.set_alias("toy", "production", version, by=by, reason="why", evidence="e" * 64)
        moments.append(utc())
    registry.delete_alias("toy", "production", by="ada", reason="end")
    moments.append(utc())

    answers = [registry.production_at("toy", moment) for moment in moments]
    assert [None, 1, 2, 1, None] == [info and info.version for info in answers]
    moves = registry.history("toy")
    assert [(1, None), (2, 1), (1, 2), (None, 1)] == [(move.version, move.previous) for move in moves]
    assert ("grace", "why", "e" * 64) == (moves[1].by, moves[1].reason, moves[1].evidence)
    assert [] == registry.history("toy", "shadow")
    assert 4 == len(registry.history("toy", None))


def test_moments_may_have_any_timezone(registry: Registry, make_version: Make) -> None:
    """A moment with a timezone is understood; one without is UTC."""
    make_version()
    move = registry.set_alias("toy", "production", 1)
    after = datetime.fromisoformat(move.at) + timedelta(seconds=1)
    assert registry.production_at("toy", after.isoformat()) is not None
    assert registry.production_at("toy", after.replace(tzinfo=None)) is not None
    assert registry.production_at("toy", after.replace(tzinfo=None).isoformat() + "-01:00") is not None
    assert registry.production_at("toy", after.replace(tzinfo=None).isoformat() + "+01:00") is None


def test_production_in_the_time_of_the_data(registry: Registry, make_version: Make) -> None:
    """With data of the past, the dates of the promotions can be asked for in its own time."""
    for as_of in ("2013-09-30", "2013-10-14"):
        registry.set_alias("toy", "production", make_version(as_of), as_of=as_of)
    asked = ("2013-09-29", "2013-10-13", "2013-10-14")
    answers = [registry.production_at("toy", moment, in_run_time=True) for moment in asked]
    assert [None, 1, 2] == [info and info.version for info in answers]


def test_same_move_again_changes_nothing(registry: Registry, make_version: Make) -> None:
    """A promotion that is run again, by a flow that was resumed, is recorded once."""
    make_version()
    first = registry.set_alias("toy", "production", 1, by="ada")
    assert first == registry.set_alias("toy", "production", 1, by="ada")
    assert [first] == registry.history("toy")


def test_crash_between_move_and_record(registry: Registry, make_version: Make) -> None:
    """A process that dies after moving the alias is completed by the same call again."""
    make_version()
    registry.client.set_registered_model_alias("toy", "production", "1")
    registry.set_alias("toy", "production", 1, by="ada")
    assert [(1, "ada")] == [(move.version, move.by) for move in registry.history("toy")]


def test_move_without_us_is_noticed(registry: Registry, make_version: Make) -> None:
    """An alias moved in MLflow's own pages shows in the history, and stays there when we move it next."""
    make_version()
    make_version("2013-10-07")
    registry.set_alias("toy", "production", 1, by="ada")
    registry.client.set_registered_model_alias("toy", "production", "2")
    assert [1, 2] == [move.version for move in registry.history("toy")]
    assert 2 == getattr(registry.production_at("toy", utc() + timedelta(hours=1)), "version", None)
    registry.set_alias("toy", "production", 1, by="ada")
    moves = registry.history("toy")
    assert [(1, "ada"), (2, "outside of Sundial"), (1, "ada")] == [(move.version, move.by) for move in moves]


def test_previous_production_goes_back_only(registry: Registry, make_version: Make) -> None:
    """A rollback after a rollback goes one further back, not forward again; the first has nothing before it."""
    for as_of in ("2013-09-30", "2013-10-07", "2013-10-14"):
        registry.set_alias("toy", "production", make_version(as_of))
    seen = []
    while (previous := registry.previous_production("toy")) is not None:
        registry.set_alias("toy", "production", previous.version)
        seen.append(previous.version)
    assert [2, 1] == seen


def test_tags_can_be_added(registry: Registry, make_version: Make) -> None:
    """A decision is kept with the version that it is about."""
    make_version()
    registry.tag("toy", 1, {"approval": {"name": "ada", "decision": "approve"}})
    assert '{"name": "ada", "decision": "approve"}' == registry.version("toy", 1).tags["approval"]


def test_alias_is_fresh_and_cheap(registry: Registry, make_version: Make) -> None:
    """The server may ask twice a second: the answer is the present one and takes milliseconds."""
    make_version()
    make_version("2013-10-07")
    spent = []
    for version in (1, 2) * 5:
        registry.set_alias("toy", "production", version)
        start = time.perf_counter()
        info = registry.alias("toy", "production")
        spent.append(time.perf_counter() - start)
        assert info is not None
        assert (version, ("production",)) == (info.version, info.aliases)
    assert sorted(spent)[5] < 0.05


def test_threads_share_a_registry(registry: Registry, make_version: Make) -> None:
    """A server's threads can ask one registry at the same time."""
    make_version()
    registry.set_alias("toy", "production", 1)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: registry.alias("toy", "production"), range(100)))
    assert [1] * 100 == [info and info.version for info in found]


def test_nothing_is_said_at_info(registry: Registry, make_version: Make, caplog: pytest.LogCaptureFixture) -> None:
    """MLflow and its migrations keep quiet, also where the root logger listens to everything."""
    with caplog.at_level(logging.DEBUG):
        make_version()
        registry.set_alias("toy", "production", 1)
    assert [] == [record for record in caplog.records if record.name.split(".")[0] in ("mlflow", "alembic")]


def test_unreachable_server_is_one_clear_error(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry that is not there is named, with what to check."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RegistryError, match=r"registry at http://127\.0\.0\.1:9 cannot be opened") as caught:
        Registry(settings).alias("toy", "production")
    assert "MLFLOW_TRACKING_URI" in caught.value.hint


def test_unwritable_folder_is_one_clear_error(settings: Settings) -> None:
    """Artifacts that cannot be written are named at once, without ten tries."""
    settings.artifacts.write_text("a file, where a folder should be")
    with pytest.raises(RegistryError, match="cannot be opened"):
        Registry(settings).alias("toy", "production")


WRITER = """
import sys, time
from pathlib import Path
from sundial.release.registry import Registry
registry, folder = Registry(), Path(sys.argv[1])
print(registry.register("toy", folder), flush=True)
while not (folder.parent / "polling").exists():
    time.sleep(0.01)
for _ in range(5):
    registry.set_alias("toy", "production", 1, by="writer")
    registry.delete_alias("toy", "production", by="writer")
registry.set_alias("toy", "production", 1, by="last")
"""
POLLER = """
import sys, time
from pathlib import Path
from sundial.release.registry import Registry
registry, seen, deadline = Registry(), set(), time.monotonic() + 60
print(registry.register("toy", Path(sys.argv[1])), flush=True)
while time.monotonic() < deadline:
    info = registry.alias("toy", "production")
    seen.add(info and info.version)
    Path(sys.argv[1]).with_name("polling").touch()
    if info and registry.history("toy")[-1].by == "last":
        break
    time.sleep(0.005)
print(registry.load("toy", info.version).version, sorted(seen, key=str), flush=True)
"""


def test_processes_meet_at_an_empty_database(run: Run, settings: Settings, pipeline: Pipeline, tmp_path: Path) -> None:
    """Two processes make the database, then register the same model, then one moves and one polls: all quietly."""
    folder = build_model_folder(run, tmp_path / "built", pipeline=pipeline)
    environment = {**os.environ, "SUNDIAL_ARTIFACTS": str(settings.artifacts)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(folder)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for code in (WRITER, POLLER)
    ]
    ended = [(process.communicate(timeout=120), process.returncode) for process in started]
    said = [(out.decode().strip(), errors.decode(), code) for (out, errors), code in ended]
    assert [("1", "", 0), ("1\n1 [1, None]", "", 0)] == said
    assert 11 == len(Registry(settings).history("toy"))
