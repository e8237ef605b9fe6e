"""Sundial, its peers and the empty app, each in an environment of its own, on one model at a time.

Every server has one process that answers and one thread for numbers; batching servers batch up to 64 rows and wait 2 ms
where they have such a setting. A peer whose environment cannot be made is reported, not left out in silence.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import psutil
from models import ROOT, BenchModel

APPS = Path(__file__).parent / "apps"
# one thread for numbers, as in Sundial: with their default peers are slower still
ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    "DO_NOT_TRACK": "1",
    "BENTOML_DO_NOT_TRACK": "True",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
}
PATIENCE = 120.0


@dataclass(frozen=True)
class Kind:
    """A kind of server.

    Attributes
    ----------
    name : str
        As in the table.
    needs : tuple of str
        Packages of its environment; empty for our own.
    command : callable
        Makes the command from the environment's folder, the model and a port.
    path : str
        What is asked.
    body : callable
        Makes the body of a request from a row.
    halts : bool
        Whether it can be halted while others are measured.
    """

    name: str
    needs: tuple[str, ...]
    command: Callable[[Path, BenchModel, int], list[str]]
    path: str
    body: Callable[[dict[str, Any]], Any]
    halts: bool = True


@dataclass
class Server:
    """A running server."""

    kind: Kind
    model: BenchModel
    url: str
    process: subprocess.Popen[bytes]
    log: Path
    bodies: list[bytes] = field(default_factory=list)

    def wait_ready(self) -> None:
        """Wait until it answers a request with 200.

        Raises
        ------
        RuntimeError
            When it ended, or does not.
        """
        deadline = time.monotonic() + PATIENCE
        status: Any = "nothing"
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                headers = {"content-type": "application/json"}
                url = f"{self.url}{self.kind.path}"
                answer = httpx.post(url, content=self.bodies[0], headers=headers, timeout=20, trust_env=False)
                if answer.status_code == 200:
                    return
                status = f"{answer.status_code}: {answer.text[:200]}"
            except httpx.TransportError:
                time.sleep(0.2)
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-4:])
        raise RuntimeError(f"{self.kind.name} does not answer (last: {status})\n{tail}")

    def send(self, number: int) -> None:
        """Send a signal to it and all that it started."""
        root = psutil.Process(self.process.pid)
        for member in [*root.children(recursive=True), root]:
            member.send_signal(number)

    def stop(self) -> None:
        """End it and all that it started."""
        if self.process.poll() is not None:
            return
        family = psutil.Process(self.process.pid).children(recursive=True)
        self.send(signal.SIGCONT)
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
        for member in family:
            if member.is_running():
                member.kill()


def start(kind: Kind, model: BenchModel, folder: Path) -> Server:
    """Start a server; :meth:`Server.wait_ready` says when it answers."""
    port = free_port()
    work = folder / "work" / f"{kind.name.replace(' ', '-')}-{model.name}".lower()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    log = work / "server.log"
    # OMP_WAIT_POLICY and friends of the caller are nobody's business here
    environment = {**os.environ, **ENVIRONMENT, "MODEL": str(model.folder / "model.joblib"), "WORK": str(work)}
    environment |= {"SUNDIAL_ARTIFACTS": str(work / "artifacts"), "PYTHONPATH": str(APPS), "HOME": str(work)}
    with log.open("wb") as output:
        command = kind.command(folder / "peers", model, port)
        process = subprocess.Popen(command, env=environment, cwd=work, stdout=output, stderr=output)
    bodies = [json.dumps(kind.body(row)).encode() for row in model.rows]
    return Server(kind, model, f"http://127.0.0.1:{port}", process, log, bodies)


def free_port() -> int:
    """Find a port that nobody uses."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def make_environment(kind: Kind, peers: Path) -> str:
    """Make the environment of a peer, or find it where an earlier run left it; say what went wrong, if anything did."""
    folder = peers / environment_of(kind)
    ready = folder / ".ready"
    if not kind.needs or ready.exists():
        return ""
    uv = [str(Path(sys.executable).parent / "uv")]
    # the same libraries as Sundial's, so that only the servers differ
    same = [f"{name}=={version(name)}" for name in ("scikit-learn", "numpy", "pandas", "joblib")]
    for command in (
        [*uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)],
        [*uv, "pip", "install", "--quiet", "--python", str(folder / "bin" / "python"), *same, *kind.needs],
    ):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        if done.returncode:
            return done.stderr.strip()[-400:]
    ready.touch()
    return ""


def environment_of(kind: Kind) -> str:
    """Name the folder of a peer's environment."""
    return kind.needs[0].partition("[")[0] if kind.needs else ""


def _sundial(_: Path, model: BenchModel, port: int) -> list[str]:
    script = str(ROOT / "tests" / "serving" / "processes.py")
    return ["env", f"SUNDIAL_SERVE_PORT={port}", sys.executable, script, "server-on-port", str(model.folder / "source")]


def _uvicorn(python: str, app: str, port: int) -> list[str]:
    options = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--no-server-header", "--no-proxy-headers"]
    return [python, "-m", "uvicorn", app, "--port", str(port), "--log-level", "warning", *options]


def _mlserver(peers: Path, model: BenchModel, port: int) -> list[str]:
    work = model.folder.parents[1] / "work" / f"mlserver-adaptive-{model.name}"
    batching = {"max_batch_size": 64, "max_batch_time": 0.002}
    implementation = {"name": "bench", "implementation": "mlserver_runtime.Bench", **batching}
    (work / "model-settings.json").write_text(json.dumps(implementation))
    ports = {"http_port": port, "grpc_port": free_port(), "metrics_port": free_port()}
    (work / "settings.json").write_text(json.dumps({**ports, "parallel_workers": 0, "debug": False}))
    return [str(peers / "mlserver" / "bin" / "mlserver"), "start", str(work)]


def _mlserver_body(row: dict[str, Any]) -> dict[str, Any]:
    # its protocol carries no missing number: -1 stands for it, which costs the same
    values = {name: -1.0 if value is None else value for name, value in row.items()}
    if all(isinstance(value, float) for value in values.values()):
        tensor = {"name": "rows", "shape": [1, len(values)], "datatype": "FP64", "data": list(values.values())}
        return {"inputs": [tensor]}
    kinds = {str: "BYTES", int: "INT64", float: "FP64"}
    inputs = []
    for name, value in values.items():
        more = {"parameters": {"content_type": "str"}} if isinstance(value, str) else {}
        inputs.append({"name": name, "shape": [1, 1], "datatype": kinds[type(value)], "data": [value], **more})
    return {"inputs": inputs}


def _mlflow(peers: Path, model: BenchModel, port: int) -> list[str]:
    home = peers / "mlflow" / "bin"
    saved = model.folder / "mlflow"
    if not (saved / "MLmodel").exists():
        shutil.rmtree(saved, ignore_errors=True)
        script = [str(home / "python"), str(APPS / "save_mlflow.py"), str(model.folder / "model.joblib"), str(saved)]
        subprocess.run(script, check=True, capture_output=True, env={**os.environ, **ENVIRONMENT})
    path = f"{home}:{os.environ['PATH']}"
    serve = ["models", "serve", "-m", str(saved), "--env-manager", "local", "-p", str(port), "-w", "1"]
    return ["env", f"PATH={path}", str(home / "mlflow"), *serve]


def _split(row: dict[str, Any]) -> dict[str, Any]:
    return {"dataframe_split": {"columns": list(row), "data": [list(row.values())]}}


KINDS = (
    Kind("Sundial", (), _sundial, "/invocations", lambda row: {"dataframe_records": [row]}),
    Kind("empty app", (), lambda _, __, port: _uvicorn(sys.executable, "hello:app", port), "/", lambda row: row),
    Kind(
        "naive FastAPI",
        ("fastapi", "uvicorn[standard]"),
        lambda peers, _, port: _uvicorn(str(peers / "fastapi" / "bin" / "python"), "naive:app", port),
        "/predict",
        lambda row: row,
    ),
    Kind("MLServer adaptive", ("mlserver",), _mlserver, "/v2/models/bench/infer", _mlserver_body),
    Kind(
        "BentoML batching",
        ("bentoml",),
        lambda peers, _, port: [
            *(str(peers / "bentoml" / "bin" / "python"), "-m", "bentoml", "serve", "bento:Bench"),
            *("--port", str(port), "--working-dir", str(APPS)),
        ],
        "/predict",
        lambda row: {"rows": [row]},
    ),
    Kind("MLflow's server", ("mlflow",), _mlflow, "/invocations", _split),
    Kind(
        "Ray Serve batching",
        ("ray[serve]",),
        lambda peers, _, port: [str(peers / "ray" / "bin" / "python"), str(APPS / "ray_app.py"), str(port)],
        "/",
        lambda row: row,
        halts=False,  # its parts take each other for dead
    ),
)
