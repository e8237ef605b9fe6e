"""One release, whose stages meet one fault after the other; each is mended, and the release resumed.

It goes through all flows: release, comparison, promotion, monitoring and review, on a running system. What a stage
made when it was at last left in peace is compared with what it made in a release that nothing disturbed.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from sundial.errors import ServiceError
from sundial.operations.prefect_api import FINAL, FlowRun, PrefectApi
from sundial.operations.resuming import resume
from sundial.operations.status import wait_for_version
from sundial.operations.traffic import Replay
from sundial.pipeline import load_pipeline
from sundial.release.registry import Registry
from sundial.runs import Run, list_runs
from tests.benchmarks.faults.results import describe, differences
from tests.benchmarks.faults.system import Message, System, harm_cell

FIRST, SECOND = pd.Timestamp("2026-01-05"), pd.Timestamp("2026-01-12")
STAGES = (
    "01_query_data",
    "02_filter_data",
    "03_generate_features",
    "04_build_training_set",
    "05_build_evaluation_sets",
    "06_train_model",
    "07_evaluate_model",
    "08_evaluate_business",
    "09_deploy_shadow",
    "10_compare_shadow",
    "11_promote_model",
    "12_monitor_production",
    "13_review_production",
)
BY_ITSELF = ("Prefect server restarted", "worker killed")  # goes on without a person
LAST = "Prefect server restarted"  # the flow outlives it, so that the stage ends
DETECTED_WITHIN = 30.0  # seconds from the fault, of a hanging stage from its deadline, to the message
PATIENCE = 420.0
DEADLINE = 15.0  # seconds that a stage is given which is about to hang
STEADY = 23.0  # seconds that a service must have been up, or the supervisor takes it for one that cannot start
BAD = ("FAILED", "CRASHED", "CANCELLED")
# Of aliases, by the stages. A promotion goes there, back as its rehearsal, and there for good.
MOVES = {"09_deploy_shadow": ["shadow"], "11_promote_model": ["production", "production", "production", "shadow"]}
SAYS = {  # what the cause must say, so that no late word on one fault counts as the alarm of the next
    "exception": "a fault of the matrix",
    "hang": "Deadline",
    "kernel killed": "KernelDied|kernel died",
    "out of memory": "KernelDied|kernel died|MemoryError",
    "empty input": "EmptyDataError",
    "stale input": "StaleDataError",
    "corrupt artifact": "is not what .* wrote",
    "Prefect server restarted": "Prefect server ended",
    "worker killed": "worker ended|is gone|was stopped|KernelDied",
    "disk full": "No space left",
}
ANSWER = {"name": "reviewer", "reason": "as the evidence says"}


@dataclass
class Cell:
    """What one fault in one stage came to.

    Attributes
    ----------
    stage, fault : str
        Which.
    seconds : float or None
        From the fault to the message; None when none came.
    named_stage, named_cell, cause : str
        What the message said.
    expected_cell : str
        The cell that did the harm; empty where any will do.
    promoted, repeated, other : list of str
        Aliases that moved, stages that ran again, and facts that came out otherwise.
    resumed : str
        How it went on.
    problem : str
        What went wrong with the measurement itself.
    """

    stage: str
    fault: str
    seconds: float | None = None
    named_stage: str = ""
    named_cell: str = ""
    cause: str = ""
    expected_cell: str = ""
    promoted: list[str] | None = None
    repeated: list[str] | None = None
    other: list[str] | None = None
    resumed: str = ""
    problem: str = ""

    @property
    def faults(self) -> list[str]:
        """What does not hold, in words; empty when all does."""
        cell = {"": self.named_cell, "none": ""}.get(self.expected_cell, self.expected_cell)
        asked = {
            "not seen in time": self.seconds is not None and self.seconds <= DETECTED_WITHIN,
            "stage not named": self.named_stage == self.stage,
            "cell not named": self.named_cell == cell and (bool(cell) or self.expected_cell == "none"),
            "alias moved": self.promoted == [],
            "repeated": self.repeated == [],
            "other result": self.other == [],
            self.problem: not self.problem,
        }
        return [words for words, holds in asked.items() if not holds]

    def as_dict(self) -> dict[str, Any]:
        """Give what is kept of it."""
        return asdict(self)


class Chain:
    """The release of one pipeline, and what happens to it.

    Parameters
    ----------
    system : System
        Where it runs.
    name : str
        Of the pipeline.
    wanted : dict of str to list of str
        By stage, the faults that it meets; empty for a release that nothing disturbs.
    expected : dict
        By stage, what it makes undisturbed; `noise` is what differs between two undisturbed releases.
    done : callable
        Given each cell as soon as all of it is known.
    """

    def __init__(
        self,
        system: System,
        name: str,
        wanted: dict[str, list[str]],
        expected: dict[str, Any],
        done: Callable[[Cell], None],
    ) -> None:
        self.system, self.name = system, name
        # the flow goes on by itself after the last, which ends the stage
        self.wanted = {stage: sorted(faults, key=lambda fault: fault == LAST) for stage, faults in wanted.items()}
        self.agenda = [(stage, fault) for stage in STAGES for fault in self.wanted.get(stage, [])]
        self.expected, self.done = expected, done
        self.settings = system.settings
        self.pipeline = load_pipeline(name, self.settings)
        self.declared = (self.pipeline.folder / "pipeline.yaml").read_text()
        self.api = PrefectApi(settings=self.settings)
        self.registry = Registry(self.settings)
        self.harm = self.settings.root / "harm"
        self.flow: FlowRun | None = None
        self.run: Run | None = None
        self.open: Cell | None = None  # disturbed, and not known yet how it went on
        self.waiting: list[Cell] = []  # went on, and their stage has not ended yet
        self.finished: dict[str, str] = {}
        self.known = 0
        self.moves = 0
        self.service_up = time.monotonic()

    def go(self) -> dict[str, dict[str, str]]:
        """Bring a first model into production, and disturb the release of the week after; give what it made."""
        self.bring_first()
        self.disturb_all()
        assert self.run is not None
        return {stage: describe(self.run, stage) for stage in STAGES}

    def disturb_all(self) -> None:
        """Disturb the release of the week after the first."""
        last = max((index for index, stage in enumerate(STAGES) if self.wanted.get(stage)), default=len(STAGES) - 1)
        for stage in STAGES[: last + 1]:
            self.reach(stage)
        self.settle()

    # the undisturbed parts

    def bring_first(self) -> None:
        """Make a first release and promote it, undisturbed."""
        flow_run = self.start_release(FIRST)
        self.wait(flow_run, ("COMPLETED",))
        run = self.run_of(flow_run)
        question = self.wait(self.find("promotion", run), ("PAUSED",))
        self.api.answer(question, {**ANSWER, "decision": "approve"})
        self.wait(question, ("COMPLETED",))
        version = self.registry.alias(self.name, "production")
        assert version is not None
        wait_for_version(self.settings, str(version.version), pipeline=self.pipeline)

    def start_release(self, as_of: pd.Timestamp) -> FlowRun:
        """Start a release."""
        parameters = {"pipeline": self.name, "as_of": f"{as_of:%Y-%m-%d}"}
        return self.api.start("release", self.name, parameters, key=f"{self.name} {as_of:%Y-%m-%d}")

    def run_of(self, flow_run: FlowRun) -> Run:
        """Find the run of a release, which it makes soon after it has started."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            for run in list_runs(self.name, kind="release", settings=self.settings):
                if run.manifest().get("key") == flow_run.id:
                    return run
            time.sleep(0.1)
        raise TimeoutError(f"{self.name}: the release has no run")

    def find(self, flow: str, run: Run) -> FlowRun:
        """Find the flow run that works on a run."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            found = self.api.find(self.name, flow=flow, run=run.name)
            if found:
                return found[0]
            time.sleep(0.2)
        raise TimeoutError(f"{self.name}: no {flow} of {run.name}")

    def wait(self, flow_run: FlowRun, until: tuple[str, ...]) -> FlowRun:
        """Wait for a state, and take no other end; an answer that fails is asked for again."""
        deadline = time.monotonic() + PATIENCE
        while True:
            left = timedelta(seconds=max(1.0, deadline - time.monotonic()))
            try:
                found = self.api.wait(flow_run, timeout=left, until=(*until, *FINAL), poll=1.0)
                break
            except ServiceError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(1)
        if found.state not in until:
            raise RuntimeError(f"{self.name}: {found.name} ended as {found.state_name}: {found.message[:300]}")
        return found

    def replay(self, start: pd.Timestamp) -> None:
        """Send the requests of a week."""
        result = Replay(self.pipeline, start, start + timedelta(days=7), self.pipeline.serve_url(self.settings)).run()
        if result.failed:
            raise RuntimeError(f"{self.name}: {result.failed} requests failed: {result.first_error}")

    # the disturbed ones

    def reach(self, stage: str) -> None:
        """Let the release come to a stage, and disturb it there as often as is wanted."""
        faults = self.wanted.get(stage, [])
        if stage in (STAGES[0], *STAGES[9:]):
            if faults:
                self.arm(stage, faults[0])
            self.settle()
            self.start(stage)
        for fault in faults:
            if self.open is None or self.open.fault not in BY_ITSELF:  # these have armed the next one
                self.arm(stage, fault)
            if self.open is not None and self.open.fault not in BY_ITSELF:
                self.resume()
            happened = self.wait_for_harm(stage, fault)
            self.conclude()
            self.disturb(stage, fault, happened)

    def start(self, stage: str) -> None:
        """Start the flow that a stage is the first of."""
        if stage == STAGES[0]:
            self.flow = self.start_release(SECOND)
            self.run = self.run_of(self.flow)
            return
        assert self.run is not None
        number = stage[:2]
        if number in ("10", "12"):
            self.replay(SECOND if number == "10" else SECOND + timedelta(days=7))
            self.flow = self.find("comparison" if number == "10" else "monitoring", self.run)
            self.api.set_state(self.flow, "SCHEDULED", name="Scheduled", message="its week has been replayed")
            return
        self.flow = self.wait(self.find("promotion" if number == "11" else "review", self.run), ("PAUSED",))
        self.api.answer(self.flow, {**ANSWER, "decision": "approve" if number == "11" else "keep"})

    def settle(self) -> None:
        """Let the flow that is under way come to its end."""
        if self.flow is None:
            return
        if self.open is not None and self.open.fault not in BY_ITSELF:
            self.resume()
        self.wait_for_end()
        self.conclude()
        self.judge_results()

    def wait_for_end(self) -> None:
        """Wait until the flow is complete; resume it where it stops, as a person would."""
        assert self.flow is not None
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            found = self.read()
            if found == "COMPLETED":
                if self.flow.flow == "promotion":
                    version = self.registry.alias(self.name, "production")
                    assert version is not None
                    wait_for_version(self.settings, str(version.version), pipeline=self.pipeline)
                return
            if found in BAD:
                if self.open is None:
                    raise RuntimeError(f"{self.name}: {self.flow.name} ended as {found}")
                self.resume()
            time.sleep(1)
        raise TimeoutError(f"{self.name}: {self.flow.name} does not end")

    def read(self) -> str:
        """Read the state of the flow; empty while nobody answers."""
        assert self.flow is not None
        try:
            return self.api.read(self.flow).state
        except ServiceError:
            return ""

    def arm(self, stage: str = "", fault: str = "") -> None:
        """Arm a stage, and no other any more; without one, none."""
        self.set_deadline(stage if fault == "hang" else "")
        path = self.harm / f"{self.name}.json"
        if not stage:
            path.unlink(missing_ok=True)
            return
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps({"stage": stage, "fault": fault}))
        temporary.replace(path)

    def set_deadline(self, stage: str) -> None:
        """Give a stage little time, and all others what they had."""
        declared = yaml.safe_load(self.declared)
        if stage:
            declared["stages"].setdefault(stage, {})["timeout"] = f"{DEADLINE:.0f} s"
        text = yaml.safe_dump(declared, sort_keys=False)
        path = self.pipeline.folder / "pipeline.yaml"
        if path.read_text() != text:
            temporary = path.with_name(".pipeline.new")
            temporary.write_text(text)
            temporary.replace(path)

    def wait_for_harm(self, stage: str, fault: str) -> float:
        """Wait until the stage was harmed; give the moment. A flow that stopped before it is resumed."""
        path = self.harm / f"{self.name}.happened"
        deadline = time.monotonic() + PATIENCE
        looked = time.monotonic()
        while time.monotonic() < deadline:
            lines = path.read_text().splitlines() if path.exists() else []
            for number, line in enumerate(lines[self.known :], start=self.known + 1):
                entry = json.loads(line)
                if (entry["stage"], entry["fault"]) == (stage, fault):
                    self.known = number
                    return float(entry["at"])
            if self.open is not None and time.monotonic() - looked > 1:
                looked = time.monotonic()
                if self.read() in BAD:
                    self.resume()
            time.sleep(0.05)
        raise TimeoutError(f"{self.name}: {stage} was never reached, to meet: {fault}")

    def disturb(self, stage: str, fault: str, happened: float) -> None:
        """See what comes of the harm, and mend it."""
        assert self.run is not None
        cell = self.open = Cell(stage, fault)
        cell.expected_cell = self.expected_cell(stage, fault)
        self.moves = len(self.registry.history(self.name, None))
        self.finished = {name: item["started"] for name, item in self.records().items() if name != stage}
        since = happened
        if fault in BY_ITSELF:
            time.sleep(max(0.0, self.service_up + STEADY - time.monotonic()))
            since = self.system.kill("worker" if fault == "worker killed" else "server")
            self.arm_next(stage, fault)
        elif fault == "hang":
            since += DEADLINE
        message = self.wait_for_message(stage, fault, since if fault in BY_ITSELF else happened, since)
        if message is not None:
            cell.seconds = round(message.at - since, 2)
            cell.named_stage, cell.cause = message.said.get("Stage", ""), message.said.get("Cause", "")
            cell.named_cell = message.said.get("Cell", "")
        if fault in BY_ITSELF:
            self.wait_for_service()
            self.judge_results()
            return
        self.wait_until_stopped()
        cell.promoted = self.moved()
        self.arm()  # no more
        (self.settings.runs / ".ballast").unlink(missing_ok=True)
        if fault != "corrupt artifact":  # which resuming mends
            self.put_back()
            self.judge_results()

    def arm_next(self, stage: str, fault: str) -> None:
        """Arm what comes after a fault that the release outlives by itself."""
        following = self.agenda[self.agenda.index((stage, fault)) + 1 :]
        self.arm(*(following[0] if following else ()))

    def expected_cell(self, stage: str, fault: str) -> str:
        """Give the cell that the alarm must name: the one that does the harm, or any where another one finds it."""
        if (fault, stage) == ("corrupt artifact", STAGES[0]):
            return "none"  # found when all cells have run
        if fault in ("empty input", "stale input", "corrupt artifact", "disk full", LAST):  # or has gone on meanwhile
            return ""
        return str(harm_cell(self.settings, self.name, stage))

    def moved(self) -> list[str]:
        """List the aliases that have moved since the harm."""
        return sorted(str(move.alias) for move in self.registry.history(self.name, None)[self.moves :])

    def records(self) -> dict[str, dict[str, Any]]:
        """Read the records of all stages; one that a fault has replaced, as it was before."""
        assert self.run is not None
        records = self.run.stages()
        kept = self.harm / f"{self.name}.kept"
        if kept.exists():
            where = json.loads((kept / "where.json").read_text())
            records[Path(where["record"]).parent.name] = json.loads((kept / "record").read_text())
        return records

    def wait_for_message(self, stage: str, fault: str, earliest: float, since: float) -> Message | None:
        """Wait for the alarm about the stage, well beyond the time in which it must come."""
        assert self.run is not None
        while time.time() < since + 2 * DETECTED_WITHIN:
            if found := self.system.inbox.find(self.run.name, stage, earliest, SAYS[fault]):
                return found
            time.sleep(0.05)
        return None

    def wait_until_stopped(self) -> None:
        """Wait until the flow has ended badly, retries included."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self.read() not in BAD:
            time.sleep(0.5)

    def wait_for_service(self) -> None:
        """Wait until what was killed is up again."""
        deadline = time.monotonic() + PATIENCE
        time.sleep(1.5)  # the supervisor looks every second
        while time.monotonic() < deadline and not self.api.is_healthy():
            time.sleep(0.3)
        self.service_up = time.monotonic()

    def put_back(self) -> None:
        """Put back an output and its record, as from a backup."""
        kept = self.harm / f"{self.name}.kept"
        if not kept.exists():
            return
        where = json.loads((kept / "where.json").read_text())
        for name, target in where.items():
            temporary = Path(target).with_name(".mended")
            shutil.copyfile(kept / name, temporary)
            temporary.replace(target)
        shutil.rmtree(kept)

    def resume(self) -> None:
        """Let the run go on, with the command that the alarm gives."""
        assert self.run is not None
        assert self.open is not None
        how, said = "sundial resume", ""
        if self.open.fault == "corrupt artifact":  # the command itself, since it runs notebooks
            code, said = self.command_resume()
            if code and "backup" in said:
                how = "file from a backup, then sundial resume"
                self.put_back()
                code, said = self.command_resume()
            if code:
                raise RuntimeError(f"sundial resume fails: {said[-500:]}")
        else:
            resume(self.run.name, self.settings, say=lambda _: None)
        if "put back" in said:
            how = "sundial resume, which made the file again"
        self.open.resumed = how
        shutil.rmtree(self.harm / f"{self.name}.kept", ignore_errors=True)

    def command_resume(self) -> tuple[int, str]:
        """Run `sundial resume` as a person does."""
        assert self.run is not None
        command = [sys.executable, "-m", "sundial", "resume", self.run.name]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
        return done.returncode, done.stdout + done.stderr

    def conclude(self) -> None:
        """Judge how what was disturbed went on, now that it has."""
        if self.open is None:
            return
        assert self.run is not None
        cell, self.open = self.open, None
        cell.resumed = cell.resumed or "by itself"
        done = [stage for stage in MOVES if stage not in self.finished and self.run.succeeded(stage)]
        right = sorted(alias for stage in done for alias in MOVES[stage])
        moved = self.moved()
        cell.promoted = [*(cell.promoted or []), *(moved if moved != right else [])]
        records = self.records()
        cell.repeated = [name for name, began in self.finished.items() if records[name]["started"] != began]
        self.waiting.append(cell)

    def judge_results(self) -> None:
        """Compare what stages made that have ended; not while a later fault holds one of their files."""
        assert self.run is not None
        for cell in [one for one in self.waiting if self.run.succeeded(one.stage)]:
            noise = self.expected["noise"][cell.stage]
            found = differences(self.expected["made"][cell.stage], describe(self.run, cell.stage))
            cell.other = [fact for fact in found if fact not in noise]
            self.waiting.remove(cell)
            self.done(cell)
