"""Watches production after a promotion, and puts the version before back when a bound is broken."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import httpx
import pandas as pd

from sundial.errors import RegistryError, ServiceError
from sundial.formats import read_json, write_json_atomically
from sundial.monitoring.watch import FILE, Finding, Forecast, Seen, judge_watch, read_forecast
from sundial.operations.rehearsal import PREFIX
from sundial.operations.rollback import roll_back
from sundial.pipeline import Pipeline
from sundial.release.models import ServableModel
from sundial.release.registry import Registry
from sundial.runs import Run, now
from sundial.serving.positions import Position
from sundial.serving.predictions import production_folder
from sundial.serving.records import decode_batch, to_table
from sundial.serving.tailing import LogTail
from sundial.settings import Settings, load_settings

BY = "the watch"
# Looks in a row that find no model server.
MOST_SILENT = 3
READ_ROWS = 5_000


@dataclass
class Watched:
    """How a watch stands, or has ended.

    Attributes
    ----------
    state : str
        ``watching``, ``passed``, ``rolled back``, ``alarm`` (a bound is broken, and nothing was or could be put back)
        or ``superseded`` (another version is in production).
    version : int
        The version that is watched.
    said : str
        One sentence.
    looks : int
        How often it was looked at.
    findings : list of dict
        The last look.
    at : str
        When that was, in UTC.
    """

    state: Literal["watching", "passed", "rolled back", "alarm", "superseded"]
    version: int
    said: str = ""
    looks: int = 0
    findings: list[dict[str, Any]] = field(default_factory=list)
    at: str = ""

    @property
    def is_broken(self) -> bool:
        """Whether a bound is broken."""
        return self.state in ("rolled back", "alarm")


class Watcher:
    """Reads what production answers, as it is logged.

    Parameters
    ----------
    run : Run
        Whose model was promoted.
    pipeline : Pipeline
        With its bounds.
    settings : Settings
        Where log, registry and model server are.
    """

    def __init__(self, run: Run, pipeline: Pipeline, settings: Settings) -> None:
        promotion = read_json(run.verify_output("11_promote_model", "promotion"))
        self.run = run
        self.pipeline = pipeline
        self.settings = settings
        self.address = pipeline.serve_url(settings)
        self.registry = Registry(settings)
        self.version = int(promotion["version"])
        self.promoted_at = datetime.fromisoformat(promotion["promoted_at"])
        self.seen = Seen()
        self.forecast: Forecast | None = read_forecast(run)
        self.before: ServableModel | None = None
        if promotion.get("previous") is not None and self.forecast is not None:
            self.before = self.registry.load(pipeline.name, int(promotion["previous"]))
        self.silent = 0
        folder = production_folder(pipeline.name, settings)
        self._tail = LogTail(folder, Position.parse(promotion.get("log_from", "")))
        self._counted: tuple[int, int] | None = None

    def look(self) -> None:
        """Read what was answered since the last look."""
        self._read_log()
        self._read_metrics()

    def _read_log(self) -> None:
        after = self.promoted_at.timestamp() * 1e9
        while (piece := self._tail.read(READ_ROWS)) is not None:
            batches = [(piece.key(frame), decode_batch(frame)) for frame in piece.frames]
            own = [(key, item) for key, item in batches if item.version == self.version and item.served_at >= after]
            if own:
                rows = to_table(piece.header, own)
                self._add(rows[~rows["request_id"].str.startswith(PREFIX)])

    def _add(self, rows: pd.DataFrame) -> None:
        if rows.empty:
            return
        self.seen.alerts += rows["decision"].tolist()
        self.seen.latencies += rows["latency_ms"].tolist()
        names = {name: f"{name}_feature" if f"{name}_feature" in rows else name for name in self._features()}
        if self.before is not None and set(names.values()) <= set(rows.columns):
            frame = rows[list(names.values())].set_axis(list(names), axis=1)
            scores = self.before.score(frame)
            alerts = self.before.decide(scores)
            self.seen.score_changes += (rows["score"].to_numpy() - scores).tolist()
            self.seen.alert_changes += (rows["decision"].to_numpy(dtype="float64") - alerts).tolist()
        self.seen.forget()

    def _features(self) -> list[str]:
        return list(self.before.features) if self.before is not None else []

    def _read_metrics(self) -> None:
        """Count requests and failures since the first look; a server that started anew counts from zero."""
        try:
            answer = httpx.get(
                f"{self.address}/metrics", timeout=5, trust_env=False, headers=self.settings.token_headers
            )
        except httpx.HTTPError:
            self.silent += 1
            return
        self.silent = 0
        requests, failed = _count_requests(answer.text)
        if self._counted is not None and requests >= self._counted[0]:
            self.seen.requests += requests - self._counted[0]
            self.seen.failed += max(failed - self._counted[1], 0)
        elif self._counted is not None:
            self.seen.requests += requests
            self.seen.failed += failed
        self._counted = (requests, failed)


def _count_requests(metrics: str) -> tuple[int, int]:
    """Read from Prometheus text how many requests came, and how many of them failed for a reason of ours."""
    requests = failed = 0
    for line in metrics.splitlines():
        if line.startswith("sundial_requests_total{"):
            status = line.partition('status="')[2][:1]
            count = int(float(line.rpartition(" ")[2]))
            requests += count
            failed += count * (status == "5")
    return requests, failed


def watch_production(
    run: Run,
    pipeline: Pipeline,
    settings: Settings | None = None,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> Watched:
    """Watch the promoted version for as long as the pipeline says, or until a bound is broken.

    It keeps no state but the log: started again after a crash it reads all since the promotion.

    Parameters
    ----------
    run : Run
        Whose model was promoted.
    pipeline : Pipeline
        With its bounds.
    settings : Settings, optional
        Read from the environment by default.
    sleep : callable
        Waits between two looks.

    Returns
    -------
    Watched
        How it ended; also in the run's ``watch.json``, where each look is written.
    """
    settings = settings or load_settings()
    bounds = pipeline.watch_bounds
    if bounds is None:
        raise RegistryError(f"{pipeline.name} has no watch_bounds", hint="add them to its pipeline.yaml")
    watcher = Watcher(run, pipeline, settings)
    watched = Watched("watching", watcher.version)
    until = watcher.promoted_at + bounds.lasts
    while True:
        present = watcher.registry.alias(pipeline.name, "production")
        if present is None or present.version != watcher.version:
            watched.state = "superseded"
            watched.said = f"version {watcher.version} is no longer in production: nothing to watch"
            return _write(run, watched)
        watcher.look()
        watched.looks += 1
        findings = judge_watch(watcher.seen, watcher.forecast, bounds, watched.looks)
        watched.findings = [item.as_dict() for item in findings]
        broken = [item for item in findings if item.broken]
        silent = watcher.silent >= MOST_SILENT
        if broken or silent:
            why = "; ".join(item.sentence for item in broken) or "the model server does not answer"
            return _write(run, _act(pipeline, watched, why, bounds.roll_back, settings))
        if datetime.now(UTC) >= until:
            watched.state = "passed"
            watched.said = _say(watched.version, watcher.seen, findings, "was watched to the end")
            return _write(run, watched)
        watched.said = _say(watched.version, watcher.seen, findings, "is watched")
        _write(run, watched)
        sleep(bounds.every.total_seconds())


def _act(pipeline: Pipeline, watched: Watched, why: str, may_roll_back: bool, settings: Settings) -> Watched:
    """Put the version before back, where that is allowed and possible, and say what was done."""
    watched.state = "alarm"
    if not may_roll_back:
        watched.said = f"version {watched.version} stays in production, as watch_bounds say, although {why}"
        return watched
    try:
        done = roll_back(pipeline.name, BY, why, settings)
    except (RegistryError, ServiceError) as error:  # the first version, or a server that does not obey
        watched.said = f"version {watched.version} stays in production, although {why}: {error.message}"
        return watched
    watched.state = "rolled back"
    watched.said = f"{done}, put back by the watch, since {why}"
    return watched


def _say(version: int, seen: Seen, findings: list[Finding], what: str) -> str:
    judged = f"{len(findings)} limits hold" if findings else "too few to judge yet"
    return f"version {version} {what}: {len(seen.alerts):,} answers, {seen.failed:,} failed requests, {judged}"


def _write(run: Run, watched: Watched) -> Watched:
    watched.at = now()
    write_json_atomically(run.folder / FILE, asdict(watched))
    return watched
