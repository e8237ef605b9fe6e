"""Whatever is sent to what the OpenAPI document describes: an answer that it describes, and never a server error.

``make fuzz`` sends 10,000 requests; ``FUZZ_REQUESTS`` sets another number.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as some
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

REQUESTS = int(os.environ.get("FUZZ_REQUESTS", "300"))
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


def page(server: Any, path: str) -> httpx.Response:
    """Read a page."""
    return httpx.get(f"{server.url}{path}", trust_env=False, timeout=10)


@pytest.fixture(scope="module")
def document(shared: Any) -> dict[str, Any]:
    """Give the server's own description of itself."""
    answer = page(shared, "/openapi.json")
    assert answer.status_code == 200
    return dict(answer.json())


def test_the_document_names_the_features(document: dict[str, Any]) -> None:
    """Each feature stands there with its type, and all are needed."""
    row = document["components"]["schemas"]["Row"]

    assert ["distance", "minute", "weekend", "carrier"] == row["required"]
    types = {name: row["properties"][name]["type"] for name in row["required"]}
    assert {"distance": ["number", "null"], "minute": "integer", "weekend": "boolean"} == {
        name: types[name] for name in ("distance", "minute", "weekend")
    }
    assert document["openapi"].startswith("3.1")


@pytest.mark.slow
@pytest.mark.timeout(60 + REQUESTS)
def test_no_request_is_a_server_error(shared: Any, document: dict[str, Any]) -> None:
    """Requests that fit the document and requests that nearly do are answered as it says; some fit, some do not."""
    api = schemathesis.openapi.from_dict(document)
    operation = api["/invocations"]["POST"]
    statuses: Counter[int] = Counter()
    with httpx.Client(base_url=shared.url, trust_env=False, timeout=10) as client:

        @settings(
            max_examples=REQUESTS,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(
            some.one_of(
                operation.as_strategy(generation_mode=GenerationMode.POSITIVE),
                operation.as_strategy(generation_mode=GenerationMode.NEGATIVE),
            )
        )
        def send(case: schemathesis.Case) -> None:
            sent = case.as_transport_kwargs(base_url=shared.url)
            answer = client.request(
                sent["method"],
                sent["url"],
                params=sent.get("params"),
                headers=dict(sent.get("headers") or {}),
                cookies=None,
                content=sent.get("data"),
                **({"json": sent["json"]} if "json" in sent else {}),
            )
            statuses[answer.status_code] += 1
            case.validate_response(answer, checks=CHECKS)

        send()
        alive = client.get("/health").json()

    print(f"{sum(statuses.values()):,} requests: {dict(sorted(statuses.items()))}")
    assert alive["status"] == "ok"
    assert statuses[200] > REQUESTS / 50
    assert statuses[422] + statuses[400] > REQUESTS / 50
    assert {*statuses} <= {200, 400, 405, 413, 415, 422}


@pytest.mark.parametrize("path", ["/ping", "/health", "/version", "/metrics"])
def test_pages_are_as_described(shared: Any, document: dict[str, Any], path: str) -> None:
    """Every page that the document names answers as it says."""
    case = schemathesis.openapi.from_dict(document)[path]["GET"].Case()

    case.validate_response(page(shared, path), checks=CHECKS)
