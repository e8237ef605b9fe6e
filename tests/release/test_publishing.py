"""Runs and models that several machines share: published by one, gone on with by another, through a real S3 server."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sundial.errors import ArtifactCorruptError, RunNotFoundError, SettingsError, StoreError
from sundial.experiments.keeping import remove_runs
from sundial.release.fetching import fetch_version
from sundial.release.models import build_model_folder
from sundial.release.publishing import bring_in, publish_run
from sundial.release.registry import Registry
from sundial.runs import Run, open_run
from sundial.settings import Settings, load_settings
from tests.release.conftest import save, toys


@pytest.fixture(params=["s3", "folder"])
def here(settings: Settings, request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Give the settings of a machine with a store."""
    store = f"{request.getfixturevalue('bucket')}/team" if request.param == "s3" else str(tmp_path / "shared folder")
    return settings.model_copy(update={"store": store})


@pytest.fixture
def there(here: Settings, tmp_path: Path) -> Settings:
    """Give those of another machine, which shares nothing but the store."""
    return here.model_copy(update={"artifacts": tmp_path / "another machine"})


def contents(run: Run) -> dict[str, bytes]:
    """Read all files of a run but the hidden ones."""
    return {
        str(path.relative_to(run.folder)): path.read_bytes()
        for path in run.folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def test_another_machine_goes_on_with_a_run(here: Settings, there: Settings, make_run: Callable[..., Run]):
    """Its files are the same there; what that machine adds comes back; a second time nothing is to be done."""
    run = make_run()

    assert publish_run(run, here)
    assert not publish_run(run, here)
    assert [] == bring_in("toy", here)
    assert [run.name] == bring_in("toy", there)
    other = open_run(run.name, there)
    assert contents(run) == contents(other)
    assert other.succeeded("08_evaluate_business")

    save(other, "09_deploy_shadow", deployment={"version": 1})
    (other.folder / "08_evaluate_business" / "outputs" / "policy.json").unlink()
    assert publish_run(other, there)
    save(run, "10_compare_shadow", joined=toys(5))  # by a machine that was killed before it published: it never was
    assert [run.name] == bring_in("toy", here)
    assert contents(other) == contents(run)
    assert ([], []) == (bring_in("toy", here), bring_in("toy", there))


def test_what_is_under_way_is_left_alone(here: Settings, there: Settings, make_run: Callable[..., Run]):
    """A run that nobody else has published since is not touched, whatever else is brought in."""
    run = make_run()
    publish_run(run, here)
    save(run, "09_deploy_shadow", deployment={"version": 1})
    bring_in("toy", there)
    newer = make_run("2013-10-07")
    publish_run(newer, here)

    assert [newer.name] == bring_in("toy", there)
    assert [] == bring_in("toy", here)
    assert run.succeeded("09_deploy_shadow")


def test_a_run_whose_bytes_are_damaged_is_not_half_there(settings: Settings, make_run, tmp_path: Path):
    """It is refused, and the folder of runs holds nothing of it."""
    here = settings.model_copy(update={"store": str(tmp_path / "shared folder")})
    there = here.model_copy(update={"artifacts": tmp_path / "another machine"})
    run = make_run()
    publish_run(run, here)
    next((Path(here.store) / "runs" / "toy" / run.name / "objects").rglob("??*/*")).write_bytes(b"damaged")

    with pytest.raises(ArtifactCorruptError, match="is damaged"):
        bring_in("toy", there)
    with pytest.raises(RunNotFoundError):
        open_run(run.name, there)


def test_a_removed_run_stays_removed(here: Settings, there: Settings, make_run: Callable[..., Run]):
    """Nobody brings it in again."""
    run = make_run()
    publish_run(run, here)
    remove_runs([run], here)

    assert [] == bring_in("toy", there)
    assert not run.folder.exists()


def test_another_machine_serves_a_version(
    here: Settings, there: Settings, registry: Registry, make_run, pipeline, tmp_path: Path, monkeypatch
):
    """The registry is shared, the models are in the store: an empty machine loads them, checked, and keeps a copy."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", here.tracking_uri)
    shared = Registry(here)
    version = shared.register("toy", build_model_folder(make_run(), tmp_path / "servable", pipeline=pipeline))
    shared.set_alias("toy", "production", version)
    expected = shared.load("toy", "production").score(toys(20)).tolist()
    shutil.rmtree(here.models)
    info = Registry(there).version("toy", "production")
    folder = fetch_version(info, there)

    assert info.source.startswith(here.store if "://" in here.store else Path(here.store).as_uri())
    assert expected == Registry(there).load("toy", "production").score(toys(20)).tolist()
    assert folder.is_relative_to(there.models)
    (folder / "model.skops").write_bytes(b"damaged on the way")
    assert expected == Registry(there).load("toy", "production").score(toys(20)).tolist()


def test_without_a_store_nothing_is_published(settings: Settings, make_run: Callable[..., Run]):
    """One machine needs none of it."""
    run = make_run()

    assert not publish_run(run, settings)
    assert [] == bring_in("toy", settings)
    assert not (run.folder / ".published.json").exists()


def test_a_store_that_is_away_is_a_sentence(settings: Settings, bucket: str, make_run: Callable[..., Run]):
    """The run stays as it is."""
    run = make_run()
    before = contents(run)

    with pytest.raises(StoreError, match="no-such-bucket"):
        publish_run(run, settings.model_copy(update={"store": "s3://no-such-bucket"}))
    assert before == contents(run)


def test_a_store_is_named_without_a_password(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """It stands in the registry and in messages; a folder is one of the project, and none says that there is none."""
    monkeypatch.setenv("SUNDIAL_ROOT", str(tmp_path))
    monkeypatch.setenv("SUNDIAL_STORE", "sftp://me:hunter2@host/folder")
    with pytest.raises(SettingsError, match="SUNDIAL_STORE cannot be used") as caught:
        load_settings()
    assert "hunter2" not in str(caught.value)

    for given, expected in {"shared": str(tmp_path / "shared"), "s3://b/p/": "s3://b/p", "none": "", "": ""}.items():
        monkeypatch.setenv("SUNDIAL_STORE", given)
        assert expected == load_settings().store


def test_a_password_of_the_registry_is_shown_to_nobody(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    """The address in messages is without it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql+psycopg://sundial:hunter2@db/mlflow")

    assert "postgresql+psycopg://***@db/mlflow" == settings.registry_address
