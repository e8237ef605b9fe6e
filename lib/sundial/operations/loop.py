"""Turns the loop once, as a newcomer sees it: two releases, a shadow, a signature, a swap, a review.

Everything runs as it does in earnest, on a real Prefect server and real HTTP; only the waiting is shortened, by
starting at once what the flows had scheduled for the end of a week that has been replayed in seconds.
"""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pandas as pd
from tqdm import tqdm

from sundial.errors import ApprovalRefusedError, ServiceError, SundialError
from sundial.formats import read_json, write_json_atomically
from sundial.monitoring.watch import read_watch
from sundial.operations.prefect_api import OPEN, FlowRun, PrefectApi
from sundial.operations.services import Supervisor
from sundial.operations.status import wait_for_version
from sundial.operations.system import bring_up, check_ports, check_writable
from sundial.operations.traffic import Replay, Traffic
from sundial.pipeline import Pipeline
from sundial.release.registry import Registry
from sundial.runs import Run, list_runs, now, open_run
from sundial.settings import Settings

PATIENCE = timedelta(minutes=20)
DEMO_NAME = "demo"
# stages of two releases, one comparison, two promotions, one monitoring, one review
STAGES = 9 + 9 + 1 + 2 + 1 + 1
REPLAY_UNITS = 8
UNITS = 4 + STAGES + 3 + 2 * REPLAY_UNITS
# requests a second while a signature is carried out: slow, so that the swap comes before they end on a busy machine too
TRICKLE = 20.0
# seconds that the watch may take to have seen enough of the week that was just replayed
WATCH_PATIENCE = 30.0


@dataclass
class Decided:
    """One human decision of the loop, for the summary."""

    question: str
    run: str
    decision: str
    name: str


@dataclass
class Loop:
    """One turn of the loop.

    Attributes
    ----------
    pipeline : Pipeline
        What is released.
    settings : Settings
        Where things are.
    approver : str
        Who answers the forms through the API; empty waits for a person at the UI.
    first : Timestamp
        Date of the first release; the second is a week later.
    """

    pipeline: Pipeline
    settings: Settings
    approver: str
    first: pd.Timestamp
    decided: list[Decided] = field(default_factory=list)
    replays: dict[str, Traffic] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.second = self.first + timedelta(days=7)
        self.address = self.pipeline.serve_url(self.settings)
        self.api = PrefectApi(settings=self.settings)
        self.registry = Registry(self.settings)
        self.bar: tqdm[Any] = tqdm(
            total=UNITS,
            unit="step",
            file=sys.stderr,
            disable=not sys.stderr.isatty(),
            bar_format="{l_bar}{bar}| {elapsed}",
            dynamic_ncols=True,
        )

    def say(self, text: str) -> None:
        """Print a line above the progress bar."""
        self.bar.write(text, file=sys.stdout)
        sys.stdout.flush()

    def turn(self) -> None:
        """Do all of it; what an earlier, interrupted turn has done is kept."""
        self.bar.update(4)
        week = self.pipeline.schedule.soak
        self.say(f"\n1  First release, as of {self.first:%Y-%m-%d}: nothing to compare with, absolute gates only")
        first = self.release(self.first)
        self.sign("promotion", first, "approve", f"The first model of {self.pipeline.name}: its gates hold.")

        self.say(f"\n2  Weekly release, as of {self.second:%Y-%m-%d}: the candidate goes to shadow")
        second = self.release(self.second)
        self.say(f"\n3  The week from {self.second:%Y-%m-%d}, request by request")
        self.replay(self.second, self.second + week, "shadow week")

        self.say("\n4  The soak is over: shadow beside production")
        self.advance("comparison", second)
        nights = Replay(
            self.pipeline,
            self.second + week,
            self.second + 2 * week,
            self.address,
            rate=TRICKLE,
        )
        with self.in_background(nights, "production week"):
            self.say("\n5  Promotion under traffic")
            approved = self.sign("promotion", second, "approve", "Shadow answers as forecast, and the gates hold.")
            nights.rate = None
        if not approved:
            return
        self.say_watch(second)
        self.say("\n6  A week later, with mature labels: the second human check")
        self.advance("monitoring", second, may_fail=True)
        self.sign("review", second, "keep", "Production performs as the approval page forecast.")

    def release(self, as_of: pd.Timestamp) -> Run:
        """Run the release flow for a date, or find the one that an earlier turn ran."""
        date = f"{as_of:%Y-%m-%d}"
        parameters = {"pipeline": self.pipeline.name, "as_of": date}
        known = [item for item in self.api.find(self.pipeline.name, flow="release") if item.parameters == parameters]
        if known:
            flow_run = known[0]
            if flow_run.is_final and flow_run.state != "COMPLETED":
                self.api.set_state(flow_run, "SCHEDULED", name="AwaitingRetry", message="the demo goes on")
        else:
            flow_run = self.api.start(
                "release", self.pipeline.name, parameters, name=f"{DEMO_NAME} release {date}", key=f"demo {date}"
            )
        self.say(f"   {self.api.link(flow_run)}")

        def run_of() -> Run | None:
            runs = list_runs(self.pipeline.name, kind="release", settings=self.settings)
            return next((run for run in runs if run.manifest().get("key") == flow_run.id), None)

        self.wait(flow_run, run_of)
        run = run_of()
        if run is None:
            raise ServiceError(f"{flow_run.name} has ended without a run", hint=f"see {self.api.link(flow_run)}")
        self.runs.append(run)
        self.say(f"   {run.name}: {len(run.stages())} stages in {_seconds(run):.0f} s, all gates passed")
        return run

    def advance(self, flow: str, run: Run, *, may_fail: bool = False) -> None:
        """Start now what was scheduled for the end of a week that has been replayed, and wait for it."""
        found = self.api.find(self.pipeline.name, flow=flow, run=run.name)
        if not found:
            raise ServiceError(f"no {flow} was scheduled for {run.name}")
        if found[0].state in ("SCHEDULED", "CRASHED", "FAILED"):
            self.api.set_state(found[0], "SCHEDULED", name="Scheduled", message="its week has been replayed")
        self.say(f"   {self.api.link(found[0])}")
        self.wait(found[0], lambda: run, may_fail=may_fail)

    def sign(self, flow: str, run: Run, decision: str, reason: str) -> bool:
        """Have a question answered, by the person at the UI or through the same API; tell whether it was so decided."""
        question = self.find_question(flow, run)
        if question.state == "PAUSED":
            if self.approver:
                answer = {"decision": decision, "name": self.approver, "reason": reason}
                self.api.answer(question, answer)
                self.say(f"   {self.approver} answers {decision!r} through Prefect's API: {self.api.link(question)}")
            else:
                self.say(f"   Waiting for you. Open {self.api.link(question)}")
                self.say("   and press Resume: the form shows the evidence. (Or, elsewhere: sundial approve)")
        until = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")
        ended = self.wait(question, lambda: run, until=(*until, "PAUSED") if self.approver else until, forever=True)
        if ended.state == "PAUSED":  # asked again
            raise ApprovalRefusedError(
                f"{self.approver}'s answer does not count: {self.api.form(ended)[0].partition(chr(10))[0]}",
                hint=f"answer it yourself: {self.api.link(ended)}",
            )
        given = next(
            (
                item
                for item in reversed(_decisions(run))
                if item["kind"] == ("review" if flow == "review" else "approval")
            ),
            {"decision": ended.state_name, "name": "", "reason": ""},
        )
        self.decided.append(Decided(flow, run.name, str(given["decision"]), str(given["name"])))
        self.bar.update(1)
        self.say(f"   {given['name']}: {given['decision']} ({given['reason']})")
        if flow == "promotion" and given["decision"] == "approve":
            version = self.registry.alias(self.pipeline.name, "production")
            if version is None:
                raise ServiceError("nothing is in production after a promotion")
            wait_for_version(self.settings, str(version.version), pipeline=self.pipeline)
            self.say(f"   version {version.version} answers at {self.address}, without a restart")
        return str(given["decision"]) == decision

    def say_watch(self, run: Run) -> None:
        """Say what the watch over a promoted version has seen so far; it starts within seconds of the promotion."""
        deadline = time.monotonic() + WATCH_PATIENCE
        while self.pipeline.watch_bounds is not None and time.monotonic() < deadline:
            seen = read_watch(run)
            if seen.get("findings"):
                self.say(f"   the watch: {seen['said']}")
                return
            time.sleep(0.5)

    def find_question(self, flow: str, run: Run) -> FlowRun:
        """Wait until the flow that asks a person has asked, or has already been answered."""
        deadline = time.monotonic() + PATIENCE.total_seconds()
        while time.monotonic() < deadline:
            found = self.api.find(self.pipeline.name, flow=flow, run=run.name)
            if found:
                return self.api.wait(found[0], timeout=PATIENCE)
            time.sleep(0.5)
        raise ServiceError(f"nobody was asked about {run.name}", hint="see 'sundial status'")

    def wait(
        self,
        flow_run: FlowRun,
        run_of: Callable[[], Run | None],
        *,
        until: tuple[str, ...] = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED", "PAUSED"),
        may_fail: bool = False,
        forever: bool = False,
    ) -> FlowRun:
        """Wait for a flow run, moving the bar as its stages succeed."""
        run = run_of()
        done = len(_succeeded(run))
        begun = time.monotonic()
        # what an earlier turn did counts at once
        self.bar.set_description(flow_run.name[:40])
        while True:
            found = self.api.read(flow_run)
            run = run or run_of()
            stages = _succeeded(run)
            if len(stages) > done:
                self.bar.update(len(stages) - done)
                done = len(stages)
                self.bar.set_description(stages[-1])
            if found.state in until:
                break
            if not forever and time.monotonic() - begun > PATIENCE.total_seconds():
                raise ServiceError(f"{found.name} is still {found.state_name}", hint=f"see {self.api.link(found)}")
            time.sleep(0.4)
        if found.state in ("FAILED", "CANCELLED", "CRASHED") and not may_fail:
            raise ServiceError(
                f"{found.name} ended as {found.state_name}: {found.message}", hint=f"see {self.api.link(found)}"
            )
        return found

    def replay(self, start: pd.Timestamp, end: pd.Timestamp, label: str) -> None:
        """Send a week's requests and wait for the answers."""
        with self.in_background(Replay(self.pipeline, start, end, self.address), label):
            pass

    @contextmanager
    def in_background(self, replay: Replay, label: str) -> Iterator[None]:
        """Let a replay run beside what is done meanwhile; on leaving, wait for its end."""
        failures: list[BaseException] = []
        shown = [0]

        def progress(sent: int) -> None:
            units = REPLAY_UNITS * sent // max(replay.total, 1)
            if units > shown[0]:
                self.bar.update(units - shown[0])
                shown[0] = units

        def work() -> None:
            try:
                replay.run(progress)
            except BaseException as error:  # noqa: BLE001  carried to the thread that waits
                failures.append(error)

        thread = threading.Thread(target=work, name="replay", daemon=True)
        thread.start()
        try:
            yield
        except BaseException:
            replay.stop()
            raise
        thread.join()
        if failures:
            raise failures[0]
        result = self.replays[label] = replay.result
        answered = ", ".join(f"version {version} {count:,}" for version, count in sorted(result.versions.items()))
        self.say(
            f"   {result.sent:,} requests, {result.failed} failed, in {result.seconds:.0f} s "
            f"(p50 {result.quantile(0.5):.1f} ms, p99 {result.quantile(0.99):.1f} ms); answered by {answered}"
        )
        if result.failed:
            raise ServiceError(f"{result.failed} requests failed: {result.first_error}")


def _succeeded(run: Run | None) -> list[str]:
    return [] if run is None else [name for name, item in run.stages().items() if item.get("status") == "succeeded"]


def _seconds(run: Run) -> float:
    return sum(float(item.get("seconds") or 0) for item in run.stages().values())


def _decisions(run: Run) -> list[dict[str, Any]]:
    path = run.folder / "decisions.json"
    return list(read_json(path)) if path.exists() else []


def prepare(settings: Settings, pipeline: Pipeline) -> str:
    """Say whether a demo starts clean or goes on, and clear what an earlier, finished one left.

    Raises
    ------
    SundialError
        When artifacts hold releases that no demo made: they are not the demo's to clear.
    """
    marker = settings.artifacts / "demo.json"
    releases = list_runs(pipeline.name, kind="release", settings=settings)
    foreign = [run.name for run in releases if f"{DEMO_NAME} release" not in run.manifest()["started_by"]]
    if foreign:
        raise SundialError(
            f"{settings.runs} holds releases that no demo made, such as {foreign[-1]}",
            hint="SUNDIAL_ARTIFACTS=/some/other/folder make demo leaves them alone",
        )
    state = read_json(marker)["state"] if marker.exists() else ""
    if state == "running":
        said = "An earlier demo was interrupted: this one goes on where it stopped."
    else:
        for name in ("runs", "cache", "models", "mlflow", "predictions", "reports", "prefect", "logs"):
            shutil.rmtree(settings.artifacts / name, ignore_errors=True)
        for path in [*settings.artifacts.glob("mlflow.db*"), settings.artifacts / "notices.jsonl"]:
            path.unlink(missing_ok=True)
        said = "An earlier demo had finished: this one starts clean." if state else "The demo starts clean."
    write_json_atomically(marker, {"state": "running", "at": now()})
    return said


def tidy(loop: Loop) -> None:
    """End what the flows have scheduled for weeks that the demo does not play."""
    for flow_run in loop.api.find(loop.pipeline.name, states=OPEN):
        if flow_run.flow != "release":
            loop.api.set_state(flow_run, "CANCELLED", message="the demo ends here")
    write_json_atomically(loop.settings.artifacts / "demo.json", {"state": "finished", "at": now()})


def turn_once(settings: Settings, pipeline: Pipeline, *, approver: str, first: str) -> Loop:
    """Bring the system up, turn the loop once, and take everything down again.

    Parameters
    ----------
    settings : Settings
        Where things are.
    pipeline : Pipeline
        What is released.
    approver : str
        Who answers the forms through the API; empty waits for a person.
    first : str
        Date of the first release.

    Returns
    -------
    Loop
        What happened.
    """
    check_writable(settings)
    check_ports(settings, pipeline)  # before anything of an earlier demo is cleared
    with Supervisor(settings) as supervisor:
        said = prepare(settings, pipeline)
        loop = Loop(pipeline, settings, approver, pd.Timestamp(first))
        loop.say(f"{said}\nStarting the servers ...")
        try:
            bring_up(supervisor, pipeline, say=loop.say)
            loop.turn()
            tidy(loop)
        finally:
            loop.bar.close()
            loop.api.close()
    loop.runs = [open_run(run.name, settings) for run in loop.runs]
    return loop
