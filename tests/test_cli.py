"""The command line: a command for each thing a person does, and errors that are sentences."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sundial.cli import app, main

COMMANDS = ["up", "release", "approve", "rollback", "status", "serve", "shadow", "traffic", "run", "report", "demo"]
COMMANDS += ["new", "try", "log"]
COMMANDS += ["experiment", "ship", "ls", "diff", "rm"]
COMMANDS += ["new", "try"]
COMMANDS += ["history", "replay", "backup", "restore", "worker"]
COMMANDS += ["resume", "watchdog"]


def test_there_is_a_command_for_each_thing_a_person_does():
    """The commands that the README names are there."""
    names = {command.name or command.callback.__name__ for command in app.registered_commands}

    assert set(COMMANDS) == names


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_shows_an_example(command: str, capsys: pytest.CaptureFixture[str]):
    """Help ends in an example that can be copied."""
    assert 0 == main([command, "--help"])
    assert f"Example: sundial {command}" in capsys.readouterr().out


def test_help_imports_nothing_slow():
    """The command line's own module pulls in neither pandas nor scikit-learn nor MLflow."""
    code = (
        "import sys, sundial.cli\n"
        "print([m for m in ('pandas', 'sklearn', 'mlflow', 'papermill', 'prefect') if m in sys.modules])"
    )

    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert "[]" == shown.strip()


def test_an_unknown_command_is_wrong_usage(capsys: pytest.CaptureFixture[str]):
    """Exit code 2 and one sentence, without a traceback."""
    assert 2 == main(["frobnicate"])
    assert "No such command" in capsys.readouterr().err


def test_an_unknown_pipeline_is_a_sentence_with_the_nearest_name(project: Path, capsys: pytest.CaptureFixture[str]):
    """Exit code 1; the hint gives the name that was meant."""
    assert 1 == main(["status", "--pipeline", "tinny"])
    assert "Did you mean 'tiny'?" in capsys.readouterr().err


def test_a_release_without_a_prefect_server_says_how_to_start_one(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """No traceback: the address that did not answer, and the command that helps."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv("SUNDIAL_PREFECT_PORT", str(probe.getsockname()[1]))

    assert 1 == main(["release"])
    error = capsys.readouterr().err
    assert "no Prefect server answers at" in error
    assert "sundial up" in error


def test_a_demo_on_a_taken_port_starts_nothing(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Exit code 1, the port, and nothing left running."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("SUNDIAL_PREFECT_PORT", str(taken.getsockname()[1]))

        assert 1 == main(["demo", "--approve", "reviewer"])

    assert "the Prefect server needs" in capsys.readouterr().err


def test_a_demo_where_nothing_can_be_written_starts_nothing(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Exit code 1, the folder, and the variable that names another; /proc takes no folder, from root neither."""
    monkeypatch.setenv("SUNDIAL_ARTIFACTS", "/proc/sundial")

    assert 1 == main(["demo", "--approve", "reviewer"])
    error = capsys.readouterr().err
    assert "/proc/sundial cannot be written to" in error
    assert "SUNDIAL_ARTIFACTS" in error


def test_run_refuses_a_parameter_without_a_value(project: Path, capsys: pytest.CaptureFixture[str]):
    """--set wants name=value."""
    assert 1 == main(["run", "06_train_model", "--set", "max_iter"])
    assert "has no '='" in capsys.readouterr().err


def test_ctrl_c_ends_with_130_and_one_sentence(project: Path):
    """A command that is interrupted says so, and its exit code is a shell's for an interrupt."""
    code = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # what runs tests in the background ignores it
        "from sundial.cli import app, main\n"
        "@app.command()\n"
        "def wait() -> None:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.exit(main(['wait']))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert 130 == done.returncode
    assert "sundial: interrupted" in done.stderr
    assert "Traceback" not in done.stderr
