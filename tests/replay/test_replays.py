"""The folder of a replay: begun once, found again, and apart from everything real."""

from __future__ import annotations

import os

import pytest

from sundial.errors import RunError, RunNotFoundError, SettingsError
from sundial.pipeline import load_pipeline
from sundial.replay.policies import find_policy, passing
from sundial.replay.replays import begin_replay, claim, find_weeks, isolate, open_replay
from sundial.settings import load_settings


def begin(**changed):
    """Begin three weeks of the tiny pipeline."""
    asked = {"first": "2013-09-30", "last": "2013-10-14", "approve": "passing", "name": "three", **changed}
    return begin_replay(load_pipeline("tiny"), **asked)


def test_the_same_words_find_the_same_replay(project):
    """A second begin gives what the first made, and its artifacts are a folder of its own."""
    replay = begin()

    assert replay == begin()
    assert replay == open_replay("three")
    assert project / "artifacts" / "replays" / "three" == replay.settings.artifacts
    assert load_settings().warehouse.resolve() == replay.settings.warehouse.resolve()


@pytest.mark.parametrize("changed", [{"last": "2013-10-07"}, {"plant": 1}])
def test_other_words_under_the_same_name_are_refused(project, changed):
    """Weeks of two replays would mix: the error names what differs, and the way out."""
    begin()

    with pytest.raises(RunError, match=f"other {next(iter(changed))}.*\n.*--name"):
        begin(**changed)


def test_a_replay_whose_notebooks_changed_is_refused(project):
    """Half a year by one notebook and half by another is no year."""
    begin()
    path = project / "notebooks" / "tiny" / "pipeline.yaml"
    path.write_text(path.read_text().replace("at_least: 500", "at_least: 400"))

    with pytest.raises(RunError, match="other notebooks"):
        begin()


@pytest.mark.parametrize(
    ("first", "last", "message"),
    [
        ("2013-09-30", "2013-10-10", "not whole weeks apart\n.*2013-10-07"),
        ("2013-10-07", "2013-09-30", "no range of weeks"),
        ("soon", "2013-09-30", "not two dates"),
    ],
)
def test_dates_that_are_no_weeks_are_refused(first, last, message):
    """Each says what is wrong with them, before anything is made."""
    with pytest.raises(SettingsError, match=message):
        find_weeks(first, last)


def test_an_unknown_policy_or_name_is_refused(project):
    """With the nearest that there is; a name that leads out of the folder is none."""
    with pytest.raises(SettingsError, match="passing"):
        begin(approve="pasing")
    with pytest.raises(SettingsError, match="no name"):
        begin(name="../elsewhere")
    begin()
    with pytest.raises(RunNotFoundError, match="three"):
        open_replay("thre")


def test_a_soak_longer_than_a_week_is_refused(project):
    """Then each weekly release supersedes the one before it, and there is nothing to replay."""
    path = project / "notebooks" / "tiny" / "pipeline.yaml"
    path.write_text(path.read_text().replace('cron: "0 6 * * 1"', 'cron: "0 6 * * 1"\n  soak: 9 days'))

    with pytest.raises(SettingsError, match="9 days"):
        begin()


def test_inside_a_replay_nothing_real_is_in_reach(project, monkeypatch):
    """Artifacts and registry are the replay's, even where a real registry is named; afterwards all is as before."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9/")
    replay, before = begin(), dict(os.environ)
    with isolate(replay.settings):
        assert replay.folder == load_settings().artifacts
        assert str(replay.folder) in load_settings().tracking_uri
    assert before == dict(os.environ)


def test_two_processes_do_not_go_on_with_the_same_replay(project):
    """The second is told that it is under way."""
    replay = begin()
    with claim(replay), pytest.raises(RunError, match="under way"), claim(replay):
        pass


def test_the_policy_approves_what_passed_and_keeps_what_holds():
    """Without a failed gate it approves and keeps; nothing else is asked of it."""
    assert find_policy("passing") is passing
    assert ("approve", "keep") == (passing("approval", []).decision, passing("review", []).decision)
