"""A whole system for the end-to-end tests: real servers, real HTTP, the tiny pipeline, once a session."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from sundial.operations.loop import Loop
from sundial.operations.notices import read_notices
from sundial.operations.prefect_api import FlowRun, PrefectApi
from sundial.operations.services import Service, Supervisor, free_port
from sundial.operations.system import bring_up
from sundial.pipeline import Pipeline, load_pipeline
from sundial.release.registry import Registry
from sundial.runs import Run, latest_run
from sundial.settings import Settings, load_settings
from tests.experiments.conftest import git

ROOT = Path(__file__).resolve().parents[2]
SECRET = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"  # noqa: S105  nobody's
running = pytest.StashKey[ExitStack]()
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")


@dataclass
class System:
    """A running system, and what tests do with it."""

    settings: Settings
    pipeline: Pipeline
    supervisor: Supervisor
    api: PrefectApi
    registry: Registry

    def service(self, name: str) -> Service:
        """Find one of the servers."""
        return next(service for service in self.supervisor.services if service.name == name)

    def loop(self, as_of: str) -> Loop:
        """Give the steps of a turn, for releases of this date."""
        loop = Loop(self.pipeline, self.settings, "reviewer", pd.Timestamp(as_of))
        loop.api.close()
        loop.api = self.api  # closed when the session ends
        return loop

    def production(self) -> int:
        """Give the version in production; 0 for none."""
        found = self.registry.alias(self.pipeline.name, "production")
        return found.version if found else 0

    def start_release(self, as_of: str) -> FlowRun:
        """Start a release and give its flow run."""
        return self.api.start("release", self.pipeline.name, {"pipeline": self.pipeline.name, "as_of": as_of})

    def wait(self, flow_run: FlowRun, until: tuple[str, ...] = (*ENDED, "PAUSED")) -> FlowRun:
        """Wait for a flow run."""
        return self.api.wait(flow_run, timeout=timedelta(minutes=4), until=until)

    def run_of(self, as_of: str) -> Run:
        """Find the newest run of a date."""
        run = latest_run(self.pipeline.name, as_of=as_of, settings=self.settings)
        assert f"{run.as_of:%Y-%m-%d}" == as_of
        return run

    def flow_run(self, flow: str, run: Run) -> FlowRun:
        """Find the flow run that works on a run."""
        return self.api.find(self.pipeline.name, flow=flow, run=run.name)[0]

    def candidate(self, as_of: str) -> tuple[Run, FlowRun]:
        """Make a candidate, replay its week, compare it; give its run and the question it asks."""
        loop = self.loop(as_of)
        day = pd.Timestamp(as_of)
        run = loop.release(day)
        loop.replay(day, day + self.pipeline.schedule.soak, "shadow week")
        loop.advance("comparison", run)
        return run, self.wait(self.flow_run("promotion", run), ("PAUSED",))

    def now(self, flow_run: FlowRun) -> None:
        """Start a flow run now that waits, or has failed."""
        self.api.set_state(flow_run, "SCHEDULED", name="Scheduled", message="a test goes on")

    def wait_for_notice(self, words: str, seconds: float = 60) -> bool:
        """Tell whether people are told these words: Prefect runs the hook that does it after it has said Failed."""
        deadline = time.monotonic() + seconds
        while not (told := any(words in notice["reason"] for notice in read_notices(self.settings))):
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)
        return told

    @contextmanager
    def sabotaged(self, notebook: str, source: str = "raise RuntimeError('sabotage in the cell')") -> Iterator[None]:
        """Let a notebook of the project fail in a cell of its own behind the parameters, and mend it again."""
        path = next((self.settings.root / "notebooks").rglob(f"{notebook}.ipynb"))
        whole = path.read_bytes()
        broken = nbformat.read(path, as_version=4)
        tagged = [index for index, cell in enumerate(broken.cells) if "parameters" in cell.metadata.get("tags", [])]
        broken.cells.insert(tagged[0] + 1, nbformat.v4.new_code_cell(source, id="sabotage"))
        nbformat.write(broken, path)
        try:
            yield
        finally:
            path.write_bytes(whole)


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[System]:
    """Start all servers on the tiny pipeline, with notebooks that tests may break; they end with the last such test."""
    root = tmp_path_factory.mktemp("system") / "project"
    shutil.copytree(ROOT / "tests" / "tiny", root, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "notebooks" / "lifecycle", root / "notebooks" / "lifecycle")
    (root / "flows").symlink_to(ROOT / "flows")
    (root / ".gitignore").write_text("/artifacts/\n/flows\n__pycache__/\n")
    for words in (("init", "--quiet"), ("add", "."), ("commit", "--quiet", "--message", "The tiny pipeline")):
        git(root, *words)
    with ExitStack() as stack:
        request.session.stash[running] = stack
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("SUNDIAL_ROOT", str(root))
        patch.setenv("SUNDIAL_ARTIFACTS", str(root / "artifacts"))
        patch.setenv("SUNDIAL_PREFECT_PORT", str(free_port()))
        patch.setenv("SUNDIAL_SERVE_PORT", str(free_port()))
        patch.setenv("PYTHONPATH", str(root / "lib"))
        patch.setenv("SUNDIAL_APPROVER_SECRETS", json.dumps({"Ada Lovelace": SECRET}))
        patch.syspath_prepend(str(root / "lib"))
        stack.callback(sys.modules.pop, "tiny", None)  # the next test has a folder of its own
        assert {"PREFECT_API_URL", "SUNDIAL_KERNEL_SOCKET"}.isdisjoint(os.environ), "a test before left it"
        settings = load_settings()
        pipeline = load_pipeline("tiny", settings)
        supervisor = stack.enter_context(Supervisor(settings))
        api = stack.enter_context(PrefectApi(settings=settings))
        bring_up(supervisor, pipeline, say=print)
        yield System(settings, pipeline, supervisor, api, Registry(settings))


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """End the system when the next test is none of its own: it would work beside it, and hand its settings on."""
    stack = item.session.stash.get(running, None)
    if stack is not None and (nextitem is None or "system" not in getattr(nextitem, "fixturenames", ())):
        stack.close()


@pytest.fixture(scope="session")
def in_production(system: System) -> int:
    """Bring a first model into production, as of 2013-09-30; give its version."""
    loop = system.loop("2013-09-30")
    first = loop.release(pd.Timestamp("2013-09-30"))
    assert loop.sign("promotion", first, "approve", "the first model")
    return system.production()
