"""Promotion with its rollback rehearsed: a way back that was never walked is a hope.

The alias moves to the candidate, back to the version before, and to the candidate again, each time until the model
server answers with it. What the version before answers after the way back must be, byte for byte, what it answered
before. Only then the promotion counts; at any failure the version before is put back for good.

It happens on the model server that answers callers, or, where none runs, on a fresh one that is started for it. Callers
are answered all the time, for two or three seconds by one version or the other. The sample requests are the check rows
of the models; their event time is 1970, so that no window of data holds them.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec

from sundial.errors import RegistryError, RehearsalError, ServiceError, SundialError
from sundial.operations.services import Service, answers, free_port
from sundial.operations.status import read_health
from sundial.pipeline import find_serve_url
from sundial.release.history import PROMOTION, REHEARSAL, RESTORED, Move
from sundial.release.models import ServableModel
from sundial.release.registry import Registry
from sundial.settings import FILES, Settings

# How long the server may take to answer with another version: it looks at the alias twice a second, and loads. Patient,
# since giving up means no promotion: a fresh server on a busy machine takes half a minute to import what it needs.
SWITCH_SECONDS = 90.0
REQUEST_SECONDS = 30.0
PREFIX = "rehearsal-"
EVENT_TIME = "1970-01-01T00:00:00"
SCORE_TOLERANCE = 1e-9  # JSON carries a float64 whole; what differs more was scored by something else
BY = "11_promote_model"


@dataclass
class Rehearsal:
    """What was walked.

    Attributes
    ----------
    server : str
        ``running`` or ``fresh``; empty when nothing was rehearsed.
    version, previous : int or None
        Where to, and back to.
    steps : list of dict
        ``step``, ``version``, ``requests`` answered, ``seconds``.
    said : str
        One sentence for the record.
    """

    server: str
    version: int
    previous: int | None
    steps: list[dict[str, Any]] = field(default_factory=list)
    said: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Give it as JSON takes it."""
        return asdict(self)


def promote(
    pipeline: str,
    version: int,
    *,
    by: str,
    reason: str,
    evidence: str,
    as_of: str,
    settings: Settings,
) -> tuple[Move, Rehearsal]:
    """Put a version into production, and rehearse the way back; done again it changes nothing.

    Parameters
    ----------
    pipeline : str
        Name of the model.
    version : int
        The candidate's.
    by, reason, evidence, as_of : str
        For the record; see :meth:`Registry.set_alias`.
    settings : Settings
        Where registry and model server are.

    Returns
    -------
    tuple of Move and Rehearsal
        The move that made it production, and what was rehearsed.

    Raises
    ------
    RehearsalError
        When the way back failed, or the candidate does not answer as it should; production is what it was.
    RegistryError
        When the version was in production before and another took its place, or the registry cannot be written.
    """
    registry = Registry(settings)
    before = registry.alias(pipeline, "production")
    history = registry.history(pipeline)
    if (
        before is not None
        and before.version != version
        and history[-1].kind not in (REHEARSAL, RESTORED)  # a rehearsal that was cut short, or failed, may go on
        and version in [move.version for move in history]
    ):
        raise RegistryError(
            f"{pipeline} version {version} was in production before, and version {before.version} took its place",
            hint="to bring an earlier version back, use 'sundial rollback'",
        )
    previous = registry.previous_production(pipeline) if before and before.version == version else before
    signature = {"by": by, "reason": reason, "evidence": evidence, "as_of": as_of, "kind": PROMOTION}
    rehearsal = Rehearsal("", version, previous.version if previous else None)
    with (
        _open_server(pipeline, settings) as (url, rehearsal.server),
        closing(_Caller(url, rehearsal, settings.token_headers)) as caller,
    ):
        told: list[bytes] | None = None
        old = registry.load(pipeline, previous.version) if previous else None
        new = registry.load(pipeline, version)
        try:
            if old is not None and before is not None and before.version != version:
                told = caller.ask(old, previous.version if previous else 0, "before")
            move = registry.set_alias(pipeline, "production", version, **signature)
            first = caller.ask(new, version, "candidate answers")
            if old is None or previous is None:
                rehearsal.said = f"version {version} is the first in production: there is nothing to go back to"
                return move, rehearsal
            why = {"by": BY, "as_of": as_of, "kind": REHEARSAL}
            registry.set_alias(pipeline, "production", previous.version, reason="rehearsal: the way back", **why)
            again = caller.ask(old, previous.version, "switched back")
            _check_same(again, told or again, f"version {previous.version} after the way back")
            registry.set_alias(pipeline, "production", version, reason="rehearsal: forward again", **why)
            _check_same(caller.ask(new, version, "switched forward"), first, f"version {version} after the rehearsal")
        except SundialError as error:
            raise _restore(registry, pipeline, version, rehearsal.previous, error) from error
        except BaseException as error:  # stopped half way: production is not left half way
            _restore(registry, pipeline, version, rehearsal.previous, error)
            raise
    seconds = sum(step["seconds"] for step in rehearsal.steps)
    rehearsal.said = (
        f"the way back to version {previous.version} was rehearsed on the {rehearsal.server} model server in "
        f"{seconds:.1f} s: {len(first)} sample requests, answered byte for byte as before"
    )
    return move, rehearsal


def _restore(
    registry: Registry, pipeline: str, version: int, previous: int | None, error: BaseException
) -> RehearsalError:
    """Leave production as it was, and say so."""
    cause = str(getattr(error, "message", "") or error or type(error).__name__)
    why = {"by": BY, "reason": f"the rehearsal of version {version} failed: {cause}"}
    registry.tag(pipeline, version, {"rehearsal": why["reason"]})
    if previous is None:
        registry.delete_alias(pipeline, "production", **why)
        now = "nothing is in production, as before"
    else:
        registry.set_alias(pipeline, "production", previous, kind=RESTORED, **why)
        now = f"version {previous} is in production, as before"
    return RehearsalError(
        f"{pipeline} version {version} was not promoted, since its rehearsal failed: {cause}; {now}",
        hint="see the model server's log; the flow run can be tried again, and the approval still holds",
    )


def _check_same(found: list[bytes], expected: list[bytes], what: str) -> None:
    """Compare answers byte by byte."""
    off = [index for index, (one, other) in enumerate(zip(found, expected, strict=True)) if one != other]
    if off:
        shown = f"{found[off[0]][:200].decode()} instead of {expected[off[0]][:200].decode()}"
        raise RehearsalError(f"{what} answers {len(off)} of {len(found)} sample requests differently, such as {shown}")


class _Caller:
    """Asks the model server the check rows of a model, each as a caller of its own."""

    def __init__(self, url: str, rehearsal: Rehearsal, headers: dict[str, str]) -> None:
        self.url = url
        self.rehearsal = rehearsal
        # one client, since making one costs more than a request; no connection is used twice, so that where several
        # processes answer any of them may be asked
        limits = httpx.Limits(max_keepalive_connections=0)
        self._client = httpx.Client(
            base_url=url, limits=limits, timeout=REQUEST_SECONDS, trust_env=False, headers=headers
        )

    def close(self) -> None:
        """Close what is open."""
        self._client.close()

    def ask(self, model: ServableModel, version: int, step: str) -> list[bytes]:
        """Wait until this version answers, and give its answers without the ids of the requests.

        Raises
        ------
        ServiceError
            When it does not answer in time, or not with 200.
        RehearsalError
            When its scores are not those of its check rows.
        """
        begun = time.monotonic()
        frame, scores = model.check_rows()
        rows = [{str(name): _plain(value) for name, value in row.items()} for row in frame.to_dict("records")]
        while True:
            found = self._ask_once(rows, step) if self._is_at(version) else []
            if found and all(_read_version(answer) == str(version) for answer in found):
                break
            if time.monotonic() - begun > SWITCH_SECONDS:
                raise ServiceError(
                    f"the model server does not answer with version {version} after {SWITCH_SECONDS:.0f} s: "
                    f"{self._excuse()}"
                )
            time.sleep(0.05)
        for answer, score in zip(found, scores, strict=True):
            given = msgspec.json.decode(answer)["predictions"][0]
            if not (given == score or abs(given - score) <= SCORE_TOLERANCE):
                raise RehearsalError(
                    f"version {version} scores a sample request {given!r}, which was {score!r} when it was made"
                )
        seconds = round(time.monotonic() - begun, 2)
        self.rehearsal.steps.append({"step": step, "version": version, "requests": len(found), "seconds": seconds})
        return found

    def _is_at(self, version: int) -> bool:
        """Tell whether every process behind the port answers with a version; one may still be loading the first."""
        try:
            health = self._client.get("/health").json()
        except (httpx.HTTPError, ValueError):
            return False
        workers = (health.get("workers") or {}).values()
        return {str(each.get("version")) for each in (health, *workers)} == {str(version)}

    def _excuse(self) -> str:
        """Say what the server answers with, and why if it knows."""
        try:
            health = self._client.get("/health").json()
        except (httpx.HTTPError, ValueError) as error:
            return f"it does not answer at all ({error!r})"
        return (health.get("production") or {}).get("error") or f"it answers with {health.get('version')}"

    def _ask_once(self, rows: list[dict[str, Any]], step: str) -> list[bytes]:
        """Send each row as a request of its own."""
        batch = f"{PREFIX}{step.replace(' ', '-')}-{uuid.uuid4().hex[:12]}"
        found = []
        for index, row in enumerate(rows):
            beside = {"request_ids": [f"{batch}-{index}"], "entities": [PREFIX], "event_times": [EVENT_TIME]}
            try:
                answer = self._client.post("/invocations", json={"dataframe_records": [row], "params": beside})
            except httpx.HTTPError as error:
                raise ServiceError(f"the model server did not answer a sample request: {error!r}") from error
            if answer.status_code != httpx.codes.OK:
                raise ServiceError(
                    f"the model server answers a sample request with {answer.status_code}: {answer.text[:300]}"
                )
            found.append(_without_ids(answer.content))
        return found


def _plain(value: Any) -> Any:
    """Write a missing value as JSON does."""
    return None if isinstance(value, float) and value != value else value


def _without_ids(body: bytes) -> bytes:
    """Cut the request ids, which differ by intent, out of an answer; the rest stays byte for byte."""
    parts = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    return b"{" + b",".join(b'"%s":%s' % (k.encode(), bytes(v)) for k, v in parts.items() if k != "request_ids") + b"}"


def _read_version(answer: bytes) -> str:
    return str(msgspec.json.decode(answer).get("model_version"))


@contextmanager
def _open_server(pipeline: str, settings: Settings) -> Iterator[tuple[str, str]]:
    """Give the address of the model server that answers callers, or of a fresh one that lives as long as the block."""
    running = find_serve_url(pipeline, settings)
    if read_health(settings, running).get("pipeline") == pipeline:
        yield running, "running"
        return
    port = free_port(settings.host)
    with tempfile.TemporaryDirectory(prefix="sundial-rehearsal-") as folder:
        url = f"http://{settings.host}:{port}"
        log = Path(folder) / "model-server.log"
        service = Service(
            "model server of the rehearsal",
            [sys.executable, "-m", "sundial", "serve", "--pipeline", pipeline, "--port", str(port)],
            log,
            lambda: answers(f"{url}/health"),
            # a log of its own: what is asked here is nobody's traffic
            environment={
                "SUNDIAL_ROOT": str(settings.root),
                "SUNDIAL_NOTEBOOKS": str(settings.notebooks),
                "SUNDIAL_ARTIFACTS": folder,
                "SUNDIAL_PREDICTIONS_URL": FILES,
                "MLFLOW_TRACKING_URI": settings.tracking_uri,
                "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            },
        )
        try:
            service.start(settings.root)
            service.wait_ready()
            yield url, "fresh"
        finally:
            service.stop()
