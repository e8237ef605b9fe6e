"""A process for each shadow: what one of them does cannot reach another, nor the one that watches them.

The watcher forks a process a version and looks at it a few times a second. One that takes longer over some rows than
``shadow_deadline_ms``, or more memory than ``shadow_memory_mb``, is killed; one that died, for whatever reason, is
started again at its checkpoint. The rows at which it died are then scored in ever smaller parts; a row that does it
twice alone gets that as its error, and after three such rows in one batch the rest of the batch does, so that a version
that always stalls is an error rate, and not a lag without end.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import psutil

from sundial.errors import SundialError
from sundial.serving.compaction import closed_segments, compact_log, shadow_positions
from sundial.serving.following import POLL_SECONDS
from sundial.serving.predictions import production_folder
from sundial.serving.priority import give_way
from sundial.serving.process import die_with, stopping
from sundial.serving.scorer import Orders, OutOfMemoryError, StoppedError, VersionScorer
from sundial.serving.shadowlog import read_totals, shadow_folder
from sundial.serving.sources import ModelSource, Version
from sundial.serving.status import describe_shadow, read_shadow_status, write_shadow_status, write_status
from sundial.serving.watch import Watch
from sundial.settings import Settings

WAIT_SECONDS = 0.1  # between two looks at a log that has nothing new
WATCH_SECONDS = 0.1
STATUS_SECONDS = 1.0
GRACE_SECONDS = 10.0
LOAD_SECONDS = 120.0  # that a version may take to be loaded
LONGEST_PAUSE = 30.0  # before a version that died is started again
MANY_ROWS, FEW_ROWS = 512, 64  # a row at a time is quick enough for this many; else so many first
STRIKES = 3
LEAST_PRIORITY = 19
FAILED, OUT_OF_MEMORY = 70, 71  # exit codes of a shadow's process

logger = logging.getLogger("sundial.serving")


@dataclass
class Shadow:
    """One shadow, as the one who watches it knows it."""

    version: Version
    watch: Watch = field(default_factory=Watch)
    pid: int = 0
    orders: Orders = field(default_factory=Orders)
    suspect: int = -1
    error: str = ""
    deaths: int = 0  # since the last batch that was logged
    restarts: int = 0
    start_at: float = 0.0
    killed_for: str = ""
    memory_bytes: int = 0


class ShadowSupervisor:
    """Runs all shadows of a pipeline.

    Parameters
    ----------
    pipeline : str
        Name of the pipeline.
    source : ModelSource
        Where aliases and models come from.
    settings : Settings
        Where the logs are, and what a shadow may take.
    stop : Event
        Set when it should end.
    """

    def __init__(self, pipeline: str, source: ModelSource, settings: Settings, stop: threading.Event) -> None:
        self.pipeline = pipeline
        self.source = source
        self.settings = settings
        self.stop = stop
        self._aliases: dict[str, int] = {}
        self._shadows: dict[int, Shadow] = {}
        self._error = ""
        self._told = 0.0
        self._tidied = time.monotonic()
        self._tidying = 0

    def run(self) -> None:
        """Watch until told to stop; then end all processes."""
        looked = -POLL_SECONDS
        try:
            while not self.stop.is_set():
                if time.monotonic() - looked >= POLL_SECONDS:
                    self._look()
                    looked = time.monotonic()
                for shadow in self._shadows.values():
                    self._check(shadow)
                self._tidy()
                self._tell("scoring")
                self.stop.wait(WATCH_SECONDS)
        finally:
            for shadow in self._shadows.values():
                self._signal(shadow, signal.SIGTERM)
            for shadow in self._shadows.values():
                self._end(shadow)
            if self._tidying:
                os.kill(self._tidying, signal.SIGKILL)  # what it began is done again, or swept away
                os.waitpid(self._tidying, 0)
            self._tell("stopped", always=True)

    def _look(self) -> None:
        """Read the aliases; begin with versions that are new in shadow, end those that left it."""
        try:
            found = self.source.shadows()
        except Exception as error:  # noqa: BLE001  whatever a registry raises, the shadows go on
            if str(error) != self._error:
                logger.error("the aliases cannot be read: %s", error)  # noqa: TRY400  its own sentence says it
            self._error = str(error)
            return
        self._error = ""
        self._aliases = {alias: version.version for alias, version in found.items()}
        wanted = {version.version: version for version in found.values()}
        for number in [number for number in self._shadows if number not in wanted]:
            shadow = self._shadows.pop(number)
            self._signal(shadow, signal.SIGTERM)
            self._end(shadow)
        for number, version in wanted.items():
            self._shadows.setdefault(number, Shadow(version))

    def _check(self, shadow: Shadow) -> None:
        """Start, kill or mourn one shadow's process, as needed."""
        if not shadow.pid:
            if time.monotonic() >= shadow.start_at:
                self._start(shadow)
            return
        pid, status = os.waitpid(shadow.pid, os.WNOHANG)
        if pid:
            shadow.pid = 0
            self._mourn(shadow, os.waitstatus_to_exitcode(status))
            return
        work = shadow.watch.read(shadow.pid)
        if work.batches and shadow.deaths:
            shadow.deaths, shadow.error = 0, ""
        deadline = LOAD_SECONDS if work.key < 0 else self.settings.shadow_deadline_ms / 1000
        try:
            shadow.memory_bytes = psutil.Process(shadow.pid).memory_info().rss
        except psutil.NoSuchProcess:
            return  # it is mourned at the next look
        if work.seconds > deadline:
            shadow.killed_for = f"no answer within {deadline:g} s"
        elif shadow.memory_bytes > self.settings.shadow_memory_mb << 20:
            shadow.killed_for = self._memory_reason
        if shadow.killed_for:
            self._signal(shadow, signal.SIGKILL)

    @property
    def _memory_reason(self) -> str:
        return f"it takes more than {self.settings.shadow_memory_mb:,} MiB of memory"

    def _mourn(self, shadow: Shadow, code: int) -> None:
        """Learn from a process's death."""
        reason, shadow.killed_for = shadow.killed_for, ""
        if not reason:
            own = {OUT_OF_MEMORY: self._memory_reason, FAILED: ""}
            reason = own.get(code, f"its process was ended by signal {-code}" if code < 0 else f"it ended with {code}")
            if code == FAILED:
                reason = str(read_shadow_status(self.pipeline, shadow.version.version, self.settings).get("error"))
        work = shadow.watch.read()
        shadow.deaths = 1 if work.batches else shadow.deaths + 1
        shadow.restarts += 1
        shadow.error = reason
        # at once, to find the row at fault; a version that cannot even be loaded has time
        pause = 0.0 if work.loaded else min(2.0**shadow.deaths, LONGEST_PAUSE)
        shadow.start_at = time.monotonic() + pause
        shadow.orders = self._learn(shadow, reason) if work.loaded and work.seconds else Orders()
        logger.warning("version %d in shadow: %s", shadow.version.version, reason)

    def _learn(self, shadow: Shadow, reason: str) -> Orders:
        """Say what the next process shall do with the rows at which this one died."""
        work = shadow.watch.read()
        # of the batch under way; those of an earlier one are logged
        condemned = {} if work.batches else dict(shadow.orders.condemned)
        orders = Orders(until=work.key + work.rows - 1, condemned=condemned)
        if work.rows > 1:
            return replace(orders, unit=FEW_ROWS if work.rows > MANY_ROWS else 1)
        orders = replace(orders, unit=1)
        if shadow.suspect != work.key:  # once may be chance: somebody else's kill
            shadow.suspect = work.key
            return orders
        condemned[work.key] = f"ModelFailedError: {reason}"
        if len(condemned) >= STRIKES:
            given = f"ModelFailedError: {reason}; not tried: {STRIKES} rows of its batch did so"
            return replace(orders, give_up=given)
        return orders

    def _start(self, shadow: Shadow) -> None:
        """Fork a process for a shadow."""
        shadow.watch = Watch()
        shadow.pid = self._fork(lambda: self._be(shadow))

    def _be(self, shadow: Shadow) -> int:
        """Be the process of a shadow; give its exit code."""
        _bound_memory(self.settings.shadow_memory_mb)
        with stopping() as stop:
            try:
                scorer = VersionScorer(
                    self.pipeline,
                    shadow.version,
                    self.source,
                    self.settings,
                    stop=stop,
                    watch=shadow.watch,
                    orders=shadow.orders,
                )
            except Exception as error:
                about = describe_shadow(shadow.version.version, None, state="failing", error=str(error))
                write_shadow_status(self.pipeline, self.settings, about)
                if not isinstance(error, SundialError):
                    raise
                logger.error("version %d cannot be in shadow: %s", shadow.version.version, error)  # noqa: TRY400
                return FAILED
            try:
                follow(scorer, stop, lambda about: write_shadow_status(self.pipeline, self.settings, about))
            except OutOfMemoryError:
                return OUT_OF_MEMORY
            finally:
                scorer.close()
        return 0

    def _tidy(self) -> None:
        """Compact the log now and then, in a process of lower priority, when there is something to compact."""
        if self._tidying:
            if os.waitpid(self._tidying, os.WNOHANG)[0]:
                self._tidying = 0
            return
        every = self.settings.log_compact_seconds
        if not every or time.monotonic() - self._tidied < every:
            return
        self._tidied = time.monotonic()
        if not self.settings.log_keep_days and not closed_segments(production_folder(self.pipeline, self.settings)):
            return
        self._tidying = self._fork(self._compact)

    def _compact(self) -> int:
        give_way(LEAST_PRIORITY)
        shadows = shadow_positions(self.pipeline, self.source, self.settings)
        done = compact_log(self.pipeline, self.settings, shadows)
        if done.segments or done.dropped_rows:
            logger.info("%s", done)
        return 0

    def _fork(self, work: Callable[[], int]) -> int:
        """Do some work in a process of its own, which ends with its parent; give its id."""
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        pid = os.fork()
        if pid:
            return pid
        code = FAILED
        try:
            die_with(parent)
            code = work()
        except BaseException:
            logger.exception("a process of the shadow scorer failed")
        finally:
            logging.shutdown()
            os._exit(code)

    def _signal(self, shadow: Shadow, number: int) -> None:
        if shadow.pid:
            os.kill(shadow.pid, number)

    def _end(self, shadow: Shadow) -> None:
        """Wait for a process that was asked to end; kill it when it does not."""
        deadline = time.monotonic() + GRACE_SECONDS
        while shadow.pid and os.waitpid(shadow.pid, os.WNOHANG)[0] == 0:
            if time.monotonic() > deadline:
                self._signal(shadow, signal.SIGKILL)
            time.sleep(0.02)
        shadow.pid = 0

    def _tell(self, state: str, *, always: bool = False) -> None:
        """Write the status of all shadows, at most once a second."""
        if not always and time.monotonic() - self._told < STATUS_SECONDS:
            return
        self._told = time.monotonic()
        shadows = {alias: self._describe(self._shadows[number]) for alias, number in self._aliases.items()}
        try:
            write_status(self.pipeline, self.settings, shadows, state=state, error=self._error)
        except OSError as error:
            logger.warning("the status of the shadows cannot be written: %s", error)

    def _describe(self, shadow: Shadow) -> dict[str, Any]:
        number = shadow.version.version
        about = read_shadow_status(self.pipeline, number, self.settings)
        if about.get("pid") != shadow.pid:  # it is loading, or dead
            totals = read_totals(shadow_folder(self.pipeline, number, self.settings))
            about = describe_shadow(number, totals, state="loading")
        error = shadow.error or about["error"]
        return {
            **about,
            "state": "failing" if error else about["state"],
            "error": error,
            "restarts": shadow.restarts,
            "memory_bytes": shadow.memory_bytes,
        }


def follow(
    scorer: VersionScorer, stop: threading.Event, tell: Callable[[dict[str, Any]], None], *, once: bool = False
) -> int:
    """Score until told to stop, or with ``once`` until nothing is left; give the rows scored."""
    rows, told = 0, 0.0
    try:
        while not stop.is_set():
            scored = scorer.step()
            rows += scored
            if time.monotonic() - told >= STATUS_SECONDS:
                told = time.monotonic()
                _try(tell, scorer.describe("scoring" if scored else "waiting"))
            if once and not scored:
                break
            # nothing is left: what comes meanwhile is one batch, which costs production far less than many small ones
            if not once and scored < scorer.unit:
                stop.wait(WAIT_SECONDS)
    except StoppedError:
        logger.info("stopped in the middle of a batch, which will be scored again")
    _try(tell, scorer.describe("stopped"))
    return rows


def _try(tell: Callable[[dict[str, Any]], None], about: dict[str, Any]) -> None:
    try:
        tell(about)
    except OSError as error:  # a full disk
        logger.warning("the status of a shadow cannot be written: %s", error)


def _bound_memory(megabytes: int) -> None:
    """Let this process map only so much more than it has, so that most models that eat memory get a MemoryError."""
    present = psutil.Process().memory_info().vms
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = present + (megabytes << 20)
    resource.setrlimit(resource.RLIMIT_AS, (wanted if hard < 0 else min(wanted, hard), hard))
