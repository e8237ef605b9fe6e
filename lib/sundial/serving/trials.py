"""Can this candidate be served? A fresh server process loads it and answers real requests, before any alias moves."""

from __future__ import annotations

import argparse
import http.client
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlparse

import msgspec
import numpy as np
import pandas as pd
from pydantic import SecretStr

from sundial.errors import ServabilityError, SundialError
from sundial.release.models import LARGEST_DIFFERENCE, ServableModel, load_servable
from sundial.release.pointer import RollbackOrder
from sundial.serving.process import die_with
from sundial.settings import Settings, load_settings

ROWS = 200
START_SECONDS = 60.0
ANSWER_SECONDS = 30.0
ALONE = "'python -m sundial.serving.trials --help' starts it alone"
LOGGED, CHECKED = "logged requests", "the model's check rows"


@dataclass(frozen=True)
class TrialResult:
    """What a trial showed.

    Attributes
    ----------
    rows : int
        Requests that were answered, of one row each.
    source : str
        Where they came from.
    median_ms, p95_ms : float
        Milliseconds from request to answer, one request at a time.
    budget_ms : float
        What the 95th percentile may be.
    largest_difference : float
        Between an answer and the model's own score of the same row.
    seconds : float
        How long the trial took, with the start of the server.
    """

    rows: int
    source: str
    median_ms: float
    p95_ms: float
    budget_ms: float
    largest_difference: float
    seconds: float


class Trial:
    """A server process for one candidate; starts in the background, and ends with the block.

    Parameters
    ----------
    pipeline : str
        Name of the pipeline.
    folder : Path
        Made by `build_model_folder`.
    sha256 : str
        Of its model.
    settings : Settings, optional
        Where the prediction log is; read from the environment by default. The trial's own log is in a temporary folder.

    Examples
    --------
    >>> with Trial("payments", folder, sha256) as trial:  # doctest: +SKIP
    ...     result = trial.run(timedelta(milliseconds=250))
    """

    def __init__(self, pipeline: str, folder: Path, sha256: str, settings: Settings | None = None) -> None:
        self._pipeline = pipeline
        self._folder = folder
        self._sha256 = sha256
        self._settings = settings or load_settings()
        self._begun = time.monotonic()
        self._address = ""
        self._runs = 0
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> Trial:
        """Start the server, so that it loads while other things are done; it ends with this process."""
        self._scratch = Path(tempfile.mkdtemp(prefix="sundial-trial-"))
        command = [sys.executable, "-m", "sundial.serving.trials", "--pipeline", self._pipeline]
        command += ["--folder", str(self._folder), "--sha256", self._sha256]
        self._log = (self._scratch / "server.log").open("wb")
        self._process = subprocess.Popen(  # noqa: S603  our own program
            command,
            env={**os.environ, "SUNDIAL_ARTIFACTS": str(self._scratch)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            preexec_fn=partial(die_with, os.getpid()),
        )
        return self

    def __enter__(self) -> Trial:
        return self if self._process is not None else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._process
        assert process is not None  # noqa: S101  it was started
        assert process.stdout is not None  # noqa: S101  it was asked for
        process.kill()
        process.wait()
        process.stdout.close()
        self._log.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def run(self, budget: timedelta, rows: int = ROWS) -> TrialResult:
        """Send requests, and compare the answers with what the model says here.

        Parameters
        ----------
        budget : timedelta
            What 95 % of the requests must be answered within.
        rows : int
            Most requests to send.

        Returns
        -------
        TrialResult

        Raises
        ------
        ServabilityError
            When the server does not start or answer, is too slow, gives other scores, or sees other values; names the
            columns that differ.
        """
        model = load_servable(self._folder, expected_sha256=self._sha256)
        frame, source = self._requests(model, rows)
        address = self._wait_ready()
        self._runs += 1
        answers, timings = self._ask(address, frame[list(model.features)])
        expected = model.score(frame[list(model.features)])
        differences = np.abs(answers - expected)
        if not (differences <= LARGEST_DIFFERENCE).all():
            raise ServabilityError(
                f"{int((~(differences <= LARGEST_DIFFERENCE)).sum())} of {len(frame)} {source} are scored differently "
                f"when served, by up to {np.nanmax(differences):.3g}{self._name_skew(model, frame)}",
                hint="the model server and the notebooks must prepare features alike",
            )
        p95 = float(np.quantile(timings, 0.95))
        budget_ms = budget / timedelta(milliseconds=1)
        if p95 > budget_ms:
            raise ServabilityError(
                f"the candidate takes {p95:.0f} ms for 95 % of {len(frame)} single requests, and {budget_ms:.0f} ms is "
                "the budget",
                hint="make the model smaller, or raise serving.latency_budget in pipeline.yaml",
            )
        return TrialResult(
            rows=len(frame),
            source=source,
            median_ms=float(np.median(timings)),
            p95_ms=p95,
            budget_ms=budget_ms,
            largest_difference=float(differences.max()),
            seconds=time.monotonic() - self._begun,
        )

    def _requests(self, model: ServableModel, rows: int) -> tuple[pd.DataFrame, str]:
        """Take the newest logged requests that have all the model's features; without any, its check rows."""
        from sundial.serving.stores import read_recent

        logged = read_recent(self._pipeline, rows, self._settings)
        if len(logged) and set(model.features) <= set(logged.columns):
            return logged.reset_index(drop=True), LOGGED
        frame, _ = model.check_rows()
        return model.prepare(frame), CHECKED

    def _wait_ready(self) -> str:
        """Wait until the server has loaded the candidate; give its address."""
        assert self._process is not None  # noqa: S101  it was started
        assert self._process.stdout is not None  # noqa: S101  it was asked for
        if not self._address:
            line = self._process.stdout.readline().strip()  # ends, too, when the process does
            self._address = line.rpartition(" ")[2]
        deadline = time.monotonic() + START_SECONDS
        while self._address and self._process.poll() is None and time.monotonic() < deadline:
            status, _ = self._get("/ping")
            if status == http.client.OK:
                return self._address
            status, found = self._get("/health")
            why = msgspec.json.decode(found)["production"]["error"] if found else ""
            if why:
                raise ServabilityError(f"a fresh model server cannot load the candidate: {why}", hint=ALONE)
            time.sleep(0.02)
        self._log.flush()
        said = (self._scratch / "server.log").read_text(errors="replace").strip().splitlines()
        raise ServabilityError(
            "a fresh model server cannot load the candidate" + (f": {said[-1]}" if said else ""),
            hint=ALONE,
        )

    def _get(self, path: str) -> tuple[int, bytes]:
        """Ask the server; 0 and nothing when it does not answer."""
        connection = _connect(self._address)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            return 0, b""
        finally:
            connection.close()

    def _ask(self, address: str, frame: pd.DataFrame) -> tuple[Any, Any]:
        """Send each row as a request of its own; give scores and milliseconds."""
        values = frame.astype(object).where(frame.notna(), None).to_dict("records")
        connection, scores, timings = _connect(address), [], []
        try:
            for number, row in enumerate(values):
                document = {"dataframe_records": [row], "request_ids": [f"{self._runs}-{number}"]}
                body = msgspec.json.encode(document, enc_hook=_encode)
                begun = time.perf_counter()
                connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                found = answer.read()
                timings.append(1000 * (time.perf_counter() - begun))
                if answer.status != http.client.OK:
                    raise ServabilityError(
                        f"the candidate does not answer a request that production answered: {found.decode()[:300]}",
                        hint="callers send what production takes; a feature that they do not send cannot be asked for",
                    )
                scores.append(msgspec.json.decode(found)["predictions"][0])
        except (OSError, http.client.HTTPException) as error:
            raise ServabilityError(f"the model server died of request {len(scores) + 1}: {error!r}") from error
        finally:
            connection.close()
        return np.array(scores, np.float64), np.array(timings)

    def _name_skew(self, model: ServableModel, frame: pd.DataFrame) -> str:
        """Name the columns whose values the server saw otherwise than they are here, from the log it wrote."""
        from sundial.serving.predictions import read_log

        scratch = {"artifacts": self._scratch, "predictions_url": None}
        seen = read_log(self._pipeline, settings=self._settings.model_copy(update=scratch))
        seen = seen.set_index("request_id").reindex([f"{self._runs}-{number}" for number in range(len(frame))])
        odd = []
        for name in model.features:
            ours, theirs = frame[name], seen[name]
            same = (ours.isna().to_numpy() & theirs.isna().to_numpy()) | (ours.to_numpy() == theirs.to_numpy())
            if not same.all():
                odd.append(f"{name} ({int((~same).sum())} rows)")
        return (
            f"; columns that arrive with other values: {', '.join(odd)}" if odd else "; every column arrives as it is"
        )


def _encode(value: Any) -> Any:
    """Write what JSON has no type for as callers do: times without an offset, numbers of numpy as numbers."""
    return value.isoformat() if isinstance(value, pd.Timestamp) else value.item()


def _connect(address: str) -> http.client.HTTPConnection:
    parts = urlparse(address)
    return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=ANSWER_SECONDS)


@dataclass(frozen=True)
class _Candidate:
    """The only version that a trial's server knows."""

    version: int = 1
    tags: Mapping[str, str] = field(default_factory=dict)


class CandidateSource:
    """Gives one servable folder as what is in production.

    Parameters
    ----------
    folder : Path
        Made by `build_model_folder`.
    sha256 : str
        Of its model.
    """

    def __init__(self, folder: Path, sha256: str) -> None:
        self._folder = folder
        self._sha256 = sha256

    def alias(self, name: str) -> _Candidate | None:
        """Say what an alias points to: production to the candidate."""
        return _Candidate() if name == "production" else None

    def shadows(self) -> Mapping[str, _Candidate]:
        """Say that there is no shadow."""
        return {}

    def version(self, number: int) -> _Candidate:
        """Give the candidate."""
        return _Candidate(number)

    def load(self, _: Any) -> ServableModel:
        """Load the candidate."""
        return load_servable(self._folder, expected_sha256=self._sha256, version=1)

    def previous(self) -> None:
        """Say that there is nothing to go back to."""

    def record(self, order: RollbackOrder) -> None:
        """Record nothing."""

    def remember(self, fields: Mapping[str, Any]) -> _Candidate:
        """Remember the candidate."""
        return _Candidate()

    def features(self, _: Any) -> Mapping[str, str]:
        """Read no further features."""
        return {}


def main(argv: Sequence[str] | None = None) -> int:
    """Serve one candidate on a free port, until told to stop."""
    from sundial.serving.server import serve

    parser = argparse.ArgumentParser(prog="python -m sundial.serving.trials", description=main.__doc__)
    parser.add_argument("--pipeline", required=True, help="name of the pipeline")
    parser.add_argument("--folder", required=True, type=Path, help="the servable folder")
    parser.add_argument("--sha256", required=True, help="of its model.skops")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        # on its own: one process, for whoever started it, and a log of files
        alone = {"predictions_url": None, "token": SecretStr(""), "serve_workers": 1, "log_failure": "refuse"}
        settings = load_settings().model_copy(update=alone)
        serve(arguments.pipeline, settings, port=0, source=CandidateSource(arguments.folder, arguments.sha256))
    except SundialError as error:
        print(f"sundial: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
