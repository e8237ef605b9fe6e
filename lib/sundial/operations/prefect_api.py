"""The calls to Prefect's REST API that Sundial makes: the same that its UI makes, and nothing else.

It needs neither Prefect nor a profile of it, so that the command line starts at once and works from any machine.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from sundial.errors import ApprovalRefusedError, ServiceError
from sundial.operations.flow_runs import FINAL, OPEN, FlowRun, read_flow_run
from sundial.settings import Settings, load_settings

__all__ = ["FINAL", "OPEN", "FlowRun", "PrefectApi"]


class PrefectApi:
    """A client of Prefect's REST API.

    Parameters
    ----------
    url : str, optional
        Such as ``http://127.0.0.1:4200/api``; the settings' by default. ``PREFECT_API_AUTH_STRING`` and
        ``PREFECT_API_KEY`` are taken from the environment.
    settings : Settings, optional
        Read from the environment by default.
    """

    def __init__(self, url: str | None = None, *, settings: Settings | None = None) -> None:
        self.url = (url or (settings or load_settings()).prefect_api_url).rstrip("/")
        user, _, password = os.environ.get("PREFECT_API_AUTH_STRING", "").partition(":")
        key = os.environ.get("PREFECT_API_KEY", "")
        self._client = httpx.Client(
            base_url=self.url,
            auth=(user, password) if user else None,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=30,
            trust_env=False,  # a proxy of the environment has no way to a server on this machine
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def __enter__(self) -> PrefectApi:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def ui(self) -> str:
        """Address of the UI that belongs to the API."""
        return os.environ.get("PREFECT_UI_URL", self.url.removesuffix("/api")).rstrip("/")

    def link(self, flow_run: FlowRun | str) -> str:
        """Give the address of a flow run in the UI."""
        return f"{self.ui}/runs/flow-run/{flow_run if isinstance(flow_run, str) else flow_run.id}"

    def _call(self, method: str, path: str, *, json: Any = None, patience: float = 20) -> httpx.Response:
        """Call the API; a busy SQLite answers 503 and is asked again for a while."""
        deadline = time.monotonic() + patience
        pause = 0.2
        while True:
            try:
                answer = self._client.request(method, path, json=json)
            except httpx.HTTPError as error:
                raise ServiceError(
                    f"no Prefect server answers at {self.url}: {error or type(error).__name__}",
                    hint="start one with 'sundial up' (or 'make up'), or set PREFECT_API_URL",
                ) from error
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE or time.monotonic() > deadline:
                break
            time.sleep(pause)
            pause = min(2 * pause, 2.0)
        if answer.status_code in (401, 403):
            raise ServiceError(
                f"Prefect at {self.url} refuses us ({answer.status_code})", hint="set PREFECT_API_AUTH_STRING"
            )
        if answer.is_error and answer.status_code != httpx.codes.NOT_FOUND:
            raise ServiceError(f"Prefect answers {answer.status_code} to {method} {path}: {answer.text[:300]}")
        return answer

    def is_healthy(self) -> bool:
        """Tell whether the server answers."""
        try:
            return self._client.get("/health", timeout=5).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def find_deployment(self, flow: str, pipeline: str) -> dict[str, Any] | None:
        """Find a deployment; None when the worker has not registered it."""
        answer = self._call("GET", f"/deployments/name/{flow}/{pipeline}")
        return None if answer.status_code == httpx.codes.NOT_FOUND else dict(answer.json())

    def start(
        self,
        flow: str,
        pipeline: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        run: str = "",
        name: str = "",
        at: datetime | None = None,
        key: str = "",
    ) -> FlowRun:
        """Start a flow, now or later.

        Parameters
        ----------
        flow, pipeline : str
            Name of the flow, and of the pipeline, which is the name of the deployment.
        parameters : mapping, optional
            For the flow.
        run : str
            Name of the run it will work on; becomes a tag.
        name : str
            Name of the flow run; Prefect makes one up by default.
        at : datetime, optional
            When; at once by default.
        key : str
            A second start with the same key is the first.

        Returns
        -------
        FlowRun

        Raises
        ------
        ServiceError
            When the server is not there, or has no such deployment.
        """
        deployment = self.find_deployment(flow, pipeline)
        if deployment is None:
            raise ServiceError(
                f"Prefect at {self.url} has no deployment {flow}/{pipeline}",
                hint="start the worker with 'sundial up', which registers them",
            )
        tags = [f"flow:{flow}", f"pipeline:{pipeline}"] + ([f"run:{run}"] if run else [])
        body: dict[str, Any] = {
            "parameters": dict(parameters or {}),
            "tags": tags,
            "state": {
                "type": "SCHEDULED",
                "state_details": {"scheduled_time": (at or datetime.now(UTC)).isoformat()},
            },
        }
        if name:
            body["name"] = name
        if key:
            body["idempotency_key"] = key
        return read_flow_run(self._call("POST", f"/deployments/{deployment['id']}/create_flow_run", json=body).json())

    def read(self, flow_run: FlowRun | str) -> FlowRun:
        """Read a flow run as it is now.

        Raises
        ------
        ServiceError
            When there is none of that id.
        """
        identity = flow_run if isinstance(flow_run, str) else flow_run.id
        answer = self._call("GET", f"/flow_runs/{identity}")
        if answer.status_code == httpx.codes.NOT_FOUND:
            raise ServiceError(f"Prefect has no flow run {identity}")
        return read_flow_run(answer.json())

    def find(
        self,
        pipeline: str,
        *,
        flow: str = "",
        run: str = "",
        states: Iterable[str] = (),
        limit: int = 50,
    ) -> list[FlowRun]:
        """Find flow runs of a pipeline, newest first.

        Parameters
        ----------
        pipeline : str
            Name of the pipeline.
        flow, run : str
            Only of this flow, or that work on this run.
        states : iterable of str
            Only in these types of state.
        limit : int
            No more than this many.

        Returns
        -------
        list of FlowRun
        """
        deployments = {"name": {"any_": [pipeline]}}
        filters: dict[str, Any] = {}
        if run:
            filters["tags"] = {"all_": [f"run:{run}"]}
        if states:
            filters["state"] = {"type": {"any_": list(states)}}
        body = {"sort": "EXPECTED_START_TIME_DESC", "limit": limit, "deployments": deployments, "flow_runs": filters}
        if flow:
            body["flows"] = {"name": {"any_": [flow]}}
        return [read_flow_run(item) for item in self._call("POST", "/flow_runs/filter", json=body).json()]

    def questions(self, pipeline: str) -> list[FlowRun]:
        """List the flow runs that wait for a person, newest first."""
        return [item for item in self.find(pipeline, states=["PAUSED"]) if item.waits_for_person]

    def form(self, flow_run: FlowRun) -> tuple[str, dict[str, Any]]:
        """Read the question of a suspended run.

        Returns
        -------
        tuple of str and dict
            What it shows, as Markdown, and the JSON schema of the answer.
        """
        flow_run = self.read(flow_run)
        if not flow_run.waits_for_person:
            raise ApprovalRefusedError(f"{flow_run.name} asks nothing: it is {flow_run.state_name}")
        shown = ""
        if "description" in flow_run.keys:
            shown = self._call("GET", f"/flow_runs/{flow_run.id}/input/{flow_run.keys['description']}").json()
        schema = self._call("GET", f"/flow_runs/{flow_run.id}/input/{flow_run.keys['schema']}").json()
        return str(shown or ""), dict(schema)

    def answer(self, flow_run: FlowRun | str, answer: Mapping[str, Any]) -> FlowRun:
        """Answer a question: what the Resume button of the UI sends.

        Raises
        ------
        ApprovalRefusedError
            When Prefect does not accept the answer, or the run asks nothing any more; it stays as it was.
        """
        identity = flow_run if isinstance(flow_run, str) else flow_run.id
        result = self._call("POST", f"/flow_runs/{identity}/resume", json={"run_input": dict(answer)}).json()
        if result.get("status") != "ACCEPT":
            reason = (result.get("details") or {}).get("reason") or result.get("status")
            raise ApprovalRefusedError(f"the answer was not accepted: {reason}", hint="nothing has changed; ask again")
        return self.read(identity)

    def wait_for_refusal(self, flow_run: FlowRun, *, patience: timedelta = timedelta(seconds=45)) -> str:
        """Wait until an answer was taken, or did not count.

        Parameters
        ----------
        flow_run : FlowRun
            As it was when it asked, before it was answered.
        patience : timedelta
            How long; the worker looks for work every few seconds, and a flow starts in some.

        Returns
        -------
        str
            Why the answer did not count; empty when it did, or when nothing is known after `patience`.

        Raises
        ------
        ApprovalRefusedError
            When no answer counts any more.
        """
        deadline = time.monotonic() + patience.total_seconds()
        while time.monotonic() < deadline:
            found = self.read(flow_run)
            if found.state == "FAILED":
                raise ApprovalRefusedError(f"{found.name} ended: {found.message}", hint=f"see {self.link(found)}")
            if found.is_final or (found.state == "RUNNING" and self._has_begun_a_stage(found)):
                return ""
            if found.waits_for_person and found.keys != flow_run.keys and self._form_is_there(found):
                shown, _ = self.form(found)
                return shown.partition("\n\n")[0].replace("**", "")
            time.sleep(0.5)
        return ""

    def _has_begun_a_stage(self, flow_run: FlowRun) -> bool:
        body = {"flow_runs": {"id": {"any_": [flow_run.id]}}, "limit": 1}
        return bool(self._call("POST", "/task_runs/filter", json=body).json())

    def set_state(self, flow_run: FlowRun, state: str, *, name: str = "", message: str = "") -> None:
        """Put a flow run into a state, whatever it was in.

        Parameters
        ----------
        flow_run : FlowRun
            Which.
        state : str
            ``SCHEDULED`` lets it start now; ``CANCELLED`` ends it.
        name, message : str
            What people see.
        """
        details = {"scheduled_time": datetime.now(UTC).isoformat()} if state == "SCHEDULED" else {}
        body = {"type": state, "message": message, "state_details": details} | ({"name": name} if name else {})
        self._call("POST", f"/flow_runs/{flow_run.id}/set_state", json={"state": body, "force": True})

    def wait(
        self,
        flow_run: FlowRun | str,
        *,
        timeout: timedelta,
        until: Iterable[str] = (*FINAL, "PAUSED"),
        poll: float = 0.5,
    ) -> FlowRun:
        """Wait until a flow run has ended, or asks a person.

        Raises
        ------
        ServiceError
            When it takes longer than ``timeout``.
        """
        states = tuple(until)
        deadline = time.monotonic() + timeout.total_seconds()
        while True:
            found = self.read(flow_run)
            # a suspended run has its form only a moment after its state
            if found.state in states and (found.state != "PAUSED" or self._form_is_there(found)):
                return found
            if time.monotonic() > deadline:
                raise ServiceError(
                    f"{found.name} is still {found.state_name} after {timeout}", hint=f"see {self.link(found)}"
                )
            time.sleep(poll)

    def _form_is_there(self, flow_run: FlowRun) -> bool:
        if not flow_run.keys:
            return True
        key = flow_run.keys["schema"]
        return self._call("GET", f"/flow_runs/{flow_run.id}/input/{key}").status_code == httpx.codes.OK
