"""The units, the compose file and the rules of docs/production: each is what the program that reads it takes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from sundial.cli import main
from sundial.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
FILES = ROOT / "docs" / "production"
OUR_VARIABLES = {f"SUNDIAL_{name.upper()}" for name in Settings.model_fields}
ANALYZE = shutil.which("systemd-analyze")
UNITS = sorted([*FILES.glob("*.service"), *FILES.glob("*.timer")])


@pytest.mark.skipif(not ANALYZE, reason="NOT TESTED: systemd-analyze is not installed (Debian: apt install systemd)")
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_takes_the_units(unit: Path, tmp_path: Path):
    """systemd-analyze verify says nothing, once the program that a unit starts is where it says."""
    for path in UNITS:
        (tmp_path / path.name).write_text(path.read_text().replace("/opt/sundial/.venv/bin/sundial", "/bin/true"))
    done = subprocess.run([ANALYZE, "verify", "--man=no", tmp_path / unit.name], capture_output=True, text=True)

    # about this machine's own units it may say what it likes
    said = [line for line in done.stderr.splitlines() if "sundial" in line]
    assert (0, []) == (done.returncode, said)


@pytest.mark.parametrize("unit", sorted(FILES.glob("*.service")), ids=lambda path: path.name)
def test_the_units_start_commands_that_there_are(unit: Path, capsys: pytest.CaptureFixture[str]):
    """Each ExecStart is a command of ours, with options that it has."""
    words = re.search(r"^ExecStart=/opt/sundial/.venv/bin/sundial (.+)$", unit.read_text(), re.MULTILINE)[1].split()

    assert 0 == main([words[0], "--help"])
    text = capsys.readouterr().out
    assert [] == [word for word in words if word.startswith("--") and word not in text]


def test_the_compose_file_is_whole():
    """Every volume and service that is named is there, every command is ours, and no secret has a default."""
    text = (FILES / "compose.yaml").read_text()
    compose = yaml.safe_load(text)
    services = compose["services"]
    volumes = {item.partition(":")[0] for service in services.values() for item in service.get("volumes", [])}

    assert set(compose["volumes"]) == {name for name in volumes if not name.startswith(".")}
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)
        if "build" in service:
            assert (FILES / service["build"]["context"] / service["build"]["dockerfile"]).resolve().is_file()
            assert 0 == main([service["command"][1], "--help"])
            ours = {name for name in service["environment"] if name.startswith("SUNDIAL_")}
            assert ours <= OUR_VARIABLES
    for name in [part for part in volumes if part.startswith(".")]:
        assert (FILES / name).is_file()
    used = set(re.findall(r"\$\{(\w+)", text))
    assert used == set(re.findall(r"\$\{(\w+):\?", text))
    databases = set(re.findall(r"CREATE DATABASE (\w+)", (FILES / "databases.sql").read_text()))
    assert databases == set(re.findall(r"@database/(\w+)", text))


def test_the_rules_and_the_dashboard_speak_of_the_same_job():
    """Prometheus scrapes the job that is drawn, and every rule asks for a metric that is drawn."""
    scraped = yaml.safe_load((FILES / "prometheus.yml").read_text())["scrape_configs"][0]
    rules = yaml.safe_load((FILES / "sundial-rules.yml").read_text())["groups"][0]["rules"]
    dashboard = json.loads((FILES / "grafana.json").read_text())
    drawn = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]

    assert "/metrics" == scraped["metrics_path"]
    assert all(f'job="{scraped["job_name"]}"' in expression for expression in drawn)
    assert set(re.findall(r"sundial_\w+", str(rules))) <= set(re.findall(r"sundial_\w+", str(drawn)))
    assert len(dashboard["panels"]) == len({panel["id"] for panel in dashboard["panels"]})


def test_the_page_names_settings_that_there_are():
    """Every SUNDIAL_ variable and every command in docs/production.md is one that there is."""
    text = (ROOT / "docs" / "production.md").read_text()

    assert set(re.findall(r"SUNDIAL_[A-Z_]+[A-Z]", text)) <= OUR_VARIABLES
    for command in set(re.findall(r"`sundial ([a-z]+)", text)):
        assert 0 == main([command, "--help"])
