"""Settings: read from the environment at each call, strictly, with errors that name the variable."""

from __future__ import annotations

import traceback
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from sundial.errors import SettingsError
from sundial.settings import load_settings, parse_duration


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch) -> Path:
    """Start each test with a root and nothing else."""
    monkeypatch.setenv("SUNDIAL_ROOT", str(tmp_path))
    monkeypatch.delenv("SUNDIAL_ARTIFACTS")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("50 ms", timedelta(milliseconds=50)),
        ("90 s", timedelta(seconds=90)),
        ("90s", timedelta(seconds=90)),
        ("1 second", timedelta(seconds=1)),
        ("15 minutes", timedelta(minutes=15)),
        ("1.5 hours", timedelta(minutes=90)),
        (" 7 days ", timedelta(days=7)),
        ("10 weeks", timedelta(weeks=10)),
        (timedelta(days=2), timedelta(days=2)),
    ],
)
def test_durations_are_read_as_people_write_them(text, expected):
    """A number and a unit, singular or plural, with or without a space."""
    assert expected == parse_duration(text)


@pytest.mark.parametrize("text", ["", "7", "days", "-1 day", "7 parsecs", "1 day 2 hours", "1e3 s", "7 Days"])
def test_what_is_no_duration_is_refused(text):
    """Anything else is refused, and the hint shows what to write."""
    with pytest.raises(SettingsError, match="not a duration\nHint: write a number and a unit"):
        parse_duration(text)


def test_folders_follow_the_root(root):
    """Without more, everything made by running is under root/artifacts."""
    settings = load_settings()

    assert root / "artifacts" / "runs" == settings.runs
    assert root / "notebooks" == settings.notebooks
    assert f"sqlite:///{root}/artifacts/mlflow.db" == settings.tracking_uri
    for folder in (settings.models, settings.predictions, settings.reports, settings.warehouse, settings.logs):
        assert root / "artifacts" == folder.parent
    assert not (root / "artifacts").exists()


def test_artifacts_can_be_elsewhere(root, monkeypatch):
    """A relative folder is below the root, an absolute one is itself, and ~ is home."""
    monkeypatch.setenv("HOME", "/home/somebody")
    for given, expected in [("made", root / "made"), ("/data", Path("/data")), ("~/a", Path("/home/somebody/a"))]:
        monkeypatch.setenv("SUNDIAL_ARTIFACTS", given)
        assert expected == load_settings().artifacts


def test_other_tools_variables_are_theirs(monkeypatch):
    """MLflow's and Prefect's own variables win over our defaults."""
    assert load_settings().prefect_api_url == "http://127.0.0.1:4200/api"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://registry:5000")
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect:4200/api")

    assert load_settings().tracking_uri == "http://registry:5000"
    assert load_settings().prefect_api_url == "http://prefect:4200/api"


def test_the_environment_is_read_at_each_call(monkeypatch):
    """A variable set after the import counts, and an empty one is as good as none."""
    monkeypatch.setenv("SUNDIAL_SERVE_PORT", "9000")
    assert load_settings().serve_url == "http://127.0.0.1:9000"
    monkeypatch.setenv("SUNDIAL_SERVE_PORT", "")
    assert load_settings().serve_url == "http://127.0.0.1:8010"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SUNDIAL_SERVE_PORT", "seventy"),
        ("SUNDIAL_SERVE_PORT", "70000"),
        ("SUNDIAL_KERNEL", "thread"),
        ("SUNDIAL_LOG_SYNC_MS", "-1"),
    ],
)
def test_a_bad_value_names_its_variable(monkeypatch, name, value):
    """What cannot be used is refused by the name that somebody set."""
    monkeypatch.setenv(name, value)

    with pytest.raises(SettingsError, match=f"{name} cannot be used"):
        load_settings()


def test_an_unknown_variable_gives_the_nearest(monkeypatch):
    """A typing mistake is an error, not a setting that silently does nothing."""
    monkeypatch.setenv("SUNDIAL_SERVE_PROT", "9000")

    with pytest.raises(SettingsError, match="SUNDIAL_SERVE_PROT is not a setting\nHint: Did you mean 'SUNDIAL_SERVE_P"):
        load_settings()


def test_a_dotenv_file_of_the_root_is_read_as_strictly(root, monkeypatch):
    """The .env beside notebooks/ counts, the environment wins over it, and its typing mistakes are errors too."""
    (root / ".env").write_text("SUNDIAL_SERVE_PORT=9001\nOTHER=1\n")
    assert load_settings().serve_port == 9001
    monkeypatch.setenv("SUNDIAL_SERVE_PORT", "9002")
    assert load_settings().serve_port == 9002
    (root / ".env").write_text("SUNDIAL_SERVE_PROT=9001\n")

    with pytest.raises(SettingsError, match="SUNDIAL_SERVE_PROT is not a setting"):
        load_settings()


def test_settings_cannot_be_changed():
    """Settings are frozen: a function that is given them cannot change them for others."""
    with pytest.raises(ValidationError, match="frozen"):
        load_settings().serve_port = 1


def test_an_approvers_secret_shows_nowhere(monkeypatch):
    """Secrets are read from JSON, and neither the settings' text nor an error shows one."""
    secret = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"  # noqa: S105  nobody's
    monkeypatch.setenv("SUNDIAL_APPROVER_SECRETS", f'{{"Ada Lovelace": "{secret}"}}')
    settings = load_settings()

    assert secret == settings.approver_secrets["Ada Lovelace"].get_secret_value()
    assert secret not in f"{settings!r} {settings} {settings.model_dump_json()}"


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ('{"ada": "JBSWY3DPEHPK3PXP"}', "the secret of 'ada' is not base32 of 16 bytes or more"),
        ('{"ada": "not base32 at all, and long enough"}', "the secret of 'ada' is not base32"),
        ("JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP", "SUNDIAL_APPROVER_SECRETS is not JSON"),
    ],
)
def test_a_bad_secret_is_refused_without_being_shown(monkeypatch, value, sentence):
    """Too short, no base32, no JSON: named by variable and approver, never by its text, nor in what caused it."""
    monkeypatch.setenv("SUNDIAL_APPROVER_SECRETS", value)

    with pytest.raises(SettingsError, match=sentence) as caught:
        load_settings()
    told = "".join(traceback.format_exception(caught.value))
    assert "JBSWY3DPEHPK3PXP" not in told
    assert "not base32 at all" not in told
